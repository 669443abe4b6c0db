"""Fields and images for the disk: fewer vectors, and values without digits that tell nothing.

gzip packs float32 values to half their size once the last half of their bits is zero.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.fields.images import from_image, to_image
from hsyn_cli.fields.mutual import error_stats
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import lowered, raised

FIELD_STEP = 2.0**-9  # mm: rounding moves a component by less than 0.001 mm
IMAGE_STEP = 1e-3  # of the range, at most: rounding moves a value by half of it
FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)


def compact_field(
    field: sitk.Image, mm: float | None, *, rounded: bool
) -> tuple[sitk.Image, ErrorStats]:
    """A field with a vector about every `mm`, and how far that is off.

    The errors are those at each voxel of the field, where readers interpolate linearly.
    `mm`: None keeps the grid. `rounded`: components are multiples of `FIELD_STEP`.
    """
    grid = Grid.of(field)
    coarse = grid if mm is None else grid.coarser(mm)
    u = from_image(field)
    v = u if coarse.size == grid.size else _at_same_corners(u, coarse.size)
    if rounded:
        v = v.div(FIELD_STEP).round_().mul_(FIELD_STEP)
    return lowered(to_image(v, coarse)), error_stats(_apart(v, u))


def _at_same_corners(u: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(1, C, Z, Y, X) on `size` (x, y, z) voxels with the same corners, trilinear."""
    return F.interpolate(u, size=size[::-1], mode="trilinear", align_corners=True)


def _apart(v: Tensor, u: Tensor) -> Tensor:
    """(N,) distances of v, read on the voxels of u, and u; a component at a time saves memory."""
    size = (u.shape[4], u.shape[3], u.shape[2])
    square = torch.zeros_like(u[:, :1])
    for had, wanted in zip(v.split(1, 1), u.split(1, 1), strict=True):
        read = _at_same_corners(had, size) if had.shape != wanted.shape else had.clone()
        square += read.sub_(wanted).square_()
    return square.sqrt_().flatten()


def compact_image(image: sitk.Image) -> tuple[sitk.Image, float]:
    """An image with rounded values, and the largest change as a share of its range.

    Only floating-point values are rounded, to multiples of a power of two.
    """
    if image.GetPixelID() not in FLOATS:
        return image, 0.0
    image = raised(image)
    values = sitk.GetArrayViewFromImage(image)
    span = float(values.max()) - float(values.min())
    if not 0 < span < math.inf:
        return lowered(image), 0.0
    step = 2.0 ** math.floor(math.log2(IMAGE_STEP * span))
    few = np.round(values / step) * step
    out = sitk.GetImageFromArray(few.astype(values.dtype))
    return lowered(Grid.of(image).stamp(out)), float(np.abs(few - values).max()) / span
