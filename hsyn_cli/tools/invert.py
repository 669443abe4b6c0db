"""Invert displacement fields of any program, on any grid, with or without an affine part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.devices import choose_device, use_threads
from hsyn_cli.errors import GeometryError
from hsyn_cli.fields.folding import Folding, determinants, measure_folding
from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.fields.inverse import newton_sweeps
from hsyn_cli.fields.sampling import length, rotate, sample_index
from hsyn_cli.fields.slabs import each_slab
from hsyn_cli.io.images import ImageLike, as_field, as_grid
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.networks import load_networks
from hsyn_cli.space import Array, Grid
from hsyn_cli.space.planes import lowered
from hsyn_cli.tools.inversion import Inversion
from hsyn_cli.tools.invert_fit import fitted
from hsyn_cli.tools.invert_start import (
    INVERSION_SLAB,
    SEED,
    best_affine,
    coarse_answer,
    cubic_start,
    indices,
    turned_field,
)

MARK_OUTSIDE, MARK_FOLDED = -1.0, -2.0  # marks in a residual map
TOLERANCE = 0.005  # mm


def invert(
    field: ImageLike,
    reference: ImageLike | None = None,
    *,
    tolerance: float = TOLERANCE,
    fit: bool = False,
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Inversion:
    """Find e with p = q + e(q) whenever q = p + d(p), for a displacement field d.

    d is in mm, LPS, and trilinear between voxels, as in ITK. The best affine map A comes out first:
    p + d(p) = A(p + u(p)), so u(p) = A^-1(p + d(p)) - p. It remains to find p with p + u(p) = r =
    A^-1 q. DI-Net estimates it on a coarse grid. Two approximate Newton steps refine it at every
    second voxel, and a cubic extends it to all voxels. Further approximate steps follow where the
    residual is too large, and Newton's method finishes.

    Args:
        field: SimpleITK vector image, or its path.
        reference: image whose grid e gets; None: the field's grid.
        tolerance: of the residual, mm.
        fit: also fit e to d, which stays as it is, so that both orders are about as exact.

    Raises:
        InputError, GeometryError, DeviceError, WeightsError: see `errors`.
    """
    field = as_field(field)
    grid = Grid.of(field) if reference is None else as_grid(reference)
    chosen = choose_device(device)
    use_threads(threads)
    progress("load networks", 0.0)
    _, di, _ = load_networks(weights, chosen)
    with torch.no_grad():
        inversion = _invert(field, grid, tolerance, di, chosen, progress)
    if fit:
        progress("fit", 0.95)
        inversion = fitted(field, inversion, best_affine(field)[0], chosen)
    inverse, residual = lowered(inversion.inverse), lowered(inversion.residual_map)
    return replace(inversion, inverse=inverse, residual_map=residual)


@dataclass(frozen=True)
class _Maps:
    """The affine maps between the field's grid and that of the inverse; x, y, z.

    A is the field's best affine map. With an index i of the target grid and its point q:
    r = to_r @ i + first is the index of A^-1 q, and to_shift @ i + shift is A^-1 q - q in mm.

    Attributes:
        a, t, back: the map A @ p + t, and the inverse of A.
        to_index: from mm to voxels of the field.
        in_mm: from voxels of the field to mm after A.
    """

    a: Array
    t: Array
    back: Array
    to_index: Array
    to_r: Array
    first: Array
    to_shift: Array
    shift: Array
    in_mm: Array


def _maps(field: sitk.Image, grid: Grid, target: Grid) -> _Maps:
    a, t = best_affine(field)
    back, one = np.linalg.inv(a).astype(np.float64), np.eye(3)
    origin, end = np.array(grid.origin), np.array(target.origin)
    to_index = np.linalg.inv(grid.index_to_point).astype(np.float64)
    return _Maps(
        a=a,
        t=t,
        back=back,
        to_index=to_index,
        to_r=to_index @ back @ target.index_to_point,
        first=to_index @ (back @ (end - t) - origin),
        to_shift=(back - one) @ target.index_to_point,
        shift=(back - one) @ end - back @ t,
        in_mm=a @ grid.index_to_point,
    )


def _without_affine(field: sitk.Image, grid: Grid, m: _Maps, device: torch.device) -> Tensor:
    """u(p) = A^-1(p + d(p)) - p in voxels, (1, 3, Z, Y, X)."""
    origin, turn = np.array(grid.origin), m.to_index @ m.back
    slope = turn @ grid.index_to_point - np.eye(3)
    offset = m.to_index @ (m.back @ (origin - m.t) - origin)
    return turned_field(field, turn, slope, offset, device)


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
    m = _maps(field, grid, target)
    u = _without_affine(field, grid, m, device)
    det, corner = (part.mul_(float(np.linalg.det(m.a))) for part in determinants(u, 1.0))
    verdict = measure_folding(grid, det, corner)
    folds = bool((det <= 0).any())
    progress("DI-Net", 0.15)
    coarse, to_coarse = coarse_answer(di, u, grid)
    across, up = cubic_start(u, coarse, to_coarse, m.to_r, m.first, target)
    to_axes = np.linalg.inv(m.to_r).astype(np.float64)
    within = tolerance / float(np.linalg.svd(m.in_mm, compute_uv=False)[0])
    last = torch.tensor(grid.size, device=device).view(3, 1, 1, 1) - 1.0
    nx, ny, nz = target.size
    steps, errors = torch.empty(nz, ny, nx, 3), torch.empty(nz, ny, nx)

    def work(z0: int, z1: int) -> None:
        size = (nx, ny, z1 - z0)
        r = indices(m.to_r, m.first + z0 * m.to_r[:, 2], size, device)
        near = slice(max(z0 // SEED - 2, 0), z1 // SEED + 3)  # support of the cubic
        v = (up[z0:z1, near] @ across[:, near]).view(1, 3, *size[::-1])
        v, rest = newton_sweeps(u, r, v, within, to_axes)
        p = r + v
        error = length(rotate(m.in_mm, rest))
        error[(p.amin(1) < -1e-3) | ((p - last).amax(1) > 1e-3)] = MARK_OUTSIDE
        if folds:
            error[(error >= 0) & (sample_index(det[:, None], p)[:, 0] <= 0)] = MARK_FOLDED
        errors[z0:z1] = error[0].cpu()
        e = rotate(grid.index_to_point, v)
        e += indices(m.to_shift, m.shift + z0 * m.to_shift[:, 2], size, device)
        steps[z0:z1] = e[0].movedim(0, -1).cpu()

    each_slab(
        work, nz, math.ceil(nz / math.ceil(nx * ny * nz / INVERSION_SLAB)), device,
        lambda share: progress("exact inverse", 0.2 + 0.8 * share),
    )  # fmt: skip
    return _result(target, steps, errors, verdict, tolerance)


def _result(
    target: Grid, steps: Tensor, errors: Tensor, verdict: Folding, tolerance: float
) -> Inversion:
    """Make an Inversion of e (Z, Y, X, 3) and residuals (Z, Y, X), mm. Raises GeometryError."""
    outside, folded = _count(errors == MARK_OUTSIDE), _count(errors == MARK_FOLDED)
    if outside == errors.numel():
        raise GeometryError(
            "no point of the field leads into the grid of the inverse",
            "give the image that the field leads to as --reference",
        )
    return Inversion(
        target.stamp(sitk.GetImageFromArray(steps.numpy(), isVector=True)),
        _stats(errors.numpy()),
        target.stamp(sitk.GetImageFromArray(errors.numpy())),
        verdict,
        outside,
        folded,
        _count(errors > 10 * tolerance),
        errors.numel(),
    )


def _count(mask: Tensor) -> int:
    return int(mask.count_nonzero())


def _stats(errors: NDArray[np.float32]) -> ErrorStats:
    """Statistics of the errors without a mark."""
    values = errors[errors >= 0]
    if not values.size:
        return ErrorStats(math.nan, math.nan, math.nan)
    return ErrorStats(
        float(values.mean()),
        float(np.percentile(values, 99, overwrite_input=True)),
        float(values.max()),
    )
