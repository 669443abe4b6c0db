"""The start of an inversion: the affine map taken out, DI-Net's estimate, and a cubic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.fields.inverse import newton_step
from hsyn_cli.fields.sampling import rotate, sample_affine, sample_index
from hsyn_cli.fields.slabs import each_slab
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.networks import invert_coarse
from hsyn_cli.space import Array, Grid

COARSE = 5  # voxels along a cube of DI-Net's grid
SEED = 2  # voxels along one of the grid of the first Newton steps
SEED_SWEEPS = 2  # number of these steps
FIT_POINTS = 20_000
INVERSION_SLAB = 250_000  # voxels per slab


def best_affine(field: sitk.Image) -> tuple[Array, Array]:
    """(A, t) of the affine map nearest to p -> p + d(p) in least squares over the grid; mm LPS.

    Returns the identity if that map mirrors space or nearly flattens it.
    """
    values = sitk.GetArrayViewFromImage(field)
    grid = Grid.of(field)
    stride = max(1, math.ceil((values.size / 3 / FIT_POINTS) ** (1 / 3)))
    zyx = np.stack(
        np.meshgrid(*(np.arange(0, n, stride) for n in values.shape[:3]), indexing="ij"), -1
    ).reshape(-1, 3)
    points = grid.points(zyx[:, ::-1].astype(float))
    ends = points + values[tuple(zyx.T)]
    middle = points.mean(0)
    design = np.column_stack((points - middle, np.ones(len(points))))
    # The points of a slice say nothing of the way across it, which stays as it is.
    fit = np.linalg.lstsq(design, ends - points, rcond=None)[0]
    a: Array = np.eye(3) + fit[:3].T
    if np.linalg.det(a) < 0.1 or np.linalg.cond(a) > 20:
        return np.eye(3), np.zeros(3)
    return a, middle + fit[3] - a @ middle


def coarse_answer(di: DINet, u: Tensor, grid: Grid) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """DI-Net's inverse of u (1, 3, Z, Y, X; voxels of `grid`) on cubes of about COARSE voxels.

    Also returns the map from an index of `grid` to an index of the cubes.
    """
    spacing = np.array(grid.spacing)
    cube = COARSE * float(spacing.prod() ** (1 / 3))
    size = [
        2 * max(2, math.ceil(n * s / cube / 2)) for n, s in zip(grid.size, spacing, strict=True)
    ]
    ratio = cube / spacing
    per_voxel = torch.from_numpy(spacing).float().to(u.device).view(1, 3, 1, 1, 1)
    matrix, offset = torch.from_numpy(np.diag(ratio)), torch.from_numpy(ratio / 2 - 0.5)
    coarse = sample_affine(u, matrix, offset, (size[0], size[1], size[2])) * per_voxel
    shrink = torch.from_numpy(1 / ratio).float().to(u.device).view(3, 1, 1, 1)
    return invert_coarse(di, coarse, cube) / per_voxel, lambda index: (index + 0.5) * shrink - 0.5


def turned_field(
    field: sitk.Image, turn: Array, slope: Array, offset: Array, device: torch.device
) -> Tensor:
    """turn @ d(i) + slope @ i + offset at every index i of the grid of d, as (1, 3, Z, Y, X)."""
    values = sitk.GetArrayViewFromImage(field)
    depth, height, width, _ = values.shape
    u = torch.empty(1, 3, depth, height, width, device=device)

    def work(z0: int, z1: int) -> None:
        part = torch.from_numpy(values[z0:z1].copy()).to(device).float()
        u[:, :, z0:z1] = rotate(turn, part.movedim(-1, 0)[None])
        u[:, :, z0:z1] += indices(
            slope, offset + z0 * slope[:, 2], (width, height, z1 - z0), device
        )

    each_slab(work, depth, max(1, INVERSION_SLAB // (height * width)), device)
    return u


def cubic_start(
    u: Tensor,
    coarse: Tensor,
    to_coarse: Callable[[Tensor], Tensor],
    to_r: Array,
    first: Array,
    target: Grid,
) -> tuple[Tensor, Tensor]:
    """Refine a coarse inverse at every second voxel of `target` and put a cubic through it.

    Args:
        to_r, first: r = to_r @ i + first is the index in u of an index i of `target`.

    Returns:
        across (3, z, Y, X), up (Z, z): up @ across is the cubic at every voxel of `target`.
    """
    size = [-(-n // SEED) for n in target.size]
    middle = np.full(3, (SEED - 1) / 2)
    r = indices(SEED * to_r, first + to_r @ middle, (size[0], size[1], size[2]), u.device)
    to_axes = np.linalg.inv(SEED * to_r).astype(np.float64)
    v = sample_index(coarse, to_coarse(r))
    for _ in range(SEED_SWEEPS):
        rest = v + sample_index(u, r + v)
        v = newton_step(v, rest, rotate(to_axes, rest))
    x, y, z = (cubic(n, fine, u.device) for n, fine in zip(size, target.size, strict=True))
    return (y @ (v[0] @ x.T)).flatten(2), z


def cubic(coarse: int, fine: int, device: torch.device) -> Tensor:
    """(fine, coarse) matrix of the Catmull-Rom spline through values at every SEED-th voxel.

    The values are cell-centred; the outermost are held beyond the border.
    """
    at = (torch.arange(fine, dtype=torch.float64) - (SEED - 1) / 2) / SEED
    d = (at[:, None] - torch.arange(-2, coarse + 2)).abs()
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    weight = torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
    inner = weight[:, 2:-2]
    inner[:, 0] += weight[:, :2].sum(1)
    inner[:, -1] += weight[:, -2:].sum(1)
    return inner.float().to(device)


def indices(
    matrix: Array, offset: Array, size: tuple[int, int, int], device: torch.device
) -> Tensor:
    """matrix @ i + offset for every index i (x, y, z) of a grid of `size`, as (1, 3, z, y, x)."""
    m = torch.from_numpy(matrix)
    x, y, z = ((m[:, k, None] * torch.arange(n)).float().to(device) for k, n in enumerate(size))
    z = z + torch.from_numpy(offset).float().to(device)[:, None]
    return (z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :])[None]
