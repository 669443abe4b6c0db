"""Grids, fields and matrices that tests of the forms share."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, GRIDS, field_image

from hsyn_cli.io import formats
from hsyn_cli.space import Array, Grid

OTHER = {
    name: Grid((8, 10, 11), (1.1, 1.7, 0.9), (12.0, -40.0, 5.5), direction)
    for name, direction in zip(DIRECTIONS, reversed(DIRECTIONS.values()), strict=True)
}


every_grid = pytest.mark.parametrize("name", GRIDS)


FIELDS = {
    "itk": "a.nii.gz",
    "itk nrrd": "a.nrrd",
    "itk mha": "a.mha",
    "itk h5": "a.h5",
    "itk hdf5": "a.hdf5",
    "ras": "a.nii",
    "voxel": "a.npz",
    "voxel npy": "a.npy",
    "voxel nifti": "a.nii.gz",
    "fsl": "a.nii.gz",
}


def field(grid: Grid, seed: int = 0) -> sitk.Image:
    """Rough float32 vectors, so that any mix-up of axes shows."""
    values = np.random.default_rng(seed).normal(0, 8, (*grid.size[::-1], 3)).astype(np.float32)
    return field_image(grid, values)


def array(image: sitk.Image) -> Array:
    values: Array = sitk.GetArrayFromImage(image)
    return values


def saved(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), str(path))
    return path


def read(path: Path, *more: object) -> sitk.Image:
    image = formats.read(path, *more)  # type: ignore[arg-type]
    assert isinstance(image, sitk.Image)
    return image


def fsl_coordinates(image: nib.Nifti1Image) -> Array:
    """Voxel -> FSL coordinates, as fslpy and nitransforms have them, from the NIfTI affine."""
    sizes = nib.affines.voxel_sizes(image.affine)
    scaling = np.diag([*sizes, 1.0])
    if np.linalg.det(image.affine) > 0:
        scaling = (
            np.array(
                [
                    [-1, 0, 0, (image.shape[0] - 1) * sizes[0]],
                    [0, 1, 0, 0],
                    [0, 0, 1, 0],
                    [0, 0, 0, 1],
                ]
            )
            @ scaling
        )
    matrix: Array = scaling
    return matrix


def blank(grid: Grid, path: Path) -> nib.Nifti1Image:
    """An image of a grid as nibabel sees it."""
    sitk.WriteImage(grid.empty_image(sitk.sitkUInt8), str(path))
    return nib.load(path)
