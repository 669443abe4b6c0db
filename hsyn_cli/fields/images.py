"""Displacement fields as SimpleITK images and transforms.

The other modules of fields work on tensors, on machines without SimpleITK, too.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.fields.totals import Totals
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import raised


def from_image(field: sitk.Image) -> Tensor:
    """SimpleITK vector image, mm LPS -> (1, 3, Z, Y, X) float32, components in LPS."""
    field = raised(field)
    return torch.from_numpy(sitk.GetArrayFromImage(field)).float().movedim(-1, 0)[None].contiguous()


def to_image(u: Tensor, grid: Grid) -> sitk.Image:
    """(1, 3, Z, Y, X), mm LPS, on `grid` -> SimpleITK vector image."""
    values = np.ascontiguousarray(u[0].movedim(0, -1).cpu().numpy())
    return grid.stamp(sitk.GetImageFromArray(values, isVector=True))


def as_transform(displacement: sitk.Image) -> sitk.DisplacementFieldTransform:
    """A vector image, mm LPS, as a transform. The image keeps its values."""
    return sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))


def total_images(totals: Totals, unit: float = 1.0) -> tuple[sitk.Image, sitk.Image]:
    """Forward and inverse total field as vector images, mm LPS, all lengths times `unit`."""
    both = ((totals.forward, totals.fixed), (totals.inverse, totals.moving))
    if unit == 1:
        forward, inverse = (to_image(u, grid) for u, grid in both)
    else:
        forward, inverse = (to_image(u * unit, grid.scaled(unit)) for u, grid in both)
    return forward, inverse
