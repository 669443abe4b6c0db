"""Any image that no checkpoint is for. Only its grey values count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsyn_cli.anatomy.organs import Images, Look, Organ

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.size import Extents


class Anything(Organ):
    """Lengths follow from its size and its voxels, whatever it shows."""

    prepared_as = "anything, brains without bias"

    def prepare(self, image: sitk.Image, look: Look) -> sitk.Image:
        """A skull-stripped brain of any contrast without its bias field; else unchanged."""
        from hsyn_cli.anatomy.organs.brain import ORGAN as BRAIN

        return BRAIN.prepare(image, look)

    def unit(self, extents: Extents) -> float:
        from hsyn_cli.anatomy.size import unit_of

        return unit_of(extents)

    def voxel(self, images: Images, extents: Extents) -> float | None:
        from hsyn_cli.anatomy.size import working_voxel

        return working_voxel(images, extents)


ORGAN = Anything()
