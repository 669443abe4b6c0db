"""Any other image: no checkpoint is for it, and only its grey values count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsyn_cli.anatomy.organs import Images, Organ

if TYPE_CHECKING:
    from hsyn_cli.anatomy.size import Extents


class Anything(Organ):
    """Lengths follow from its size and its voxels, whatever it shows."""

    def unit(self, extents: Extents) -> float:
        from hsyn_cli.anatomy.size import unit_of

        return unit_of(extents)

    def voxel(self, images: Images, extents: Extents) -> float | None:
        from hsyn_cli.anatomy.size import working_voxel

        return working_voxel(images, extents)


ORGAN = Anything()
