"""FSL's form: displacements in the scaled voxels of FNIRT and FLIRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.errors import UsageError
from hsyn_cli.io.endings import ends
from hsyn_cli.io.formats import Form

if TYPE_CHECKING:
    from hsyn_cli.io.headers import Header
    from hsyn_cli.space import Array, Grid


class Fsl(Form):
    """FNIRT's warps, (X, Y, Z, 3), and FLIRT's matrices, from moving to fixed.

    hsyn writes relative warps. It reads absolute ones too, of convertwarp --absout, and tells them
    by their vectors, as FSL's own programs do.
    """

    about = "FNIRT's warps, intent 2006; affines as FLIRT's .mat"
    affine_endings = (".mat", ".txt")
    intent = 2006  # fields_said.INTENT_FSL
    stacked = True
    by_moving = True
    affine_to_fixed = True

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "fsl")

    def claims(self, path: Path, header: Header | None) -> bool:
        """Also a plain matrix in .mat."""
        from hsyn_cli.io.formats import _affines

        if ends(path, (".mat",)):
            return _affines.matrix_in(path) is not None
        return super().claims(path, header)

    def load_field(self, path: Path, named: bool) -> tuple[Array, Grid]:
        """Positions become displacements."""
        from hsyn_cli.io import fields_said
        from hsyn_cli.io.formats import _fields

        vectors, grid = super().load_field(path, named)
        if fields_said.follows(vectors, grid, self.coordinates(grid)):
            vectors = _fields.relative(vectors, grid, self.coordinates(grid))
        return vectors, grid

    def moving_grid(self, moving: Grid | None, fixed: Grid) -> Grid:
        """Raises UsageError without the moving image's grid."""
        if moving is None:
            raise UsageError(
                "an FSL warp depends on the moving image's grid", "give it: --moving IMAGE"
            )
        return moving

    def affine_grids(
        self, path: Path, fixed: Grid | None, moving: Grid | None
    ) -> tuple[Grid, Grid]:
        """Raises UsageError without both grids."""
        if fixed is None or moving is None:
            raise UsageError(
                f"a FLIRT matrix such as {path.name} depends on both images",
                "give them: --reference FIXED --moving MOVING",
            )
        return fixed, moving


FORM = Fsl()
