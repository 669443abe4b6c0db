"""Fit two displacement fields to each other, until each is the other's inverse as written.

Two fields that are exact inverses at their own voxels are not inverses between them: linear
interpolation of a rough field is off by up to an eighth of its second difference. The fit takes
both fields for what every program takes them for, trilinear functions, and lowers both round trips
at once. Ours, not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.devices import return_memory, to_device
from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.fields.marked import Mask
from hsyn_cli.fields.repair import soften
from hsyn_cli.fields.sampling import length, sample_grid
from hsyn_cli.fields.slabs import each_slab
from hsyn_cli.fields.ways import Ways, points_at_once
from hsyn_cli.space import Array, Box, Grid

RATE, MOMENTUM = 0.3, 0.3
OTHERS = 0.7  # how much the round trips that end in a voxel count for it, beside its own
GREW, SLOWER = 1.2, 0.7  # a voxel whose squared residual grows by that factor gets a lower rate
FAR = 0.1  # mm; voxels that are off by more get more steps
WORST = 0.25  # mm; fields become smoother around voxels that are off by more

Contents = tuple[Mask, Mask]
Fields = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Start:
    """One of the two fields, and the voxels p that the round trips other(own(p)) - p start from.

    Attributes:
        own: (1, 3, Z, Y, X) view of the field, mm LPS.
        voxels: (N,) flat indices of the points p that count.
        starts: (N, 3), these points in grid_sample's units of the other field's grid.
        to_other: (3, 3), from mm to these units; it multiplies from the right.
        linear: (3, 3), the affine part of the map, x -> x @ linear.
    """

    own: Tensor
    voxels: Tensor
    starts: Tensor
    to_other: Tensor
    linear: Tensor

    @classmethod
    def of(cls, own: Tensor, box: Box, ways: Ways, end: Box, linear: Array) -> Start:
        """The part of a field in a box of its grid, whose ways lead to a box of the other grid.

        linear: (3, 3), x -> linear @ x.
        """
        ny, nx = own.shape[3:]
        corner = to_device(torch.tensor(box[0], dtype=torch.int32), own.device)
        x, y, z = (ways.voxels - corner).unbind(1)
        first, last = (to_device(torch.tensor(at), own.device) for at in end)
        scale = 2 / (last - first)
        return cls(
            own,
            (z * ny + y) * nx + x,  # int32 takes half the memory
            (ways.starts - first + 0.5) * scale - 1,
            ways.per_mm * scale,
            to_device(torch.from_numpy(linear.T.copy()).float(), own.device),
        )

    def side(self) -> Side:
        """With room for the residuals."""
        rows = self.own.new_zeros(*self.own.shape[2:], 6)
        rows[..., :3] = self.own[0].movedim(0, -1)
        return Side(**vars(self), rows=rows.view(-1, 6))


@dataclass(frozen=True)
class Side(Start):
    """A copy of the field that a fit works on.

    `rows`: (Z * Y * X, 6), the field and the residuals of the round trips, mm LPS.
    """

    rows: Tensor

    @property
    def stack(self) -> Tensor:
        """The field and the residuals, (1, 6, Z, Y, X)."""
        return self.rows.view(*self.own.shape[2:], 6).movedim(-1, 0)[None]

    def only(self, which: Tensor) -> Side:
        """The same field with some of the round trips."""
        return replace(self, voxels=self.voxels[which], starts=self.starts[which])

    def calm(self, worst: Tensor) -> None:
        """Blend the field with its local means around the voxels `worst`, (N,) flat indices.

        Where a field nearly folds, steps alone do not bring the round trips to an end. Only the
        voxels of the round trips change.
        """
        if not len(worst):
            return
        counts = torch.zeros(len(self.rows), dtype=torch.bool, device=self.rows.device)
        counts[self.voxels.long()] = True
        flat = self.rows[:, :3].T.contiguous()
        changed = soften(flat, worst.long(), self.own.shape[2:], counts)
        self.rows[changed, :3] = flat[:, changed].T

    def each_part(self, work: Callable[[slice], None]) -> None:
        """Call `work` on the round trips, some at a time."""
        device = self.rows.device
        if len(self.voxels):
            at_once = points_at_once(device)
            each_slab(lambda a, b: work(slice(a, b)), len(self.voxels), at_once, device)

    def arrivals(self, part: slice, values: Tensor) -> Tensor:
        """Values (1, C, Z, Y, X) of the other side where the field leads to, (N, C)."""
        step = self.rows[self.voxels[part].long(), :3]
        way = torch.addmm(self.starts[part], step, self.to_other)
        return sample_grid(values, way.view(1, 1, 1, -1, 3))[0, :, 0, 0].T

    def measure(self, other: Side) -> Tensor:
        """Bring the residuals up to date -> their lengths (N,), mm."""
        lengths = self.starts.new_zeros(len(self.voxels))

        def work(part: slice) -> None:
            which = self.voxels[part].long()
            rest = self.rows[which, :3] + self.arrivals(part, other.stack[:, :3])
            self.rows[which, 3:] = rest
            lengths[part] = length(rest[..., None])[..., 0]

        self.each_part(work)
        return lengths


@dataclass(frozen=True)
class Mover:
    """Steps of a side's voxels. speeds: (N, 3), mm. rates: (N, 1), relative to RATE."""

    side: Side
    speeds: Tensor
    rates: Tensor

    @classmethod
    def of(cls, side: Side) -> Mover:
        still = torch.zeros_like(side.starts)
        return cls(side, still, torch.ones_like(still[:, :1]))

    def step(self, other: Side) -> None:
        """Lower the residuals of the round trips that start or end in the voxels.

        To take a residual back, the field at p changes by minus that residual, carried over by the
        affine part of the map. To take back those of the trips that end at p, it changes by minus
        the other side's residuals, sampled where p leads to. With a smaller share of them, the mean
        error falls faster, but the fields lose more of their detail.
        """
        side = self.side

        def work(part: slice) -> None:
            which, speed, rate = side.voxels[part].long(), self.speeds[part], self.rates[part]
            row, there = side.rows[which], side.arrivals(part, other.stack)
            rest = row[:, :3] + there[:, :3]
            before, now = (v.square().sum(1, keepdim=True) for v in (row[:, 3:], rest))
            rate.mul_(torch.where((now > GREW * before) & (before > 0), SLOWER, 1.0))
            pull = torch.addmm(there[:, 3:], rest, side.linear, beta=OTHERS)
            speed.mul_(MOMENTUM).sub_(pull.mul_(rate), alpha=RATE)
            side.rows[which] = torch.cat((row[:, :3] + speed, rest), 1)

        side.each_part(work)


@dataclass(frozen=True)
class RoundTrips:
    """The round trips inverse(forward(p)) - p and forward(inverse(q)) - q."""

    starts: tuple[Start, Start]

    @classmethod
    def of(
        cls,
        forward: Tensor,
        fixed: Grid,
        inverse: Tensor,
        moving: Grid,
        contents: Contents,
        linear: Array,
    ) -> RoundTrips:
        """Those on the boxes of the grids that they touch.

        Args:
            forward, inverse: (1, 3, Z, Y, X) on `fixed` and on `moving`, mm LPS; `fit` moves them.
            contents: (Z, Y, X) masks of the points p and q. Only trips that stay inside count.
            linear: (3, 3), the affine part of the forward map.
        """
        there = Ways.of(forward, fixed, moving, contents[0])
        back = Ways.of(inverse, moving, fixed, contents[1])
        here, end = _box(fixed, there.voxels, back.ends), _box(moving, back.voxels, there.ends)
        u, v = forward[fixed.part(here)[1]], inverse[moving.part(end)[1]]
        turned_back = np.linalg.inv(linear).astype(np.float64)
        first = Start.of(u, here, there, end, linear)
        second = Start.of(v, end, back, here, turned_back)
        del there, back
        return_memory()
        return cls((first, second))

    def sides(self) -> tuple[Side, Side]:
        """Both sides as the fields are now."""
        first, second = self.starts
        return first.side(), second.side()

    def fit(self, steps: int, *, moves: bool = True) -> None:
        """Fit both fields to each other, in place.

        Damped gradient steps lower the sums of |inverse(forward(p)) - p|^2 / 2 over p and of
        |forward(inverse(q)) - q|^2 / 2 over q. The fields take turns.

        Args:
            moves: False keeps the forward field as it is.
        """
        sides = self.sides()
        sides[1].measure(sides[0])
        _step(sides, sides, steps, moves)
        _write(sides)

    def fit_far(
        self, steps: int, *, moves: bool = True, good: Callable[[Fields], bool] = lambda both: True
    ) -> None:
        """As `fit`, only where the error is above FAR; then once more, after `Side.calm`.

        good: whether both fields may become so, on the boxes of their grids; else they stay.
        """
        sides = first, second = self.sides()
        for again in (False, True):
            far = first.measure(second) > FAR, second.measure(first) > FAR
            if not any(bool(voxels.any()) for voxels in far):
                break
            parts = first.only(far[0]), second.only(far[1])
            _step(parts, sides, steps, moves)
            if not again:
                off = parts[0].measure(second), parts[1].measure(first)
                for k in (0, 1) if moves else (1,):
                    sides[k].calm(parts[k].voxels[off[k] > WORST])
        if good((first.stack[:, :3], second.stack[:, :3])):
            _write(sides)

    def errors(self) -> tuple[ErrorStats, ErrorStats]:
        """The errors of the round trips from p and from q; NaN where none counts."""
        there, back = self.lengths()
        return error_stats(there), error_stats(back)

    def lengths(self) -> tuple[Tensor, Tensor]:
        """The error of each round trip from p and from q, (N,) and (M,), mm."""
        first, second = self.sides()
        return first.measure(second), second.measure(first)


def _step(parts: tuple[Side, Side], sides: tuple[Side, Side], steps: int, moves: bool) -> None:
    """Steps on the round trips of `parts`, which are some of those of `sides`."""
    ahead, behind = map(Mover.of, parts)
    for _ in range(steps):
        if moves:
            ahead.step(sides[1])
        else:
            parts[0].measure(sides[1])
        behind.step(sides[0])


def _write(sides: tuple[Side, Side]) -> None:
    for side in sides:
        side.own.copy_(side.stack[:, :3])


def _box(grid: Grid, *indices: Tensor) -> Box:
    """The part of a grid around (N, 3) indices in x, y, z."""
    corners = [v for part in indices if len(part) for v in (part.amin(0), part.amax(0))]
    corners = corners or [indices[0].new_zeros(3)]
    ends = torch.stack([v.double() for v in corners])
    return grid.covered(grid.points(np.array(ends.tolist())))


def error_stats(errors: Tensor) -> ErrorStats:
    """Statistics of (N,) errors in mm."""
    if not len(errors):
        return ErrorStats(float("nan"), float("nan"), float("nan"))
    nearly = errors.kthvalue(max(1, round(0.99 * len(errors)))).values
    mean, nearly, most = torch.stack((errors.mean(), nearly, errors.max())).tolist()
    return ErrorStats(mean, nearly, most)
