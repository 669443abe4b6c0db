"""The inverse of any displacement field, on any grid: whoever made it, affine included or not, and where there is none."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.determinants import folding
from hsyn_cli.devices import choose_device, use_threads
from hsyn_cli.di_net import DINet
from hsyn_cli.errors import GeometryError
from hsyn_cli.fields import determinants, length, sample_affine, sample_index
from hsyn_cli.images import ImageLike, as_field, as_grid
from hsyn_cli.inverse import closer, sample_points, solve
from hsyn_cli.networks import coarse_inverse, load_networks
from hsyn_cli.report import ErrorStats, Folding
from hsyn_cli.slabs import each_slab
from hsyn_cli.space import Array, Grid

OUTSIDE, FOLDED = -1.0, -2.0  # marks in a residual map
TOLERANCE = 0.005  # mm
COARSE = 5  # voxels to a cube of the grid on which DI-Net begins
SEED, SEED_SWEEPS = 2, 2  # voxels to one of the grid on which cheap Newton steps go on, and how many of these
SWEEPS = 3  # cheap Newton steps at every voxel that is not there yet
FEW = 0.1  # of the voxels: Newton's method proper takes them up
FEW_STUCK = 500  # voxels of a slab that are worth more than one start
SLAB = 250_000  # voxels worked on at once
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
    to find p with p + u(p) = r = A^-1 q. DI-Net answers on a coarse grid, two cheap Newton steps make that exact at every second
    voxel, a cubic leads to all of them, further steps go on where the residual is too large, and Newton's method proper ends.

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
    one = np.eye(3)
    a, t = best_affine(field)
    back = np.linalg.inv(a).astype(np.float64)
    origin = np.array(grid.origin)
    to_index = np.linalg.inv(grid.index_to_point).astype(np.float64)
    to_r = to_index @ back @ grid.index_to_point
    u = _field(field, to_index @ back, to_r - one, to_index @ (back @ (origin - t) - origin), device)
    det, corner = (part.mul_(float(np.linalg.det(a))) for part in determinants(u, 1.0))
    verdict = folding(grid, det, corner)
    folds = bool((det <= 0).any())
    progress("DI-Net", 0.15)
    coarse, to_coarse = _coarse(di, u, grid)
    to_r = to_index @ back @ target.index_to_point
    first = to_index @ (back @ (np.array(target.origin) - t) - origin)
    across, up = _seed(u, coarse, to_coarse, to_r, first, target)
    to_axes = np.linalg.inv(to_r).astype(np.float64)
    to_shift = (back - one) @ target.index_to_point
    shift = (back - one) @ np.array(target.origin) - back @ t
    in_mm = a @ grid.index_to_point
    within = tolerance / float(np.linalg.svd(in_mm, compute_uv=False)[0])
    last = torch.tensor(grid.size, device=device).view(3, 1, 1, 1) - 1.0
    nx, ny, nz = target.size
    steps, errors = torch.empty(nz, ny, nx, 3), torch.empty(nz, ny, nx)

    def work(z0: int, z1: int) -> None:
        size = (nx, ny, z1 - z0)
        r = _indices(to_r, first + z0 * to_r[:, 2], size, device)
        near = slice(max(z0 // SEED - 2, 0), z1 // SEED + 3)  # what the cubic takes in
        v = (up[z0:z1, near] @ across[:, near]).view(1, 3, *size[::-1])
        v, rest = _solved(u, r, v, within, to_axes)
        p = r + v
        error = length(_turned(in_mm, rest))
        error[(p.amin(1) < -1e-3) | ((p - last).amax(1) > 1e-3)] = OUTSIDE
        if folds:
            error[(error >= 0) & (sample_index(det[:, None], p)[:, 0] <= 0)] = FOLDED
        errors[z0:z1] = error[0].cpu()
        e = _turned(grid.index_to_point, v)
        e += _indices(to_shift, shift + z0 * to_shift[:, 2], size, device)
        steps[z0:z1] = e[0].movedim(0, -1).cpu()

    each_slab(
        work, nz, math.ceil(nz / math.ceil(nx * ny * nz / SLAB)), device,
        lambda share: progress("exact inverse", 0.2 + 0.8 * share),
    )  # fmt: skip
    outside, folded = _count(errors == OUTSIDE), _count(errors == FOLDED)
    if outside == errors.numel():
        raise GeometryError(
            "the field leads nowhere into the grid that the inverse is wanted on",
            "give the image that the field leads to as reference",
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
    """The inverse of u (1, 3, Z, Y, X; voxels of `grid`) on cubes of about three voxels, and the way from an index of
    `grid` to one of theirs."""
    spacing = np.array(grid.spacing)
    cube = COARSE * float(spacing.prod() ** (1 / 3))
    size = [2 * max(2, math.ceil(n * s / cube / 2)) for n, s in zip(grid.size, spacing, strict=True)]
    ratio = cube / spacing
    per_voxel = torch.from_numpy(spacing).float().to(u.device).view(1, 3, 1, 1, 1)
    matrix, offset = torch.from_numpy(np.diag(ratio)), torch.from_numpy(ratio / 2 - 0.5)
    coarse = sample_affine(u, matrix, offset, (size[0], size[1], size[2])) * per_voxel
    shrink = torch.from_numpy(1 / ratio).float().to(u.device).view(3, 1, 1, 1)
    return coarse_inverse(di, coarse, cube) / per_voxel, lambda index: (index + 0.5) * shrink - 0.5


def _field(field: sitk.Image, turn: Array, slope: Array, offset: Array, device: torch.device) -> Tensor:
    """turn @ d(i) + slope @ i + offset at every index i of the grid of d -> (1, 3, Z, Y, X)."""
    values = sitk.GetArrayViewFromImage(field)
    depth, height, width, _ = values.shape
    u = torch.empty(1, 3, depth, height, width, device=device)

    def work(z0: int, z1: int) -> None:
        part = torch.from_numpy(values[z0:z1].copy()).to(device).float()
        u[:, :, z0:z1] = _turned(turn, part.movedim(-1, 0)[None])
        u[:, :, z0:z1] += _indices(slope, offset + z0 * slope[:, 2], (width, height, z1 - z0), device)

    each_slab(work, depth, max(1, SLAB // (height * width)), device)
    return u


def _seed(
    u: Tensor, coarse: Tensor, to_coarse: Callable[[Tensor], Tensor], to_r: Array, first: Array, target: Grid
) -> tuple[Tensor, Tensor]:
    """A coarse inverse at every second voxel of `target`, after two cheap Newton steps there, and a cubic through it.

    Args:
        to_r, first: index r = to_r @ i + first of u, for an index i of `target`.

    Returns:
        across (3, z, Y, X), up (Z, z): up @ across is that cubic at every voxel of `target`.
    """
    size = [-(-n // SEED) for n in target.size]
    middle = np.full(3, (SEED - 1) / 2)
    r = _indices(SEED * to_r, first + to_r @ middle, (size[0], size[1], size[2]), u.device)
    to_axes = np.linalg.inv(SEED * to_r).astype(np.float64)
    v = sample_index(coarse, to_coarse(r))
    for _ in range(SEED_SWEEPS):
        rest = v + sample_index(u, r + v)
        v = closer(v, rest, _turned(to_axes, rest))
    x, y, z = (cubic(n, fine, u.device) for n, fine in zip(size, target.size, strict=True))
    return (y @ (v[0] @ x.T)).flatten(2), z


def cubic(coarse: int, fine: int, device: torch.device) -> Tensor:
    """(fine, coarse): the Catmull-Rom spline through values at every SEED-th voxel, cell-centred, the outermost held."""
    at = (torch.arange(fine, dtype=torch.float64) - (SEED - 1) / 2) / SEED
    d = (at[:, None] - torch.arange(-2, coarse + 2)).abs()
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    weight = torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
    inner = weight[:, 2:-2]
    inner[:, 0] += weight[:, :2].sum(1)
    inner[:, -1] += weight[:, -2:].sum(1)
    return inner.float().to(device)


def _solved(u: Tensor, r: Tensor, v: Tensor, tolerance: float, to_axes: Array) -> tuple[Tensor, Tensor]:
    """v with |v + u(r + v)| at most `tolerance`, and v + u(r + v); r, v: (1, 3, z, y, x), all in voxels of u.

    `to_axes`: from voxels of u to those that r is laid out along.
    """
    rest = v + sample_index(u, r + v)
    for sweep in range(SWEEPS + 1):
        off = length(rest).flatten()
        few = np.flatnonzero(
            ~(off <= tolerance).cpu().numpy()
        )  # NaN is far, too; torch's nonzero takes ten times as long
        far = torch.from_numpy(few).to(u.device).expand(3, -1)
        if sweep == SWEEPS or len(few) < FEW * len(off):
            break
        before, after = _at(v, far), _at(closer(v, rest, _turned(to_axes, rest)), far)
        left = after + sample_index(u, _at(r, far) + after)
        better = length(left) < off[far[0]]  # the cheap steps can run away next to folds
        _put(v, far, torch.where(better, after, before))
        _put(rest, far, torch.where(better, left, _at(rest, far)))
    if len(few):
        at = _at(r, far).view(3, -1).T
        found = solve(u[0], at, _at(v, far).view(3, -1).T, tolerance)
        left = found + sample_points(u[0], at + found)[0]
        _try_elsewhere(u[0], at, found, left, tolerance)
        _put(v, far, found.T)
        _put(rest, far, left.T)
    return v, rest


def _try_elsewhere(u: Tensor, at: Tensor, found: Tensor, left: Tensor, tolerance: float) -> None:
    """Newton's method from a voxel away, in all directions, where it got stuck, which it does next to folds. In place, (N, 3)."""
    for shift in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        (stuck,) = (left.norm(dim=1) > tolerance).nonzero(as_tuple=True)
        if not 0 < len(stuck) <= FEW_STUCK:
            return
        trial = solve(u, at[stuck], found[stuck] + found.new_tensor(shift), tolerance)
        rest = trial + sample_points(u, at[stuck] + trial)[0]
        better = rest.norm(dim=1) < left[stuck].norm(dim=1)
        found[stuck[better]], left[stuck[better]] = trial[better], rest[better]


def _at(u: Tensor, which: Tensor) -> Tensor:
    """u (1, 3, z, y, x) at voxels `which` (3, N), counted through -> (1, 3, 1, 1, N)."""
    return u.view(3, -1).gather(1, which).view(1, 3, 1, 1, -1)


def _put(u: Tensor, which: Tensor, values: Tensor) -> None:
    """What `_at` gets."""
    u.view(3, -1).scatter_(1, which, values.reshape(3, -1))


def _indices(matrix: Array, offset: Array, size: tuple[int, int, int], device: torch.device) -> Tensor:
    """matrix @ i + offset for every index i (x, y, z) of a grid of `size` -> (1, 3, z, y, x)."""
    m = torch.from_numpy(matrix)
    x, y, z = ((m[:, k, None] * torch.arange(n)).float().to(device) for k, n in enumerate(size))
    z = z + torch.from_numpy(offset).float().to(device)[:, None]
    return (z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :])[None]


def _turned(matrix: Array, u: Tensor) -> Tensor:
    """`matrix` applied to every vector of u (1, 3, Z, Y, X); not by a batched product, which takes four times as long."""
    return (torch.from_numpy(matrix).float().to(u.device) @ u[0].flatten(1)).view(u.shape)


def _count(which: Tensor) -> int:
    return int(which.count_nonzero())


def _stats(errors: NDArray[np.float32]) -> ErrorStats:
    """Of all that is not marked."""
    values = errors[errors >= 0]
    if not values.size:
        return ErrorStats(math.nan, math.nan, math.nan)
    return ErrorStats(
        float(values.mean()), float(np.percentile(values, 99, overwrite_input=True)), float(values.max())
    )
