"""Voxel displacements in numpy files, as VoxelMorph, TransMorph and Learn2Reg exchange them.

Arrays are (X, Y, Z, 3) or (3, X, Y, Z), axes as nibabel has them: a vector leads from an index of
the fixed image to one of the moving image.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.io import atomic, checks, files
from hsyn_cli.io.formats import Layout
from hsyn_cli.space import Array, Grid, from_xyz

# The field's names in an .npz that holds several arrays: Learn2Reg's, VoxelMorph's.
NAMES = ("arr_0", "vol")
# What numpy and the modules below it raise for damaged files.
DAMAGED = (
    ValueError, OSError, EOFError, LookupError, TypeError, OverflowError, MemoryError, RuntimeError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def read(path: Path, fixed: Grid, moving: Grid) -> tuple[Array, Grid]:
    """Vectors from fixed to moving index, (Z, Y, X, 3) float64, and the grid on which they lie.

    That grid is `fixed`, but an array of half as many voxels along each axis, as Learn2Reg had them
    in 2021, has one of its own. Raises InputError, GeometryError.
    """
    array = _load(path)
    while array.ndim > 4 and array.shape[0] == 1:  # a batch of one
        array = array[0]
    if (array.shape[:1] == (3,) and array.shape[-1:] != (3,)) or array.shape == (3, *fixed.size):
        array = np.moveaxis(array, 0, -1)
    size, grid = array.shape[:3], fixed
    halves = all(2 * n == full for n, full in zip(size, fixed.size, strict=False))
    if size != fixed.size and halves:
        grid = _half_grid(fixed)
        if not moving.same_as(fixed):
            raise GeometryError(
                f"{path} is of half resolution: both images must lie on one grid",
                "resample the moving one",
            )
    if array.shape != (*grid.size, 3):
        shape, full = (" x ".join(map(str, sizes)) for sizes in (array.shape, fixed.size))
        raise GeometryError(
            f"{path} is an array of {shape}; the reference image has {full} voxels",
            "give the fixed image it was made for",
        )
    if not np.isfinite(array).all():
        raise checks.not_finite(f"displacement field {path}", int((~np.isfinite(array)).sum()))
    return from_xyz(array).astype(np.float64), grid


def write(vectors: Array, path: Path, layout: Layout) -> None:
    """(Z, Y, X, 3) voxel displacements as `layout` has it; in .npz as arr_0, as Learn2Reg asks.

    Raises OutputError.
    """
    array = from_xyz(vectors.astype(np.float16 if layout.half else np.float32))
    array = np.moveaxis(array, -1, 0) if layout.channels == "first" else array
    array = np.ascontiguousarray(array)
    with atomic.replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as stream:  # savez adds .npz to a name in capitals
                np.savez(stream, arr_0=array)
        else:
            np.save(temporary, array)


def _half_grid(grid: Grid) -> Grid:
    """Half as many voxels, the outermost centres in place.

    So Learn2Reg's zoom of 2021 takes a half field.
    """
    size = [n // 2 for n in grid.size]
    lengths = zip(grid.spacing, grid.size, size, strict=True)
    spacing = [s * (n - 1) / (h - 1) for s, n, h in lengths]
    return Grid(
        (size[0], size[1], size[2]),
        (spacing[0], spacing[1], spacing[2]),
        grid.origin,
        grid.direction,
    )


def _load(path: Path) -> np.ndarray[Any, Any]:
    """The array of an .npz or .npy file. Raises InputError."""
    files.fingerprint(path, "displacement field")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            array = found
        else:
            with found:
                array = found[_name(found.files, path)]
    except DAMAGED as error:
        raise InputError(f"{path} holds no plain numpy array", "check how it was made") from error
    if not np.issubdtype(array.dtype, np.floating) or 3 not in array.shape:
        raise InputError(
            f"{path} is no displacement field ({array.dtype}, {array.shape})", "see --from"
        )
    return array


def _name(found: list[str], path: Path) -> str:
    """Which of the arrays of an .npz is the field. Raises InputError if it is not clear."""
    names = found if len(found) == 1 else [name for name in NAMES if name in found]
    if not names:
        listed = ", ".join(found) or "nothing"
        raise InputError(f"{path} holds {listed}; which is the field?", "keep that array alone")
    return names[0]
