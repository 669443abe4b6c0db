"""Voxel displacements in numpy files, as VoxelMorph, TransMorph and Learn2Reg exchange them.

Arrays are (X, Y, Z, 3) or (3, X, Y, Z), axes as nibabel has them: a vector leads from an index of the fixed to one of the
moving image.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from hsyn_cli import files, images
from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.space import Grid, convert_vectors, from_xyz

NAMES = ("arr_0", "vol")  # of the field in an .npz that holds several arrays: Learn2Reg's, VoxelMorph's
Channels = Literal["first", "last"]


def read(path: Path, fixed: Grid, moving: Grid) -> sitk.Image:
    """A field from fixed to moving index as a vector image (float64, mm, LPS) on `fixed`.

    An array of half as many voxels along each axis, as Learn2Reg had them in 2021, comes out on a grid of its own.
    Raises InputError, GeometryError.
    """
    array = _load(path)
    while array.ndim > 4 and array.shape[0] == 1:  # a batch of one
        array = array[0]
    if (array.shape[:1] == (3,) and array.shape[-1:] != (3,)) or array.shape == (3, *fixed.size):
        array = np.moveaxis(array, 0, -1)
    size, grid = array.shape[:3], fixed
    if size != fixed.size and all(2 * n == full for n, full in zip(size, fixed.size, strict=False)):
        grid = _half_grid(fixed)
        if not moving.same_as(fixed):
            raise GeometryError(
                f"{path} is of half resolution: both images must lie on one grid", "resample the moving one"
            )
    if array.shape != (*grid.size, 3):
        shape, full = (" x ".join(map(str, sizes)) for sizes in (array.shape, fixed.size))
        raise GeometryError(
            f"{path} is an array of {shape}; the reference image has {full} voxels",
            "give the fixed image it was made for",
        )
    if not np.isfinite(array).all():
        raise images.not_finite(f"displacement field {path}", int((~np.isfinite(array)).sum()))
    vectors = from_xyz(array).astype(np.float64)
    lps = convert_vectors(vectors, "voxel", "itk", fixed, moving)
    return grid.stamp(sitk.GetImageFromArray(lps, isVector=True))


def write(values: np.ndarray[Any, Any], path: Path, channels: Channels = "last") -> None:
    """(Z, Y, X, 3) voxel displacements as (X, Y, Z, 3) or (3, X, Y, Z); in .npz as arr_0, which Learn2Reg asks for."""
    array = from_xyz(values)
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0) if channels == "first" else array)
    with files.replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as stream:  # savez adds .npz to a name in capitals
                np.savez(stream, arr_0=array)
        else:
            np.save(temporary, array)


def _half_grid(grid: Grid) -> Grid:
    """Half as many voxels, the outermost centres in place: what Learn2Reg's zoom of 2021 takes a half field for."""
    size = [n // 2 for n in grid.size]
    spacing = [s * (n - 1) / (h - 1) for s, n, h in zip(grid.spacing, grid.size, size, strict=True)]
    return Grid(
        (size[0], size[1], size[2]), (spacing[0], spacing[1], spacing[2]), grid.origin, grid.direction
    )


def _load(path: Path) -> np.ndarray[Any, Any]:
    files.fingerprint(path, "displacement field")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            array = found
        else:
            with found:
                names = found.files if len(found.files) == 1 else [n for n in NAMES if n in found.files]
                if not names:
                    listed = ", ".join(found.files) or "nothing"
                    raise InputError(f"{path} holds {listed}; which is the field?", "keep that array alone")
                array = found[names[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no plain numpy array", "check how it was made") from error
    if not np.issubdtype(array.dtype, np.floating) or 3 not in array.shape:
        raise InputError(f"{path} is no displacement field ({array.dtype}, {array.shape})", "see --from")
    return array
