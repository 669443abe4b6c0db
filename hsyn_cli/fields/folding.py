"""The Jacobian determinant of p -> p + d(p), and the voxels where the map folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.fields.slabs import ON_GPU, each_slab
from hsyn_cli.space import Grid

LEAST_FOR_LOG, MOST_FOR_LOG = 1e-9, 1e9  # determinants are clipped to these before the logarithm
DETERMINANT_SLAB = 120_000  # voxels in one slab of derivatives

# Voxel size in mm: one number if the grid is isotropic, else x, y, z.
Spacing = float | tuple[float, float, float]

# One-sided derivatives of x + u(x) along x, y, z.
Columns = list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Folding:
    """Folding of a total field: a determinant of p -> p + d(p) that is <= 0.

    Attributes:
        voxels, percent: of folded voxels, by central differences.
        corner_voxels: by the stricter rule that any of a voxel's eight corner determinants is <= 0.
        min_det: the smallest central determinant, at `min_det_at_mm` (LPS).
    """

    voxels: int
    percent: float
    corner_voxels: int
    min_det: float
    min_det_at_mm: tuple[float, float, float]

    def scaled(self, factor: float) -> Folding:
        """The folding of the same field where all lengths are `factor` times as long."""
        x, y, z = self.min_det_at_mm
        return replace(self, min_det_at_mm=(x * factor, y * factor, z * factor))


def measure_folding(grid: Grid, det: Tensor, corner: Tensor) -> Folding:
    """The folding of a field, without the outermost voxel layer, along axes of several voxels.

    Central differences need both neighbours, which that layer lacks.

    Args:
        det, corner: the field's `determinants` on `grid`, (1, Z, Y, X).
    """
    inside = inner(det.shape[1:])
    det, corner = det[0][inside], corner[0][inside]
    # NaN counts as folded, too. One wait for a GPU tells all counts.
    sound = [(d > 0).count_nonzero() for d in (det, corner)]
    least, *counts = torch.stack((det.argmin(), *sound)).tolist()
    at = np.unravel_index(least, tuple(det.shape))
    first = [side.start or 0 for side in inside]
    point = grid.points((np.array(at, float) + first)[::-1])
    folded, by_corners = (det.numel() - count for count in counts)
    return Folding(
        folded, 100 * folded / det.numel(), by_corners, float(det.flatten()[least]),
        (float(point[0]), float(point[1]), float(point[2])),
    )  # fmt: skip


def inner(size: Sequence[int]) -> tuple[slice, ...]:
    """The slices of (Z, Y, X) without the outermost layer; an axis of one voxel has none."""
    return tuple(slice(None) if n == 1 else slice(1, -1) for n in size)


def forward_differences(u: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor, Tensor]:
    """(u[i + 1] - u[i]) / spacing along x, y, z; each one voxel shorter along its axis."""
    x, y, z = (spacing,) * 3 if isinstance(spacing, float | int) else spacing
    return (
        (u[..., 1:] - u[..., :-1]) / x,
        (u[..., 1:, :] - u[..., :-1, :]) / y,
        (u[..., 1:, :, :] - u[..., :-1, :, :]) / z,
    )


def determinant(u: Tensor, spacing: Spacing) -> Tensor:
    """det(d(x + u(x)) / dx), (B, 3, Z, Y, X) -> (B, Z, Y, X).

    Central differences, one-sided at the border.
    """
    return determinants(u, spacing)[0]


def corner_determinant(u: Tensor, spacing: Spacing) -> Tensor:
    """The least of the eight one-sided determinants at a voxel, (B, 3, Z, Y, X) -> (B, Z, Y, X).

    If it is positive at all voxels, the trilinear interpolation of x + u(x) has a positive
    determinant at every corner of every cell. Central differences can miss a fold there (Liu et
    al., IJCV 2024, "On finite difference Jacobian computation in deformable image registration").
    """
    return determinants(u, spacing)[1]


def determinants(u: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """`determinant` and `corner_determinant`, (B, 3, Z, Y, X) -> (B, Z, Y, X) each.

    A determinant is linear in each column. The determinant of central differences is therefore the
    mean of the eight one-sided ones. Slabs along Z keep temporaries in the cache.
    """
    u = u.detach()  # threads do not inherit no_grad()
    central, least = (torch.empty_like(u[:, 0]) for _ in range(2))

    def work(z0: int, z1: int) -> None:
        lo, hi = max(z0 - 1, 0), min(z1 + 1, u.shape[2])
        within = slice(z0 - lo, z1 - lo)
        columns = []
        for k, d in enumerate(forward_differences(u[:, :, lo:hi], spacing)):
            a = 4 - k
            if not d.shape[a]:  # a single slice
                d = torch.zeros_like(u[:, :, lo:hi])
                d[:, k] = 1
                flat = d[:, :, within].unbind(1)
                columns.append((flat, flat))
                continue
            d[:, k] += 1
            n = d.shape[a] + 1
            d = torch.cat((d.narrow(a, 0, 1), d, d.narrow(a, -1, 1)), a)
            behind, ahead = (d.narrow(a, k, n)[:, :, within].unbind(1) for k in (0, 1))
            columns.append((behind, ahead))
        _corners(columns, central[:, z0:z1], least[:, z0:z1])

    slab = DETERMINANT_SLAB if u.device.type == "cpu" else ON_GPU
    each_slab(work, u.shape[2], max(1, slab // u[0, 0, 0].numel()), u.device)
    return central, least


def corner_determinant_at(u: Tensor, voxels: Tensor, spacing: Spacing) -> Tensor:
    """`corner_determinant` of one field (3, Z, Y, X) at N voxels (flat indices) -> (N,)."""
    flat, step, columns = u.reshape(3, -1), 1, []
    widths = (spacing,) * 3 if isinstance(spacing, float | int) else spacing
    for axis, width in zip((2, 1, 0), widths, strict=True):
        last = u.shape[1 + axis] - 1
        if not last:  # a single slice
            flat_column = torch.eye(3, device=u.device)[2 - axis, :, None].expand(3, len(voxels))
            columns.append((flat_column.unbind(0), flat_column.unbind(0)))
            continue
        index = voxels // step % (last + 1)  # torch.unravel_index imports sympy, in a second
        sides = []
        # At the border, both sides take the one difference that exists.
        for start in ((index - 1).clamp_min(0), index.clamp_max(last - 1)):
            first = voxels + (start - index) * step
            d = (flat.index_select(1, first + step) - flat.index_select(1, first)).div_(width)
            d[2 - axis] += 1
            sides.append(d.unbind(0))
        columns.append((sides[0], sides[1]))
        step *= last + 1
    central, least = (torch.empty(len(voxels), device=u.device) for _ in range(2))
    _corners(columns, central, least)
    return least


def _corners(columns: Columns, mean: Tensor, least: Tensor) -> None:
    """Write the mean and the smallest of the eight determinants into `mean` and `least`."""
    first = True
    for (b0, b1, b2), (c0, c1, c2) in itertools.product(*columns[1:]):
        n0 = torch.addcmul(b1 * c2, b2, c1, value=-1)  # b x c
        n1 = torch.addcmul(b2 * c0, b0, c2, value=-1)
        n2 = torch.addcmul(b0 * c1, b1, c0, value=-1)
        for a0, a1, a2 in columns[0]:
            det = (a0 * n0).addcmul_(a1, n1).addcmul_(a2, n2)
            if first:
                mean.copy_(det)
                least.copy_(det)
                first = False
            else:
                mean += det
                torch.minimum(least, det, out=least)
    mean /= 8


def log_determinant(det: Tensor) -> Tensor:
    """Natural logarithm of determinants clipped to [1e-9, 1e9], in float64."""
    return det.double().clamp(LEAST_FOR_LOG, MOST_FOR_LOG).log()
