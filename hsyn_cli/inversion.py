"""The inverse of any displacement field, on any grid: whoever made it, affine included or not, and where there is none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.determinants import folding
from hsyn_cli.devices import choose_device, use_threads
from hsyn_cli.di_net import DINet
from hsyn_cli.errors import GeometryError
from hsyn_cli.fields import determinant, sample_affine, sample_index
from hsyn_cli.images import ImageLike, as_field, as_grid
from hsyn_cli.inverse import sample_points, solve
from hsyn_cli.networks import coarse_inverse, load_networks
from hsyn_cli.report import ErrorStats, Folding
from hsyn_cli.space import Array, Grid, field_from_lps
from hsyn_cli.totals import affine_displacement, from_image, to_image

OUTSIDE, FOLDED = -1.0, -2.0  # marks in a residual map
TOLERANCE = 0.005  # mm
SWEEPS = 4
SLAB = 500_000  # voxels worked on at once
FIT_POINTS = 20_000


@dataclass(frozen=True)
class Inversion:
    """An inverse field e and what it is worth: |q + e(q) + d(q + e(q)) - q| at every voxel q of its grid.

    Attributes:
        inverse: float32 vector image, mm LPS.
        residual: over all voxels but those marked.
        residual_map: mm; -1 where no point of the field's grid leads to q, -2 where the answer lies in a fold.
        folding: of the field that was inverted.
        outside, folded: how many voxels carry the marks, of `voxels`.
        unsolved: how many of the others have a residual of more than ten times the tolerance, next to folds as a rule.
    """

    inverse: sitk.Image
    residual: ErrorStats
    residual_map: sitk.Image
    folding: Folding
    outside: int
    folded: int
    unsolved: int
    voxels: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the images."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in ("residual", "folding")} | {
            name: getattr(self, name) for name in ("outside", "folded", "unsolved", "voxels")
        }


def invert(
    field: ImageLike,
    reference: ImageLike | None = None,
    *,
    tolerance: float = TOLERANCE,
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Inversion:
    """e with p = q + e(q) whenever q = p + d(p), for a displacement field d (mm LPS, taken as trilinear, as ITK does).

    The best affine map A is taken out first: p + d(p) = A(p + u(p)), so u(p) = A^-1(p + d(p)) - p, and what is left is
    to find p with p + u(p) = r = A^-1 q. DI-Net answers on a coarse grid, fixed-point sweeps bring every voxel near, and
    Newton's method ends where they have not arrived.

    Args:
        field: SimpleITK vector image, or its path. reference: an image on whose grid e is wanted; None: on the field's.
        tolerance: mm, for the residual.

    Raises:
        InputError, GeometryError, DeviceError, WeightsError: see `errors`.
    """
    field = as_field(field)
    grid = Grid.of(field) if reference is None else as_grid(reference)
    where = choose_device(device)
    use_threads(threads)
    progress("load networks", 0.0)
    _, di, _ = load_networks(weights, where)
    with torch.no_grad():
        return _invert(field, grid, tolerance, di, where, progress)


def _invert(
    field: sitk.Image,
    target: Grid,
    tolerance: float,
    di: DINet,
    device: torch.device,
    progress: Callable[[str, float], None],
) -> Inversion:
    progress("folding", 0.05)
    grid = Grid.of(field)
    along = torch.from_numpy(field_from_lps(field))[None].to(device)
    det = determinant(along, grid.spacing)
    verdict = folding(along, grid, det[0])
    folds = bool((det <= 0).any())
    a, t = best_affine(field)
    back = np.linalg.inv(a).astype(np.float64)
    to_index = np.linalg.inv(grid.index_to_point).astype(np.float64)
    d = from_image(field).to(device)
    u = affine_displacement(grid, back, -back @ t, device) + _turned(back, d)
    u = _turned(to_index, u)  # voxels
    progress("DI-Net", 0.15)
    seed, to_seed = _coarse(di, u, grid)
    matrix = to_index @ back @ target.index_to_point
    offset = to_index @ (back @ (np.array(target.origin) - t) - np.array(grid.origin))
    in_mm = a @ grid.index_to_point
    within = tolerance / float(np.linalg.svd(in_mm, compute_uv=False)[0])
    nx, ny, nz = target.size
    last = torch.tensor(grid.size, device=device) - 1.0
    steps, errors = torch.empty(1, 3, nz, ny, nx), torch.empty(nz, ny, nx)
    deep = max(2, SLAB // (nx * ny) // 2 * 2)
    for z in range(0, nz, deep):
        progress("exact inverse", 0.2 + 0.8 * z / nz)
        r = _indices(matrix, offset + matrix[:, 2] * z, (nx, ny, min(deep, nz - z)), device)
        v, rest = _solved(u, r, sample_index(seed, to_seed(r)).movedim(1, -1), within)
        p = r + v
        error = _turned(in_mm, rest.movedim(-1, 1)).square().sum(1).sqrt()
        error[((p < -1e-3) | (p > last + 1e-3)).any(-1)] = OUTSIDE
        if folds:
            error[(error >= 0) & (sample_index(det[:, None], p)[:, 0] <= 0)] = FOLDED
        errors[z : z + deep] = error[0].cpu()
        steps[:, :, z : z + deep] = _turned(grid.index_to_point, v.movedim(-1, 1)).cpu()
    steps += affine_displacement(target, back, -back @ t, torch.device("cpu"))
    residual_map = target.stamp(sitk.GetImageFromArray(errors.numpy()))
    outside, folded = int((errors == OUTSIDE).sum()), int((errors == FOLDED).sum())
    if outside == errors.numel():
        raise GeometryError(
            "the field leads nowhere into the grid that the inverse is wanted on",
            "give the image that the field leads to as reference",
        )
    unsolved = int((errors > 10 * tolerance).sum())
    stats = _stats(errors[errors >= 0])
    return Inversion(
        to_image(steps, target), stats, residual_map, verdict, outside, folded, unsolved, errors.numel()
    )


def best_affine(field: sitk.Image) -> tuple[Array, Array]:
    """(A, t), the affine map nearest to p -> p + d(p) in the sense of least squares over the grid; mm LPS.

    The identity where that map turns space inside out or flat.
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
    found = np.linalg.lstsq(design, ends, rcond=None)[0]
    a: Array = found[:3].T
    if np.linalg.det(a) < 0.1 or np.linalg.cond(a) > 20:
        return np.eye(3), np.zeros(3)
    return a, found[3] - a @ middle


def _coarse(di: DINet, u: Tensor, grid: Grid) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The inverse of u (1, 3, Z, Y, X; voxels of `grid`) on cubes of about two voxels, and the way from an index of
    `grid` to one of theirs."""
    spacing = np.array(grid.spacing)
    cube = 2 * float(spacing.prod() ** (1 / 3))
    size = [2 * max(2, math.ceil(n * s / cube / 2)) for n, s in zip(grid.size, spacing, strict=True)]
    ratio = cube / spacing
    per_voxel = torch.from_numpy(spacing).float().to(u.device).view(1, 3, 1, 1, 1)
    coarse = sample_affine(
        u * per_voxel,
        torch.from_numpy(np.diag(ratio)),
        torch.from_numpy(ratio / 2 - 0.5),
        (size[0], size[1], size[2]),
    )
    shrink = torch.from_numpy(1 / ratio).float().to(u.device)
    return coarse_inverse(di, coarse, cube) / per_voxel, lambda index: (index + 0.5) * shrink - 0.5


def _solved(u: Tensor, r: Tensor, v: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """v with |v + u(r + v)| at most `tolerance`, and v + u(r + v); r, v: (1, z, y, x, 3), all in voxels of u."""
    for _ in range(SWEEPS):
        v = -sample_index(u, r + v).movedim(1, -1)
    rest = v + sample_index(u, r + v).movedim(1, -1)
    todo = (rest.square().sum(-1) > tolerance**2).nonzero(as_tuple=True)
    if len(todo[0]):
        v[todo] = solve(u[0], r[todo], v[todo] - rest[todo], tolerance)
        rest[todo] = v[todo] + sample_points(u[0], r[todo] + v[todo])[0]
    return v, rest


def _indices(matrix: Array, offset: Array, size: tuple[int, int, int], device: torch.device) -> Tensor:
    """matrix @ i + offset for every index i (x, y, z) of a grid of `size` -> (1, z, y, x, 3)."""
    x, y, z = (torch.arange(n, dtype=torch.float64) for n in size)
    m = torch.from_numpy(matrix)
    along = [(v[:, None] * m[:, k]).float().to(device) for k, v in enumerate((x, y, z))]
    start = along[2] + torch.from_numpy(offset).float().to(device)
    return (start[:, None, None] + along[1][:, None] + along[0])[None]


def _turned(matrix: Array, u: Tensor) -> Tensor:
    """`matrix` applied to every vector of u (1, 3, Z, Y, X)."""
    return torch.einsum("ij,bjzyx->bizyx", torch.from_numpy(matrix).float().to(u.device), u)


def _stats(errors: Tensor) -> ErrorStats:
    if not errors.numel():
        return ErrorStats(math.nan, math.nan, math.nan)
    values = errors.numpy()
    return ErrorStats(float(values.mean()), float(np.percentile(values, 99)), float(values.max()))
