"""Separable smoothing of volumes with banded matrices: Gaussians, box means, smooth resizing."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hsyn_cli.fields.slabs import each_slab

# A banded matrix as blocks of rows: first column, the column after the last, values.
Banded = tuple[tuple[int, int, Tensor], ...]
Operator = tuple[Banded, Banded, Banded]  # along z, y, x

BLOCK = 16  # rows
LARGE = 2_000_000  # numbers; fewer stay in the cache at once
NEGLIGIBLE = 1e-5  # of a Gaussian's largest weight; smaller weights become 0
UPSAMPLING_SIGMA = 0.7  # voxels of the coarser field


def banded(matrix: Tensor) -> Banded:
    """`matrix` (rows, columns) without the zeros outside its band; no row may be all zeros.

    On a GPU, it stays whole: one large product takes less time there than several small ones.
    """
    if matrix.device.type != "cpu":
        return ((0, matrix.shape[1], matrix),)
    blocks = []
    for rows in matrix.split(BLOCK):
        columns = (rows != 0).any(0).nonzero()
        low, high = int(columns[0]), int(columns[-1]) + 1
        blocks.append((low, high, rows[:, low:high].contiguous()))
    return tuple(blocks)


def separable(x: Tensor, operator: Operator) -> Tensor:
    """Apply one matrix per axis: (..., Z, Y, X) -> (..., Z', Y', X').

    On a CPU, such products cost less than the passes over memory of a sliding window. Of a large
    volume, all three follow one another on some planes at a time, which stay in the cache.
    """
    size = [sum(len(rows) for _, _, rows in matrix) for matrix in operator]
    large = math.prod((*x.shape[:-3], *size)) > LARGE
    if x.requires_grad or x.device.type != "cpu" or not large:
        return _planes(x, operator)
    blocks, out = operator[0], x.new_empty(*x.shape[:-3], *size)
    volumes, outs = x.reshape(-1, *x.shape[-3:]), out.view(-1, *size)

    def work(first: int, last: int) -> None:
        for task in range(first, last):
            volume, k = divmod(task, len(blocks))
            at = sum(len(rows) for _, _, rows in blocks[:k])
            planes = outs[volume, at : at + len(blocks[k][2])]
            _planes(volumes[volume], ((blocks[k],), *operator[1:]), planes)

    count = len(volumes) * len(blocks)
    each_slab(work, count, 1, x.device)
    return out


def _planes(x: Tensor, operator: Operator, out: Tensor | None = None) -> Tensor:
    """`separable` at once, into `out` if it is given."""
    mz, my, mx = operator
    y, w = x.shape[-2:]
    if x.shape[-3] > 1 or mz[0][2].numel() > 1:  # else a slice; the weight of its one voxel is 1
        x = _joined([m @ x[..., low:high, :, :].flatten(-2) for low, high, m in mz], -2)
        x = x.reshape(*x.shape[:-1], y, w)
    x = _joined([m @ x[..., low:high, :] for low, high, m in my], -2)
    parts = [x[..., low:high] @ m.T for low, high, m in mx]
    if out is None:
        return _joined(parts, -1)
    torch.cat(parts, -1, out=out)
    return out


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


@functools.lru_cache(maxsize=64)
def _gaussian_matrix(coarse: int, fine: int, sigma: float, device: torch.device) -> Banded:
    """(fine, coarse): Gaussians around coarse cell centres, sampled at fine ones; rows sum to 1.

    `sigma` is in coarse voxels.
    """
    centres = (torch.arange(fine, dtype=torch.float64) + 0.5) * (coarse / fine) - 0.5
    apart = centres[:, None] - torch.arange(coarse, dtype=torch.float64)
    weight = torch.exp(-0.5 * (apart / sigma) ** 2)
    weight[weight < NEGLIGIBLE * weight.amax(1, keepdim=True)] = 0
    return banded((weight / weight.sum(1, keepdim=True)).float().to(device, non_blocking=True))


@functools.lru_cache(maxsize=32)
def _box_matrix(size: int, window: int, device: torch.device) -> Banded:
    """(size, size): means over `window` voxels around every voxel, over fewer at the border."""
    index = torch.arange(size)
    inside = (index - index[:, None]).abs() <= window // 2
    return banded((inside / inside.sum(1, keepdim=True)).float().to(device, non_blocking=True))


def box_operator(like: Tensor, window: int | Sequence[int]) -> Operator:
    """Operator for `separable`: means over the window^3 voxels around every voxel.

    A sequence gives the window along z, y, x. At the border, a window holds fewer voxels.
    """
    windows = (window,) * 3 if isinstance(window, int) else window
    z, y, x = (
        _box_matrix(n, w, like.device) for n, w in zip(like.shape[-3:], windows, strict=True)
    )
    return z, y, x


def gaussian(
    u: Tensor, size: tuple[int, ...] | torch.Size, sigma: float | Sequence[float]
) -> Operator:
    """Operator for `separable`: smooth `u` and sample it on `size` (Z, Y, X) voxels, cell-centred.

    `sigma` is in voxels of u. A sequence gives it along z, y, x.
    """
    sigmas = (sigma,) * 3 if isinstance(sigma, int | float) else sigma
    z, y, x = (
        _gaussian_matrix(a, b, s, u.device)
        for a, b, s in zip(u.shape[-3:], size, sigmas, strict=True)
    )
    return z, y, x


def resize_smooth(u: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Fields on `size` (Z, Y, X) voxels of the same extent, smoother than by `resize_linear`.

    Linear interpolation leaves kinks.
    """
    if tuple(u.shape[2:]) == tuple(size):
        return u
    return separable(u, gaussian(u, size, UPSAMPLING_SIGMA))
