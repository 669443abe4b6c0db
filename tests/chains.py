"""An affine, grids, fields and images that tests of chains share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from samples import DIRECTIONS, field_image, picture, voxel_points

from hsyn_cli.io import writing
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space import Grid

AFFINE = sitk.AffineTransform(3)
AFFINE.SetMatrix((1.05, 0.1, 0.02, -0.08, 0.95, 0.04, 0.03, -0.05, 1.1))
AFFINE.SetTranslation((2.0, -1.5, 1.0))

CENTRE = np.array([3.0, -7.0, 11.0])


def grid(direction: str, size: tuple[int, int, int] = (16, 14, 12), spacing: float = 1.4) -> Grid:
    """A grid with its middle at CENTRE."""
    start = Grid(
        size, (spacing, spacing * 0.8, spacing * 1.3), (0.0, 0.0, 0.0), DIRECTIONS[direction]
    )
    x, y, z = (CENTRE - start.points((np.array(size) - 1) / 2)).tolist()
    return replace(start, origin=(x, y, z))


def waves(at: Grid, mm: float = 2.0, seed: int = 0) -> sitk.Image:
    """A field of gentle waves, mm LPS, that does not fade at the border."""
    rng = np.random.default_rng(seed)
    phase = voxel_points(at) @ rng.normal(0, 0.15, (3, 3)) + rng.uniform(0, 6, 3)
    return sitk.Cast(field_image(at, mm * np.sin(phase)), sitk.sitkVectorFloat32)


def saved(folder: Path, fixed: Grid) -> tuple[str, str]:
    """The files field.nii.gz on `fixed` and affine.mat."""
    field, affine = folder / "field.nii.gz", folder / "affine.mat"
    writing.write_image(waves(fixed), field)
    write_transform(AFFINE, affine)
    return str(field), str(affine)


def scan(at: Grid, seed: int = 0, pixel: int = sitk.sitkFloat32) -> sitk.Image:
    values = 200 * picture(at.size[::-1], seed)[0, 0].numpy()
    return at.stamp(sitk.Cast(sitk.GetImageFromArray(values), pixel))


def blocks(at: Grid, seed: int = 0) -> sitk.Image:
    """Labels 0 to 6 in blocks of 3 voxels."""
    coarse = np.random.default_rng(seed).integers(0, 7, [n // 3 + 1 for n in at.size[::-1]])
    z, y, x = at.size[::-1]
    fine = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[:z, :y, :x]
    return at.stamp(sitk.GetImageFromArray(fine.astype(np.uint8)))
