"""SPM's deformations: for each voxel of the fixed image, where it lies in the moving one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsyn_cli.io.formats import Form

if TYPE_CHECKING:
    from hsyn_cli.space import Array, Grid


class Spm(Form):
    """Absolute positions, mm RAS, (X, Y, Z, 1, 3); the intent is 1007 and its name "Mapping"."""

    about = "absolute positions, mm, RAS: NIfTI intent 1007 named Mapping (SPM's y_ files)"
    intent_name = "Mapping"  # fields_said.SPM
    absolute = True

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "ras")


FORM = Spm()
