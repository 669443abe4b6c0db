"""Any image that no checkpoint is for. Only its grey values count."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from hsyn_cli.anatomy.organs import Images, Look, Organ

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.size import Extents


class Anything(Organ):
    """Lengths follow from its size and its voxels, whatever it shows."""

    prepared_as = "anything, brains and heads without bias"

    def part(self, image: sitk.Image, look: Look) -> sitk.Image:
        from hsyn_cli.anatomy.organs.brain import ORGAN as BRAIN

        return BRAIN.part(image, look)

    def prepare(
        self, image: sitk.Image, look: Look, lesion: sitk.Image | None = None
    ) -> sitk.Image:
        """A brain or head of any contrast without its bias field; else unchanged.

        On coarse voxels, which show several tissues each, anatomy would pass for a bias field.
        """
        from hsyn_cli.anatomy.organs.brain import COARSE_MM
        from hsyn_cli.anatomy.organs.brain import ORGAN as BRAIN

        coarse = math.prod(image.GetSpacing()) >= COARSE_MM**3
        return BRAIN.part(image, look) if coarse else BRAIN.prepare(image, look, lesion)

    def middle(self, image: sitk.Image, look: Look) -> sitk.Image | None:
        from hsyn_cli.anatomy.organs.brain import ORGAN as BRAIN

        return BRAIN.middle(image, look)

    def unit(self, extents: Extents, kinds: Collection[str] = ()) -> float:
        from hsyn_cli.anatomy.organs.brain import HEAD
        from hsyn_cli.anatomy.size import unit_of

        return 1.0 if set(kinds) == {HEAD} else unit_of(extents)

    def voxel(self, images: Images, extents: Extents) -> float | None:
        from hsyn_cli.anatomy.size import working_voxel

        return working_voxel(images, extents)


ORGAN = Anything()
