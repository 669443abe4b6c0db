"""Displacement fields as tensors: warp, compose, resize, determinants.

Shapes: fields (B, 3, Z, Y, X), components x, y, z along the grid's axes, in mm; images (B, C, Z, Y, X). `spacing` is the
voxel size in mm of the grid that the *sampled* tensor lives on (isotropic, see `space`). Names chain like
dominoes: ``compose(u_ab, u_bc)`` is ``u_ac``, and ``u_ab`` lives on grid a and says where to sample b.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.slabs import each_slab


@functools.lru_cache(maxsize=8)
def _centres(size: int, device: torch.device) -> Tensor:
    """Normalised coordinates of `size` voxel centres for grid_sample(align_corners=False)."""
    return (2 * torch.arange(size, dtype=torch.float32, device=device) + 1) / size - 1


def sampling_grid(u: Tensor, spacing: float) -> Tensor:
    """(B, 3, Z, Y, X) field in mm -> (B, Z, Y, X, 3) normalised coordinates of x + u(x) on a same-sized grid."""
    nz, ny, nx = u.shape[2:]
    dev = u.device
    x = u[:, 0] * (2 / (spacing * nx)) + _centres(nx, dev)
    y = u[:, 1] * (2 / (spacing * ny)) + _centres(ny, dev)[:, None]
    z = u[:, 2] * (2 / (spacing * nz)) + _centres(nz, dev)[:, None, None]
    return torch.stack((x, y, z), dim=-1)


def sample(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """`grid_sample` with the border held, (B, C, ...) at (B, Z, Y, X, 3) normalised coordinates -> (B, C, Z, Y, X).

    On a CPU torch gives each item of a batch one thread, so fewer items than threads are cut into equal parts.
    """
    threads = torch.get_num_threads()
    if image.device.type != "cpu" or image.shape[0] >= threads:
        return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)
    count = grid[0, ..., 0].numel()
    parts = max(k for k in range(1, threads + 1) if count % k == 0)
    out = []
    for item, where in zip(image.split(1), grid.split(1), strict=True):
        shared = item.expand(parts, *item.shape[1:])
        cut = where.reshape(parts, 1, 1, -1, 3)
        got = F.grid_sample(shared, cut, mode=mode, padding_mode="border", align_corners=False)
        out.append(got.movedim(0, 1).reshape(1, item.shape[1], *grid.shape[1:4]))
    return out[0] if len(out) == 1 else torch.cat(out)


def warp(image: Tensor, u: Tensor, spacing: float, mode: str = "bilinear") -> Tensor:
    """image(x + u(x)); outside the grid the border value holds. Same grid for both, (B, C, Z, Y, X)."""
    return sample(image, sampling_grid(u, spacing), mode)


def compose(u_ab: Tensor, u_bc: Tensor, spacing: float) -> Tensor:
    """u_ac(x) = u_ab(x) + u_bc(x + u_ab(x)); all three on one grid, mm."""
    return u_ab + warp(u_bc, u_ab, spacing)


def resize(u: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """`u` at another resolution of the same extent, trilinear, cell-centred; values stay mm. size = (Z, Y, X)."""
    if tuple(u.shape[2:]) == tuple(size):
        return u
    return F.interpolate(u, size=tuple(size), mode="trilinear", align_corners=False)


# A matrix whose rows look at a few neighbouring columns only, as blocks of rows: first column, last, values.
Banded = tuple[tuple[int, int, Tensor], ...]
Operator = tuple[Banded, Banded, Banded]  # along z, y, x
BLOCK = 32  # rows
NEGLIGIBLE = 1e-5  # of the largest: weights of a Gaussian below this do not count


def banded(matrix: Tensor) -> Banded:
    """`matrix` (rows, columns) without its zeros; no row may hold nothing else."""
    blocks = []
    for rows in matrix.split(BLOCK):
        looked_at = (rows != 0).any(0).nonzero()
        low, high = int(looked_at[0]), int(looked_at[-1]) + 1
        blocks.append((low, high, rows[:, low:high].contiguous()))
    return tuple(blocks)


def separable(x: Tensor, operator: Operator) -> Tensor:
    """Apply one matrix per axis: (..., Z, Y, X) -> (..., Z', Y', X').

    On a CPU such products cost less than the passes over memory that sliding windows need.
    """
    mz, my, mx = operator
    x = torch.cat([x[..., low:high] @ m.T for low, high, m in mx], dim=-1)
    x = torch.cat([m @ x[..., low:high, :] for low, high, m in my], dim=-2)
    y, w = x.shape[-2:]
    x = torch.cat([m @ x[..., low:high, :, :].flatten(-2) for low, high, m in mz], dim=-2)
    return x.reshape(*x.shape[:-1], y, w)


@functools.lru_cache(maxsize=64)
def _gaussian_matrix(coarse: int, fine: int, sigma: float, device: torch.device) -> Banded:
    """(fine, coarse): Gaussians (sigma in coarse voxels) at the coarse cell centres seen at the fine ones; rows sum to 1."""
    at = (torch.arange(fine, dtype=torch.float64) + 0.5) * (coarse / fine) - 0.5
    weight = torch.exp(-0.5 * ((at[:, None] - torch.arange(coarse, dtype=torch.float64)) / sigma) ** 2)
    weight[weight < NEGLIGIBLE * weight.amax(1, keepdim=True)] = 0
    return banded((weight / weight.sum(1, keepdim=True)).float().to(device))


@functools.lru_cache(maxsize=32)
def _box_matrix(size: int, window: int, device: torch.device) -> Banded:
    """(size, size): means over `window` voxels around every voxel; fewer at the border."""
    at = torch.arange(size)
    inside = (at - at[:, None]).abs() <= window // 2
    return banded((inside / inside.sum(1, keepdim=True)).float().to(device))


def box_operator(like: Tensor, window: int | Sequence[int]) -> Operator:
    """Operator for `separable`: means over the window^3 voxels (or z, y, x) around every voxel, over fewer at the border."""
    windows = (window,) * 3 if isinstance(window, int) else window
    z, y, x = (_box_matrix(n, w, like.device) for n, w in zip(like.shape[-3:], windows, strict=True))
    return z, y, x


def gaussian(u: Tensor, size: tuple[int, ...] | torch.Size, sigma: float) -> Operator:
    """Operator for `separable`: `u` smoothed with sigma (in voxels of u) and seen on `size` (Z, Y, X) voxels, cell-centred."""
    z, y, x = (_gaussian_matrix(a, b, sigma, u.device) for a, b in zip(u.shape[-3:], size, strict=True))
    return z, y, x


UPSAMPLING_SIGMA = 0.7  # voxels of the coarser field


def resampled(u: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Fields on `size` (Z, Y, X) voxels of the same extent, without the kinks of linear interpolation."""
    return u if tuple(u.shape[2:]) == tuple(size) else separable(u, gaussian(u, size, UPSAMPLING_SIGMA))


def downsample(image: Tensor, factor: int) -> Tensor:
    """Mean over factor x factor x factor cells, (B, C, Z, Y, X)."""
    return image if factor == 1 else F.avg_pool3d(image, factor)


SLAB = 120_000  # voxels whose derivatives are worked on at once
Spacing = float | tuple[float, float, float]  # mm; one number where the grid is isotropic, else x, y, z


def forward_differences(u: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor, Tensor]:
    """(u[i + 1] - u[i]) / spacing along x, y, z; each one voxel shorter along its axis."""
    x, y, z = (spacing,) * 3 if isinstance(spacing, float | int) else spacing
    return (
        (u[..., 1:] - u[..., :-1]) / x,
        (u[..., 1:, :] - u[..., :-1, :]) / y,
        (u[..., 1:, :, :] - u[..., :-1, :, :]) / z,
    )


def determinant(u: Tensor, spacing: Spacing) -> Tensor:
    """det(d(x + u(x)) / dx) by central differences, one-sided at the border. (B, 3, Z, Y, X) -> (B, Z, Y, X)."""
    return determinants(u, spacing)[0]


def corner_determinant(u: Tensor, spacing: Spacing) -> Tensor:
    """The smallest of the eight one-sided determinants at each voxel, (B, 3, Z, Y, X) -> (B, Z, Y, X).

    Positive everywhere means that the trilinear interpolation of x + u(x) has a positive determinant at every
    corner of every cell, which central differences can miss (Liu et al., IJCV 2024, "On finite difference Jacobian
    computation in deformable image registration").
    """
    return determinants(u, spacing)[1]


def corner_determinant_at(u: Tensor, voxels: Tensor, spacing: float) -> Tensor:
    """`corner_determinant` of one field (3, Z, Y, X) at N voxels, flat indices -> (N,)."""
    flat, step, columns = u.reshape(3, -1), 1, []
    for axis, index in zip((2, 1, 0), torch.unravel_index(voxels, u.shape[1:])[::-1], strict=True):
        last = u.shape[1 + axis] - 1
        sides = []
        for start in (
            (index - 1).clamp_min(0),
            index.clamp_max(last - 1),
        ):  # the one difference there is at the border
            first = voxels + (start - index) * step
            d = (flat.index_select(1, first + step) - flat.index_select(1, first)).div_(spacing)
            d[2 - axis] += 1
            sides.append(d.unbind(0))
        columns.append((sides[0], sides[1]))
        step *= last + 1
    central, least = (torch.empty(len(voxels), device=u.device) for _ in range(2))
    _corners(columns, central, least)
    return least


def determinants(u: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """`determinant` and `corner_determinant`, (B, 3, Z, Y, X) -> (B, Z, Y, X) each.

    A determinant is linear in each column, so that of central differences is the mean of the eight one-sided ones. Slab after
    slab along Z, so that temporaries stay in the cache.
    """
    u = u.detach()  # a thread of its own knows of no no_grad()
    central, least = (torch.empty_like(u[:, 0]) for _ in range(2))

    def work(z0: int, z1: int) -> None:
        lo, hi = max(z0 - 1, 0), min(z1 + 1, u.shape[2])
        within = slice(z0 - lo, z1 - lo)
        columns = []
        for k, d in enumerate(forward_differences(u[:, :, lo:hi], spacing)):
            a = 4 - k
            d[:, k] += 1
            n = d.shape[a] + 1
            d = torch.cat((d.narrow(a, 0, 1), d, d.narrow(a, -1, 1)), a)
            behind, ahead = (d.narrow(a, k, n)[:, :, within].unbind(1) for k in (0, 1))
            columns.append((behind, ahead))
        _corners(columns, central[:, z0:z1], least[:, z0:z1])

    each_slab(work, u.shape[2], max(1, SLAB // u[0, 0, 0].numel()), u.device)
    return central, least


Columns = list[
    tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
]  # one-sided derivatives along x, y, z, of x + u(x)


def _corners(columns: Columns, mean: Tensor, least: Tensor) -> None:
    """Put the mean and the smallest of the eight determinants into two tensors."""
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


def sample_affine(u: Tensor, matrix: Tensor, offset: Tensor, size: tuple[int, int, int]) -> Tensor:
    """u (1, C, Z, Y, X) at index ``matrix @ i + offset`` for every index i of a grid of `size`; all in x, y, z.

    Trilinear, border values held -> (1, C, z, y, x).
    """
    extent = torch.tensor([*u.shape[:1:-1]], dtype=torch.float64)
    m = (matrix * (2 / extent)[:, None]).float().to(u.device)
    t = ((2 * offset + 1) / extent - 1).float().to(u.device)
    x, y, z = (torch.arange(n, dtype=torch.float32, device=u.device) for n in size)
    grid = (
        (x[:, None] * m[:, 0])[None, None]
        + (y[:, None] * m[:, 1])[None, :, None]
        + (z[:, None] * m[:, 2] + t)[:, None, None]
    )
    return sample(u, grid[None])


def length(u: Tensor) -> Tensor:
    """|u| of a field, (B, 3, Z, Y, X) -> (B, Z, Y, X); torch's own norm over that axis takes five times as long."""
    x, y, z = u.unbind(1)
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()


def sample_index(u: Tensor, index: Tensor) -> Tensor:
    """u (1, C, Z, Y, X) at continuous indices x, y, z (1, 3, z, y, x), trilinear, border held -> (1, C, z, y, x)."""
    scale = 2 / torch.tensor(u.shape[:1:-1], dtype=index.dtype, device=index.device).view(3, 1, 1, 1)
    return sample(u, torch.addcmul(scale / 2 - 1, index, scale).movedim(1, -1))
