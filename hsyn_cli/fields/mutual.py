"""Fit two displacement fields to each other, until each is the other's inverse as written.

Two fields that are exact inverses at their own voxels are not inverses between them: linear
interpolation of a rough field is off by up to an eighth of its second difference. The fit takes
both fields for what every program takes them for, trilinear functions, and lowers both round trips
at once. Ours, not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.fields.folding import forward_differences
from hsyn_cli.fields.grids import ErrorStats, along_axes
from hsyn_cli.space import Grid

RATE, MOMENTUM = 0.5, 0.5
STEADY = 0.5  # added to every voxel's weight
PART = 1_000_000  # points in one call
LINEAR, BORDER = 0, 1  # grid_sample's codes

Round = tuple[float, int]  # voxels off by more than so many mm, and the number of steps on them

A, B = TypeVar("A"), TypeVar("B")


@dataclass
class Trip:
    """The round trip other(own(p)) - p from the voxels of `grid`, by way of `end`.

    Attributes:
        own, other: (1, 3, Z, Y, X) on `grid` and on `end`, contiguous, mm LPS.
        voxels: (N,) flat indices into `grid` of the points p that count.
        starts: (3, N), these points in grid_sample's units of `end`.
        to_end: (3, 3), from mm to these units.
    """

    own: Tensor
    grid: Grid
    other: Tensor
    end: Grid
    voxels: Tensor
    starts: Tensor
    to_end: Tensor

    @classmethod
    def over(
        cls, own: Tensor, grid: Grid, other: Tensor, end: Grid, content: NDArray[np.bool_]
    ) -> Trip:
        """The trips of the voxels in `content` (Z, Y, X) that stay inside `end`."""
        to_index = np.linalg.inv(end.index_to_point)
        scale = 2 / np.array(end.size)
        first = to_index @ (np.array(grid.origin) - np.array(end.origin))
        per_index = to_index @ grid.index_to_point
        z, y, x = (torch.from_numpy(k).float() for k in np.nonzero(content))
        matrix, offset = (
            torch.from_numpy(part).float()
            for part in (per_index * scale[:, None], (first + 0.5) * scale - 1)
        )
        starts = (matrix @ torch.stack((x, y, z))).add_(offset[:, None])
        voxels = torch.from_numpy(np.flatnonzero(content))
        to_end = torch.from_numpy(to_index * scale[:, None]).float()
        trip = cls(own, grid, other, end, *(t.to(own.device) for t in (voxels, starts, to_end)))
        last = 1 - 1 / torch.tensor(end.size, device=own.device)
        ways = [trip.way(part)[1] for part in trip.parts()]
        inside = torch.cat([(way.abs() <= last[:, None]).all(0) for way in ways] or [voxels > 0])
        trip.voxels, trip.starts = trip.voxels[inside], trip.starts[:, inside]
        return trip

    def parts(self, which: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The voxels and starts, or those of the indices `which`, PART at a time."""
        for k in range(0, len(self.voxels if which is None else which), PART):
            part = slice(k, k + PART) if which is None else which[k : k + PART]
            yield self.voxels[part], self.starts[:, part]

    def way(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """own at N voxels in mm, and where it leads in `end` in grid_sample's units, (3, N) each."""
        voxels, starts = part
        step = self.own.view(3, -1).gather(1, voxels.expand(3, -1))
        return step, torch.addmm(starts, self.to_end, step)

    def rest(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The residual of the round trip (3, N), mm LPS, and the positions (1, 1, 1, N, 3)."""
        step, way = self.way(part)
        at = _as_positions(way)
        return _sampled(self.other, at).add_(step), at

    def errors(self) -> Tensor:
        """(N,) lengths of the residual, mm."""
        parts = [self.rest(part)[0].square_().sum(0).sqrt_() for part in self.parts()]
        return torch.cat(parts) if parts else self.own.new_zeros(0)

    def far(self, mm: float) -> Tensor:
        """Which of the voxels are off by more than that."""
        return (self.errors() > mm).nonzero()[:, 0]

    def slopes(self, far: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative of half the sum of squared residuals by `own` and by `other`.

        The sum is over the voxels `far`.
        """
        of_own, of_other = torch.zeros_like(self.own), torch.zeros_like(self.other)
        for part in self.parts(far):
            rest, at = self.rest(part)
            pushed, slid = torch.ops.aten.grid_sampler_3d_backward(
                rest.view(1, 3, 1, 1, -1), self.other, at, LINEAR, BORDER, False, [True, True]
            )
            of_other += pushed
            rest.addmm_(self.to_end.T, slid.view(-1, 3).T)
            of_own.view(3, -1).scatter_(1, part[0].expand(3, -1), rest)
        return of_own, of_other

    def weights(self) -> tuple[Tensor, Tensor]:
        """What divides the steps: bounds of the second derivatives, (1, 1, Z, Y, X) each.

        For `own`, it is the squared Frobenius norm of the other map's Jacobian where the voxel
        goes. For `other`, it is the weight that the samples put on each voxel.
        """
        norm = _frobenius(self.other, self.end)
        of_own, of_other = torch.zeros_like(self.own[:, :1]), torch.zeros_like(norm)
        for part in self.parts():
            at = _as_positions(self.way(part)[1])
            of_own.view(-1).scatter_(0, part[0], _sampled(norm, at)[0])
            ones = torch.ones(1, 1, 1, 1, len(part[0]), device=at.device)
            of_other += torch.ops.aten.grid_sampler_3d_backward(
                ones, norm, at, LINEAR, BORDER, False, [True, False]
            )[0]
        return of_own, of_other


def round_trips(
    forward: Tensor,
    fixed: Grid,
    inverse: Tensor,
    moving: Grid,
    contents: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> tuple[Trip, Trip]:
    """The trips from fixed and from moving points of the `contents`, those that stay inside."""
    first, second = both(
        lambda side: Trip.over(*side),
        (
            (forward, fixed, inverse, moving, contents[0]),
            (inverse, moving, forward, fixed, contents[1]),
        ),
    )
    return first, second


def fit(trips: tuple[Trip, Trip], rounds: Sequence[Round], moves: bool = True) -> None:
    """Lower both round trips' residuals, in place.

    Gradient steps with Polyak's momentum on the sum over p of |inverse(forward(p)) - p|^2 / 2 and
    over q of |forward(inverse(q)) - q|^2 / 2. Each voxel's step is divided by a bound of its second
    derivative. Each round takes the voxels that are far off at its start.

    Args:
        moves: False keeps the first trip's own field as it is.
    """
    first, second = trips
    own, other = zip(*both(Trip.weights, trips), strict=True)
    by = own[0] + other[1] + STEADY, own[1] + other[0] + STEADY
    fields = first.own, second.own
    speeds = tuple(torch.zeros_like(field) for field in fields)
    for above, steps in rounds:
        far = both(lambda trip, mm=above: trip.far(mm), trips)
        for _ in range(steps):
            slopes = both(lambda k, far=far: trips[k].slopes(far[k]), (0, 1))
            pulls = slopes[0][0].add_(slopes[1][1]), slopes[1][0].add_(slopes[0][1])
            for k, (field, speed, pull) in enumerate(zip(fields, speeds, pulls, strict=True)):
                if k or moves:
                    speed.mul_(MOMENTUM).sub_(pull.div_(by[k]), alpha=RATE)
                    field.add_(speed)


def error_stats(trip: Trip) -> ErrorStats:
    """The round trip's error over all its voxels."""
    errors = trip.errors()
    if not len(errors):
        return ErrorStats(float("nan"), float("nan"), float("nan"))
    nearly = errors.kthvalue(max(1, round(0.99 * len(errors)))).values
    return ErrorStats(float(errors.mean()), float(nearly), float(errors.max()))


def both(work: Callable[[A], B], pair: tuple[A, A]) -> list[B]:
    """`work` on both items, on a CPU side by side: sampling one field uses one thread."""
    if torch.get_num_threads() == 1:
        return [work(item) for item in pair]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, pair))


def _frobenius(u: Tensor, grid: Grid) -> Tensor:
    """The squared Frobenius norm of d(p + u(p)) / dp, (1, 1, Z, Y, X).

    Its columns' squares are means of those of both one-sided differences.
    """
    out = torch.zeros_like(u[:, :1])
    for k, d in enumerate(forward_differences(along_axes(u, grid), grid.spacing)):
        axis = 4 - k
        d[:, k] += 1
        size = d.square_().sum(1, keepdim=True).div_(2)
        n = size.shape[axis]
        for start, edge in ((0, n), (1, 0)):  # ahead of a voxel, and behind it
            out.narrow(axis, start, n).add_(size)
            out.narrow(axis, edge, 1).add_(size.narrow(axis, min(edge, n - 1), 1))
    return out


def _as_positions(way: Tensor) -> Tensor:
    return way.T.contiguous().view(1, 1, 1, -1, 3)


def _sampled(u: Tensor, at: Tensor) -> Tensor:
    """(1, C, Z, Y, X) at (1, 1, 1, N, 3) -> (C, N), border values held."""
    values = F.grid_sample(u, at, padding_mode="border", align_corners=False)
    return values.view(u.shape[1], -1)
