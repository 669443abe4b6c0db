"""Voxel displacements, from a fixed to a moving index, as networks give them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.errors import UsageError
from hsyn_cli.io.endings import NIFTI, NUMPY, ends
from hsyn_cli.io.formats import Form, Layout

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.space import Array, Grid


class Voxel(Form):
    """Arrays of numpy, (X, Y, Z, 3) or (3, X, Y, Z), and NIfTI (X, Y, Z, 3)."""

    about = (
        "from fixed to moving index: .npz, .npy, or NIfTI (X, Y, Z, 3) "
        "(VoxelMorph, TransMorph, Learn2Reg)"
    )
    field_endings = (*NUMPY, *NIFTI)
    stacked = True
    has_grid = False
    by_moving = True

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "voxel")

    def read(
        self, path: Path, fixed: Grid | None, moving: Grid | None, named: bool
    ) -> sitk.Image | Array:
        """Also arrays of half resolution, which lie on a grid of their own."""
        if not ends(path, NUMPY):
            return super().read(path, fixed, moving, named)
        if fixed is None:
            raise UsageError(f"{path} holds no geometry", "give the fixed image: --reference IMAGE")
        from hsyn_cli.io.formats import _arrays, _fields

        moving = self.moving_grid(moving, fixed)
        vectors, grid = _arrays.read(path, fixed, moving)
        return _fields.in_memory(self, vectors, fixed, moving, grid)

    def save_field(self, vectors: Array, grid: Grid, path: Path, layout: Layout) -> None:
        """As an array of numpy, or float32 NIfTI."""
        if not ends(path, NUMPY):
            super().save_field(vectors, grid, path, layout)
            return
        from hsyn_cli.io.formats import _arrays

        _arrays.write(vectors, path, layout)


FORM = Voxel()
