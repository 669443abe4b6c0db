"""Total fields: affine and deformation in one, forward on the fixed grid, inverse on the moving grid, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.determinants import folding
from hsyn_cli.fields import box_operator, determinant, determinants, sample, sample_affine, separable
from hsyn_cli.inverse import sample_points
from hsyn_cli.report import ErrorStats, Folding
from hsyn_cli.space import Array, Box, Grid, affine_parts

UNFOLDINGS = 10  # rounds
LEAST_DETERMINANT = 1e-3  # of a field on the grid it is written on
MOST_FOLDS = 0.1  # of all voxels
SAMPLES = 200_000  # foreground points at which the inverse error is measured


@dataclass(frozen=True)
class Totals:
    """forward: (1, 3, Z, Y, X) on the fixed grid; inverse: on the moving grid; mm, components in LPS."""

    forward: Tensor
    inverse: Tensor
    fixed: Grid
    moving: Grid
    working: Grid

    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """Both as SimpleITK vector images."""
        return to_image(self.forward, self.fixed), to_image(self.inverse, self.moving)

    def folding(self) -> tuple[Folding, Folding]:
        """Of the forward and of the inverse field."""
        forward = determinants(along(self.forward, self.fixed), self.fixed.spacing)
        inverse = determinants(along(self.inverse, self.moving), self.moving.spacing)
        return folding(self.fixed, *forward), folding(self.moving, *inverse)

    def inverse_errors(
        self, fixed_content: NDArray[np.bool_], moving_content: NDArray[np.bool_]
    ) -> tuple[ErrorStats, ErrorStats]:
        """|inverse(forward(p)) - p| over the fixed content, |forward(inverse(q)) - q| over the moving content.

        At up to 200,000 evenly taken voxels of each (Z, Y, X) mask whose images lie inside the other grid.
        """
        return (
            round_trip(self.forward, self.fixed, self.inverse, self.moving, fixed_content),
            round_trip(self.inverse, self.moving, self.forward, self.fixed, moving_content),
        )


def total_fields(
    fixed_to_moving: Tensor,
    moving_to_fixed: Tensor,
    working: Grid,
    affine: sitk.AffineTransform,
    fixed: Grid,
    moving: Grid,
    sharpenings: int,
) -> Totals:
    """With the affine A, the forward field at fixed point p is A(p + u(p)) - p and the inverse field at moving point q
    is r + v(r) - q with r = A^-1 q.

    Args:
        fixed_to_moving, moving_to_fixed: u and v, (1, 3, Z, Y, X) on `working`, mm along its axes.
        sharpenings: passes of `sharpened`; each takes out most of what the one before left.
    """
    a, t = affine_parts(affine)
    back = np.linalg.inv(a).astype(np.float64)
    shift = -back @ t
    u = on_target(fixed_to_moving, working, fixed)  # without folds
    forward = torch.einsum("ij,bjzyx->bizyx", torch.from_numpy(a).float().to(u.device), u)
    forward += affine_displacement(fixed, a, t, u.device)
    inverse = _sampled(moving_to_fixed, working, moving, back, shift)
    inverse += affine_displacement(moving, back, shift, u.device)
    bent = fixed.covered(working.corners()), moving.covered(working.corners() @ a.T + t)
    sharp = inverse
    for _ in range(sharpenings):
        sharp = sharpened(sharp, moving, forward, fixed, bent)
    return Totals(forward, unfolded(sharp, moving, working.spacing[0], inverse), fixed, moving, working)


def sharpened(inverse: Tensor, moving: Grid, forward: Tensor, fixed: Grid, bent: tuple[Box, Box]) -> Tensor:
    """The inverse with what linear interpolation between its voxels adds to inverse(forward(p)) - p taken out.

    Exact at its own voxels, a field is off between them by up to an eighth of its second difference, always to the
    same side. Subtracting e(p) = inverse(forward(p)) - p at p = inverse(q) moves that error to the other order,
    forward(inverse(q)): away from where fixed points and labels go, at the price of up to as much there.

    bent: where the fields are more than the affine, which interpolation leaves as it is; indices of `fixed`, of `moving`.
    """
    (grid, here), (other, there) = (g.part(box) for g, box in zip((fixed, moving), bent, strict=True))
    u, v = forward[here], inverse[there]
    points = affine_displacement(grid, np.eye(3), np.zeros(3), u.device, absolute=True) + u
    error = sampled_at(inverse, moving, points) + u
    for axis in range(3):  # beyond, nothing is to be corrected
        if bent[0][0][axis] > 0:
            error.select(-1 - axis, 0).zero_()
        if bent[0][1][axis] < fixed.size[axis]:
            error.select(-1 - axis, -1).zero_()
    points = affine_displacement(other, np.eye(3), np.zeros(3), u.device, absolute=True) + v
    out = inverse.clone()
    out[there] = v - sampled_at(error, grid, points)
    return out


def unfolded(u: Tensor, grid: Grid, reach: float, plain: Tensor | None = None) -> Tensor:
    """u (1, 3, Z, Y, X; mm LPS), but where it folds, and softly around, `plain`; and its own local means where that folds, too.

    A field that does not fold can do so on another grid, which sees it between its voxels. One that folds in more than a tenth of
    the voxels is turned inside out by its affine, and stays.

    Args:
        reach: mm that the local means look to each side, a voxel at least; not across slices much thicker than that.
    """
    folds = _folds(u, grid)
    if not 0 < folds.float().mean() < MOST_FOLDS:
        return u
    fine = 2 * max(reach, min(grid.spacing))
    reaches = [max(1, round(reach / s)) if s <= fine else 0 for s in grid.spacing[::-1]]  # voxels along z, y, x
    box = (slice(None), slice(None), *_around(folds[0, 0], [12 * n + 2 for n in reaches]))
    part, instead, u = u[box], None if plain is None else plain[box], u.clone()
    mean, far, soft = (box_operator(part, [2 * k * n + 1 for n in reaches]) for k in (1, 3, 2))
    folds = folds[box]
    near = separable(folds.float(), box_operator(part, [12 * n + 3 for n in reaches])) > 0
    for _ in range(UNFOLDINGS):
        if not folds.any():
            break
        instead = separable(part, mean) if instead is None else instead
        weight = separable((separable(folds.float(), far) > 0).float(), soft)
        part, instead = torch.lerp(part, instead, weight), None
        folds = _folds(part, grid) & near  # at the box's sides there are one-sided differences
    u[box] = part
    return u


def _folds(u: Tensor, grid: Grid) -> Tensor:
    """(1, 1, Z, Y, X): where u folds, or nearly so: what is written is rounded, and the affine goes on top."""
    return ~(determinant(along(u, grid), grid.spacing) > LEAST_DETERMINANT)[:, None]


def _around(mask: Tensor, beyond: Sequence[int]) -> list[slice]:
    """Slices of the smallest box (Z, Y, X) around `mask`, so many voxels wider at each side."""
    ends = [(int(at.min()), int(at.max())) for at in mask.nonzero(as_tuple=True)]
    return [slice(max(low - n, 0), high + n + 1) for (low, high), n in zip(ends, beyond, strict=True)]


def affine_displacement(
    grid: Grid, a: Array, t: Array, device: torch.device, absolute: bool = False
) -> Tensor:
    """A x + t - x (or A x + t) at every voxel of `grid`, (1, 3, Z, Y, X), mm LPS."""
    m = a if absolute else a - np.eye(3)
    per_index = torch.from_numpy(m @ grid.index_to_point)
    start = torch.from_numpy(m @ np.array(grid.origin) + t)
    x, y, z = (torch.arange(n, dtype=torch.float64) for n in grid.size)
    along = [(v[None] * per_index[:, k, None]).float().to(device) for k, v in enumerate((x, y, z))]
    first = along[2] + start.float().to(device)[:, None]
    return (first[:, :, None, None] + along[1][:, None, :, None] + along[0][:, None, None, :])[None]


def on_target(u: Tensor, working: Grid, target: Grid) -> Tensor:
    """A working field (1, 3, Z, Y, X; mm along `working`'s axes) on another grid, components in LPS, `unfolded` there."""
    return unfolded(_sampled(u, working, target, np.eye(3), np.zeros(3)), target, working.spacing[0])


def _sampled(u: Tensor, working: Grid, target: Grid, a: Array, t: Array) -> Tensor:
    """Working field at the points A p + t of `target`'s voxels p -> (1, 3, Z, Y, X), components in LPS."""
    to_index = np.linalg.inv(working.index_to_point)
    matrix = to_index @ a @ target.index_to_point
    offset = to_index @ (a @ np.array(target.origin) + t - np.array(working.origin))
    out = sample_affine(u, torch.from_numpy(matrix), torch.from_numpy(offset), target.size)
    return torch.einsum("ij,bjzyx->bizyx", torch.from_numpy(working.axes).float().to(u.device), out)


def sampled_at(u: Tensor, grid: Grid, points: Tensor) -> Tensor:
    """u on `grid` at `points` (1, 3, Z, Y, X; mm LPS), trilinear, border held."""
    to_index = np.linalg.inv(grid.index_to_point)
    scale = 2 / np.array(grid.size)
    matrix = torch.from_numpy(to_index * scale[:, None]).float().to(u.device)
    offset = torch.from_numpy((to_index @ -np.array(grid.origin) + 0.5) * scale - 1).float().to(u.device)
    where = torch.addmm(offset, points[0].flatten(1).T, matrix.T)
    return sample(u, where.reshape(1, *points.shape[2:], 3))


def along(u: Tensor, grid: Grid) -> Tensor:
    """Components in LPS -> along the grid's axes."""
    return torch.einsum("ji,bjzyx->bizyx", torch.from_numpy(grid.axes).float().to(u.device), u)


def round_trip(there: Tensor, start: Grid, back: Tensor, end: Grid, content: NDArray[np.bool_]) -> ErrorStats:
    """|back(there(p)) - p| at up to 200,000 evenly taken voxels p of `content` (Z, Y, X) whose images lie inside `end`.

    Args:
        there, back: (1, 3, Z, Y, X) on `start` and `end`, mm LPS.
    """
    zyx = np.argwhere(content)
    zyx = zyx[:: max(1, len(zyx) // SAMPLES)]
    points = start.points(zyx[:, ::-1].astype(float))
    step = there[0][:, zyx[:, 0], zyx[:, 1], zyx[:, 2]].T.cpu().numpy().astype(float)
    index = end.indices(points + step)
    inside = ((index >= 0) & (index <= np.array(end.size) - 1)).all(1)
    if not inside.any():
        return ErrorStats(float("nan"), float("nan"), float("nan"))
    value, _ = sample_points(back[0], torch.from_numpy(index[inside]).float().to(back.device))
    error: Any = np.linalg.norm(step[inside] + value.cpu().numpy(), axis=1)
    return ErrorStats(float(error.mean()), float(np.percentile(error, 99)), float(error.max()))


def from_image(field: sitk.Image) -> Tensor:
    """SimpleITK vector image, mm LPS -> (1, 3, Z, Y, X) float32, components in LPS."""
    return torch.from_numpy(sitk.GetArrayFromImage(field)).float().movedim(-1, 0)[None].contiguous()


def to_image(u: Tensor, grid: Grid) -> sitk.Image:
    """(1, 3, Z, Y, X), mm LPS, on `grid` -> SimpleITK vector image."""
    values = np.ascontiguousarray(u[0].movedim(0, -1).cpu().numpy())
    return grid.stamp(sitk.GetImageFromArray(values, isVector=True))
