"""Displacement fields on grids in space: resampling, and inverse error.

Fields are (1, 3, Z, Y, X) in mm, components in LPS unless a docstring says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.devices import to_device
from hsyn_cli.fields.sampling import rotate, sample_affine, sample_grid
from hsyn_cli.space import Array, Grid


@dataclass(frozen=True)
class ErrorStats:
    """Distances in mm."""

    mean_mm: float
    p99_mm: float
    max_mm: float

    def scaled(self, factor: float) -> ErrorStats:
        """The distances times `factor`."""
        return ErrorStats(self.mean_mm * factor, self.p99_mm * factor, self.max_mm * factor)


def affine_displacement(
    grid: Grid, a: Array, t: Array, device: torch.device, absolute: bool = False
) -> Tensor:
    """A x + t - x (or A x + t, if `absolute`) at every voxel of `grid`, (1, 3, Z, Y, X), mm LPS."""
    m = a if absolute else a - np.eye(3)
    per_index = torch.from_numpy(m @ grid.index_to_point)
    start = torch.from_numpy(m @ np.array(grid.origin) + t)
    x, y, z = (torch.arange(n, dtype=torch.float64) for n in grid.size)
    along = [
        to_device((v[None] * per_index[:, k, None]).float(), device)
        for k, v in enumerate((x, y, z))
    ]
    first = along[2] + to_device(start.float(), device)[:, None]
    return (first[:, :, None, None] + along[1][:, None, :, None] + along[0][:, None, None, :])[None]


def resample_field(u: Tensor, working: Grid, target: Grid, a: Array, t: Array) -> Tensor:
    """A working field at the points A p + t of `target`'s voxels p -> (1, 3, Z, Y, X), LPS."""
    to_index = np.linalg.inv(working.index_to_point)
    matrix = to_index @ a @ target.index_to_point
    offset = to_index @ (a @ np.array(target.origin) + t - np.array(working.origin))
    out = sample_affine(u, torch.from_numpy(matrix), torch.from_numpy(offset), target.size)
    return rotate(working.axes, out)


def sample_mm(u: Tensor, grid: Grid, points: Tensor) -> Tensor:
    """`u` on `grid` at `points` (1, 3, Z, Y, X; mm LPS), trilinear, border values held."""
    to_index = np.linalg.inv(grid.index_to_point)
    scale = 2 / np.array(grid.size)
    matrix = to_device(torch.from_numpy(to_index * scale[:, None]).float(), u.device)
    start = (to_index @ -np.array(grid.origin) + 0.5) * scale - 1
    offset = to_device(torch.from_numpy(start).float(), u.device)
    positions = torch.addmm(offset, points[0].flatten(1).T, matrix.T)
    return sample_grid(u, positions.reshape(1, *points.shape[2:], 3))


def along_axes(u: Tensor, grid: Grid) -> Tensor:
    """Components in LPS -> components along the grid's axes."""
    return rotate(grid.axes.T, u)
