"""Fit an inverse to the field that it inverts, so that both orders are about as exact."""

from __future__ import annotations

import dataclasses

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.fields.grids import affine_displacement, sample_mm
from hsyn_cli.fields.images import from_image, to_image
from hsyn_cli.fields.mutual import RoundTrips, error_stats
from hsyn_cli.fields.sampling import length
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.inversion import Inversion

STEPS = 4


@torch.no_grad()
def fitted(
    field: sitk.Image, inversion: Inversion, linear: Array, device: torch.device
) -> Inversion:
    """The inversion of `field` after a fit of the inverse e alone (see `fields.mutual`).

    The exact inverse has no residual d(e(q)) - q at its voxels q, and e(d(p)) - p is off by the
    error of linear interpolation. The fit lowers the second at the cost of the first.

    Args:
        linear: (3, 3), the affine part of the map of `field`.
    """
    grid, target = Grid.of(field), Grid.of(inversion.inverse)
    d, e = (from_image(image).to(device) for image in (field, inversion.inverse))
    marks = sitk.GetArrayFromImage(inversion.residual_map)
    contents = (np.ones(grid.size[::-1], bool), marks >= 0)
    trips = RoundTrips.of(d, grid, e, target, contents, linear)
    trips.fit(STEPS, moves=False)
    trips.fit_far(STEPS, moves=False)
    there, _ = trips.errors()
    residual = torch.from_numpy(marks).where(
        torch.from_numpy(marks < 0), _residual(d, grid, e, target)
    )
    return dataclasses.replace(
        inversion,
        inverse=to_image(e, target),
        residual=error_stats(residual[residual >= 0]),
        residual_map=target.stamp(sitk.GetImageFromArray(residual.numpy())),
        reversed=there,
    )


def _residual(d: Tensor, grid: Grid, e: Tensor, target: Grid) -> Tensor:
    """|e(q) + d(q + e(q))| at every voxel q of `target`, (Z, Y, X), mm."""
    points = affine_displacement(target, np.eye(3), np.zeros(3), e.device, absolute=True).add_(e)
    return length(e + sample_mm(d, grid, points))[0].cpu()
