"""Total fields, which join affine and deformation, and their folding and inverse errors.

The forward field lies on the fixed grid, the inverse field on the moving grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.devices import return_memory
from hsyn_cli.fields.folding import Folding, determinant, determinants, measure_folding
from hsyn_cli.fields.grids import ErrorStats, affine_displacement, along_axes, resample_field
from hsyn_cli.fields.marked import Mask
from hsyn_cli.fields.mutual import Contents, RoundTrips, error_stats
from hsyn_cli.fields.repair import unfolded
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.space import Array, Box, Grid

Affine = tuple[Array, Array]  # (A, t), point -> A @ point + t, in mm LPS


class Settled(NamedTuple):
    """What was measured on settled fields: forward and inverse, from fixed and from moving."""

    folding: tuple[Folding, Folding]
    errors: tuple[ErrorStats, ErrorStats]


@dataclass(frozen=True)
class Totals:
    """Total fields (1, 3, Z, Y, X) in mm, LPS: `forward` on `fixed`, `inverse` on `moving`.

    `affine`: the affine in them, fixed point -> moving point.
    """

    forward: Tensor
    inverse: Tensor
    fixed: Grid
    moving: Grid
    working: Grid
    affine: Affine

    def folding(self) -> tuple[Folding, Folding]:
        """The folding of the forward field and of the inverse field."""
        forward = determinants(along_axes(self.forward, self.fixed), self.fixed.spacing)
        inverse = determinants(along_axes(self.inverse, self.moving), self.moving.spacing)
        return measure_folding(self.fixed, *forward), measure_folding(self.moving, *inverse)

    def settle(self, contents: Contents, steps: int, core: Contents | None = None) -> Settled:
        """Fit both fields to each other and unfold them, in place; then measure them.

        The inverse errors are |inverse(forward(p)) - p| over the fixed content, and
        |forward(inverse(q)) - q| over the moving content, at every voxel whose way stays inside.
        See `mutual` and `repair`.

        Args:
            contents: (Z, Y, X) masks on `fixed` and on `moving`. steps: of the fit.
            core: the part of them that was registered, and that all steps fit; elsewhere the fields
                are smooth, and voxels that are far off are fitted alone. None: all.
        """
        a, t = self.affine
        boxes = self.bent()
        near = within(contents[0], boxes[0]), within(contents[1], boxes[1])
        first = near if core is None else (within(core[0], boxes[0]), within(core[1], boxes[1]))
        trips = [self._trips(first)]
        if steps:
            trips[0].fit(steps)
            return_memory()
        self._unfold_both(a, t)
        if core is not None:
            trips.append(self._trips((near[0] & ~first[0], near[1] & ~first[1])))
        if steps:
            for part in reversed(trips):
                part.fit_far(steps)
        folding = self.folding()
        if steps and any(found.voxels for found in folding):  # the last steps may fold, too
            self._unfold_both(a, t)
            for part in reversed(trips):
                part.fit_far(1, good=self._fold_free)
            folding = self.folding()
        if any(part is not whole for part, whole in zip(near, contents, strict=True)):
            trips.append(self._trips((contents[0] & ~near[0], contents[1] & ~near[1])))
        there, back = (torch.cat(way) for way in zip(*(p.lengths() for p in trips), strict=True))
        return Settled(folding, (error_stats(there), error_stats(back)))

    def _fold_free(self, both: tuple[Tensor, Tensor]) -> bool:
        """Whether no voxel folds in parts (1, 3, Z, Y, X; mm LPS) of forward and inverse field."""
        grids = (self.fixed, self.moving)
        parts = (
            determinant(along_axes(u, grid), grid.spacing)
            for u, grid in zip(both, grids, strict=True)
        )
        return all(bool((det > 0).all()) for det in parts)

    def bent(self) -> tuple[Box, Box]:
        """The boxes of `fixed` and of `moving` outside which the fields are no more than affine."""
        a, t = self.affine
        corners = self.working.corners()
        return self.fixed.covered(corners), self.moving.covered(corners @ a.T + t)

    def _trips(self, contents: Contents) -> RoundTrips:
        a, _ = self.affine
        return RoundTrips.of(self.forward, self.fixed, self.inverse, self.moving, contents, a)

    def _unfold_both(self, a: Array, t: Array) -> None:
        back = np.linalg.inv(a).astype(np.float64)
        here, there = self.bent()
        self._unfold(self.forward, self.fixed, here, a, t)
        self._unfold(self.inverse, self.moving, there, back, -back @ t)

    def _unfold(self, u: Tensor, grid: Grid, box: Box, a: Array, t: Array) -> None:
        """Replace folds of a total field in a box in place; an affine that mirrors is no fold."""
        grid, where = grid.part(box)
        u = u[where]
        bent = without_affine(u, grid, a, t)
        mended = unfolded(bent, grid, self.working.spacing[0])
        if mended is not bent:
            u.copy_(rotate(a, mended)).add_(affine_displacement(grid, a, t, u.device))


def within(content: Mask, box: Box) -> Mask:
    """`content` (Z, Y, X) in a box of its grid; `content` itself if it has nothing outside."""
    z, y, x = (slice(a, b) for a, b in zip(box[0][::-1], box[1][::-1], strict=True))
    part = content[z, y, x]
    if np.count_nonzero(part) == np.count_nonzero(content):
        return content
    out = np.zeros_like(content)
    out[z, y, x] = part
    return out


def without_affine(u: Tensor, grid: Grid, a: Array, t: Array) -> Tensor:
    """The w with A (p + w(p)) + t = p + u(p), for u (1, 3, Z, Y, X) on `grid`, mm LPS."""
    back = np.linalg.inv(a).astype(np.float64)
    shift = affine_displacement(grid, a, t, u.device)
    return rotate(back, torch.sub(u, shift, out=shift))


def total_fields(
    fixed_to_moving: Tensor,
    moving_to_fixed: Tensor,
    working: Grid,
    affine: Affine,
    fixed: Grid,
    moving: Grid,
) -> Totals:
    """Total fields of the deformations u and v and the affine A.

    The forward field at fixed point p is A(p + u(p)) - p. The inverse field at moving point q is
    r + v(r) - q with r = A^-1 q.

    Args:
        fixed_to_moving, moving_to_fixed: u and v, (1, 3, Z, Y, X) on `working`, mm along its axes.
    """
    a, t = affine
    back = np.linalg.inv(a).astype(np.float64)
    shift = -back @ t
    here = resample_field(fixed_to_moving, working, fixed, np.eye(3), np.zeros(3))
    forward = rotate(a, here)
    forward += affine_displacement(fixed, a, t, forward.device)
    inverse = resample_field(moving_to_fixed, working, moving, back, shift)
    inverse += affine_displacement(moving, back, shift, inverse.device)
    return Totals(forward, inverse, fixed, moving, working, affine)


def field_on(u: Tensor, working: Grid, target: Grid) -> Tensor:
    """A working field (1, 3, Z, Y, X; mm along its axes) on `target`, in LPS, `unfolded` there."""
    resampled = resample_field(u, working, target, np.eye(3), np.zeros(3))
    return unfolded(resampled, target, working.spacing[0])
