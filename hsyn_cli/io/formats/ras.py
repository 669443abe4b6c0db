"""Vectors and plain matrices in mm, RAS, as nibabel's world has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.io.endings import HDF5, TRANSFORMS, ends
from hsyn_cli.io.formats import Form

if TYPE_CHECKING:
    from hsyn_cli.io.headers import Header
    from hsyn_cli.space import Array, Grid


class Ras(Form):
    """What NIfTI calls a displacement vector, and four lines of four numbers."""

    about = "mm, RAS: NIfTI intent 1006; affines as 4 x 4 text, fixed to moving (greedy)"
    affine_endings = (".txt", ".mat")
    intent = 1006  # headers.INTENT_DISPLACEMENT

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "ras")

    def claims(self, path: Path, header: Header | None) -> bool:
        """Also a plain matrix; in .mat it may be greedy's, or FLIRT's."""
        from hsyn_cli.io.formats import _affines

        if ends(path, TRANSFORMS) and not ends(path, HDF5):
            return _affines.matrix_in(path) is not None
        return super().claims(path, header)


FORM = Ras()
