"""Displacement fields as tensors: warp, compose, resize, sample.

Fields are (B, 3, Z, Y, X), components x, y, z along the grid's axes, in mm. Images are (B, C, Z, Y,
X). `spacing` is the voxel size in mm of the *sampled* tensor's grid (isotropic, see `space`). Names
chain like dominoes: ``compose(u_ab, u_bc)`` is ``u_ac``. ``u_ab`` lives on grid a and leads to the
points of b.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.devices import to_device
from hsyn_cli.space import Array

PART = 1_000_000  # voxels that are sampled at once


@functools.lru_cache(maxsize=8)
def _centres(size: int, device: torch.device) -> Tensor:
    """Normalised coordinates of `size` voxel centres for grid_sample(align_corners=False)."""
    return (2 * torch.arange(size, dtype=torch.float32, device=device) + 1) / size - 1


def sampling_grid(u: Tensor, spacing: float) -> Tensor:
    """Field in mm (B, 3, Z, Y, X) -> normalised coordinates of x + u(x), (B, Z, Y, X, 3).

    The grid to sample has the same size.
    """
    nz, ny, nx = u.shape[2:]
    dev = u.device
    x = u[:, 0] * (2 / (spacing * nx)) + _centres(nx, dev)
    y = u[:, 1] * (2 / (spacing * ny)) + _centres(ny, dev)[:, None]
    z = u[:, 2] * (2 / (spacing * nz)) + _centres(nz, dev)[:, None, None]
    return torch.stack((x, y, z), dim=-1)


@dataclass(frozen=True)
class Voxels:
    """Some voxels of a grid: (N,) flat indices, and normalised coordinates x, y, z, (N,) each.

    `size`: (Z, Y, X) of the grid.
    """

    flat: Tensor
    centres: tuple[Tensor, Tensor, Tensor]
    size: torch.Size

    @classmethod
    def of(cls, mask: Tensor) -> Voxels:
        """Those where `mask` (Z, Y, X) is True."""
        flat = mask.flatten().nonzero()[:, 0]
        centres, stride = [], 1
        for n in reversed(mask.shape):  # torch.unravel_index imports sympy, in a second
            centres.append(_centres(n, flat.device)[flat // stride % n])
            stride *= n
        x, y, z = centres
        return cls(flat, (x, y, z), mask.shape)

    def values(self, u: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, C, N). `gather` takes a fifth of the time of `index_select`."""
        rows = u.flatten(2).flatten(0, 1)
        return rows.gather(1, self.flat.expand(len(rows), -1)).view(*u.shape[:2], -1)

    def put(self, u: Tensor, values: Tensor) -> None:
        """Write (B, C, N) values into u (B, C, Z, Y, X), contiguous."""
        rows = u.view(-1, self.size.numel())
        rows.scatter_(1, self.flat.expand(len(rows), -1), values.flatten(0, 1))

    def sample(self, u: Tensor, steps: Tensor, spacing: float) -> Tensor:
        """u (B, C, Z, Y, X) at x + step, for steps (B, 3, N) in mm -> (B, C, N).

        Border values hold.
        """
        out = u.new_empty(*u.shape[:2], len(self.flat))
        for first in range(0, len(self.flat), PART):
            part = slice(first, first + PART)
            parts = [
                torch.add(centre[part], steps[:, k, part], alpha=2 / (spacing * n))
                for k, (centre, n) in enumerate(zip(self.centres, reversed(self.size), strict=True))
            ]
            way = torch.stack(parts, dim=-1)[:, None, None]
            out[:, :, part] = sample_grid(u, way)[:, :, 0, 0]
        return out


def sample_grid(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """`grid_sample` with border values held -> (B, C, Z, Y, X).

    On a CPU, torch gives each item of a batch one thread. With fewer items than threads, each item
    is cut into equal parts.

    Args:
        image: (B, C, ...). grid: normalised coordinates, (B, Z, Y, X, 3).
    """
    threads = torch.get_num_threads()
    if image.device.type != "cpu" or image.shape[0] >= threads:
        return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)
    count = grid[0, ..., 0].numel()
    parts = max(k for k in range(1, threads + 1) if count % k == 0)
    out = []
    for item, positions in zip(image.split(1), grid.split(1), strict=True):
        shared = item.expand(parts, *item.shape[1:])
        cut = positions.reshape(parts, 1, 1, -1, 3)
        values = F.grid_sample(shared, cut, mode=mode, padding_mode="border", align_corners=False)
        out.append(values.movedim(0, 1).reshape(1, item.shape[1], *grid.shape[1:4]))
    return out[0] if len(out) == 1 else torch.cat(out)


def warp(image: Tensor, u: Tensor, spacing: float, mode: str = "bilinear") -> Tensor:
    """image(x + u(x)) on one grid, (B, C, Z, Y, X). Outside the grid, border values hold."""
    return sample_grid(image, sampling_grid(u, spacing), mode)


def compose(u_ab: Tensor, u_bc: Tensor, spacing: float) -> Tensor:
    """u_ac(x) = u_ab(x) + u_bc(x + u_ab(x)); all three on one grid, mm."""
    return u_ab + warp(u_bc, u_ab, spacing)


def resize_linear(u: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """`u` on `size` (Z, Y, X) voxels of the same extent, trilinear, cell-centred; still in mm."""
    if tuple(u.shape[2:]) == tuple(size):
        return u
    return F.interpolate(u, size=tuple(size), mode="trilinear", align_corners=False)


def downsample(image: Tensor, factor: int) -> Tensor:
    """Mean over factor x factor x factor cells, (B, C, Z, Y, X); a slice stays a slice."""
    if factor == 1:
        return image
    return F.avg_pool3d(image, [factor if n > 1 else 1 for n in image.shape[2:]])


def shrunk(size: Sequence[int], factor: float) -> torch.Size:
    """(Z, Y, X) voxels `factor` times as wide; a slice stays a slice."""
    return torch.Size(1 if n == 1 else round(n / factor) for n in size)


def sample_affine(u: Tensor, matrix: Tensor, offset: Tensor, size: tuple[int, int, int]) -> Tensor:
    """u (1, C, Z, Y, X) at index ``matrix @ i + offset`` for every index i of a grid of `size`.

    All in x, y, z. Trilinear, border values held -> (1, C, z, y, x).
    """
    extent = torch.tensor([*u.shape[:1:-1]], dtype=torch.float64)
    m = to_device((matrix * (2 / extent)[:, None]).float(), u.device)
    t = to_device(((2 * offset + 1) / extent - 1).float(), u.device)
    x, y, z = (torch.arange(n, dtype=torch.float32, device=u.device) for n in size)
    grid = (
        (x[:, None] * m[:, 0])[None, None]
        + (y[:, None] * m[:, 1])[None, :, None]
        + (z[:, None] * m[:, 2] + t)[:, None, None]
    )
    return sample_grid(u, grid[None])


def length(u: Tensor) -> Tensor:
    """|u| of a field, (B, 3, Z, Y, X) -> (B, Z, Y, X).

    torch's own norm over that axis takes five times as long.
    """
    x, y, z = u.unbind(1)
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()


def sample_index(u: Tensor, index: Tensor) -> Tensor:
    """u (1, C, Z, Y, X) at continuous indices x, y, z (1, 3, z, y, x) -> (1, C, z, y, x).

    Trilinear, border values held.
    """
    size = to_device(torch.tensor(u.shape[:1:-1], dtype=index.dtype), index.device)
    scale = 2 / size.view(3, 1, 1, 1)
    return sample_grid(u, torch.addcmul(scale / 2 - 1, index, scale).movedim(1, -1))


def sample_points(u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """u and its exact derivative at N points, trilinear, border values held.

    Args:
        u: (3, Z, Y, X). index: (N, 3), continuous, x, y, z.

    Returns:
        values (N, 3) and jacobian (N, 3, 3) with jacobian[n, i, k] = d u_i / d index_k.
    """
    size = to_device(torch.tensor(list(u.shape[:0:-1])), u.device)
    given = index
    index = torch.minimum(index.clamp_min(0), (size - 1).to(index.dtype))
    low = torch.minimum(index.floor().long(), (size - 2).clamp_min(0))
    t = index - low
    ny, nx = u.shape[2:]
    flat = u.reshape(3, -1)
    base = (low[:, 2] * ny + low[:, 1]) * nx + low[:, 0]
    strides = zip(u.shape[:0:-1], (1, nx, nx * ny), strict=True)
    steps = [[0, stride if n > 1 else 0] for n, stride in strides]
    c = [
        flat.index_select(1, base + dz + dy + dx)
        for dz in steps[2] for dy in steps[1] for dx in steps[0]
    ]  # fmt: skip
    tx, ty, tz = t.unbind(1)
    ex = [(c[k + 1] - c[k]) for k in (0, 2, 4, 6)]  # along x, per (z, y)
    lx = [c[k] + tx * e for k, e in zip((0, 2, 4, 6), ex, strict=True)]
    ey = [lx[1] - lx[0], lx[3] - lx[2]]
    ly = [lx[0] + ty * ey[0], lx[2] + ty * ey[1]]
    dz = ly[1] - ly[0]
    mix = (1 - ty) * (1 - tz), ty * (1 - tz), (1 - ty) * tz, ty * tz
    dx = mix[0] * ex[0] + mix[1] * ex[1] + mix[2] * ex[2] + mix[3] * ex[3]
    dy = ey[0] + tz * (ey[1] - ey[0])
    # u is flat beyond the border.
    slope = torch.stack((dx, dy, dz), dim=-1).movedim(0, 1) * (given == index)[:, None]
    return (ly[0] + tz * dz).T, slope


def rotate(matrix: Array, u: Tensor) -> Tensor:
    """`matrix` (3, 3) times every vector of u (1, 3, Z, Y, X).

    It is one product of two matrices. A batched product takes four times as long.
    """
    m = to_device(torch.from_numpy(np.ascontiguousarray(matrix)).float(), u.device)
    return (m @ u[0].flatten(1)).view(u.shape)
