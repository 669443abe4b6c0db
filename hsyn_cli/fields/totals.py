"""Total fields, which join affine and deformation, and their folding and inverse errors.

The forward field lies on the fixed grid, the inverse field on the moving grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.fields.folding import Folding, determinants, measure_folding
from hsyn_cli.fields.grids import (
    ErrorStats,
    affine_displacement,
    along_axes,
    resample_field,
    to_image,
)
from hsyn_cli.fields.mutual import Round, both, error_stats, fit, round_trips
from hsyn_cli.fields.repair import unfolded
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.space import Grid, affine_parts


@dataclass(frozen=True)
class Totals:
    """Total fields (1, 3, Z, Y, X) in mm, LPS: `forward` on `fixed`, `inverse` on `moving`."""

    forward: Tensor
    inverse: Tensor
    fixed: Grid
    moving: Grid
    working: Grid

    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """Both as SimpleITK vector images."""
        return to_image(self.forward, self.fixed), to_image(self.inverse, self.moving)

    def folding(self) -> tuple[Folding, Folding]:
        """The folding of the forward field and of the inverse field."""
        forward = determinants(along_axes(self.forward, self.fixed), self.fixed.spacing)
        inverse = determinants(along_axes(self.inverse, self.moving), self.moving.spacing)
        return measure_folding(self.fixed, *forward), measure_folding(self.moving, *inverse)

    def fit(
        self, contents: tuple[NDArray[np.bool_], NDArray[np.bool_]], rounds: Sequence[Round]
    ) -> tuple[ErrorStats, ErrorStats]:
        """Fit both fields to each other, in place, and return the inverse errors that remain.

        These are |inverse(forward(p)) - p| over the fixed content, and |forward(inverse(q)) - q|
        over the moving content, at every voxel whose way stays inside. See `mutual`.

        Args:
            contents: (Z, Y, X) masks on `fixed` and on `moving`. rounds: of the fit.
        """
        trips = round_trips(self.forward, self.fixed, self.inverse, self.moving, contents)
        fit(trips, rounds)
        there, back = both(error_stats, trips)
        return there, back


def total_fields(
    fixed_to_moving: Tensor,
    moving_to_fixed: Tensor,
    working: Grid,
    affine: sitk.AffineTransform,
    fixed: Grid,
    moving: Grid,
) -> Totals:
    """Total fields of the deformations u and v and the affine A, without folds.

    The forward field at fixed point p is A(p + u(p)) - p. The inverse field at moving point q is
    r + v(r) - q with r = A^-1 q.

    Args:
        fixed_to_moving, moving_to_fixed: u and v, (1, 3, Z, Y, X) on `working`, mm along its axes.
    """
    a, t = affine_parts(affine)
    back = np.linalg.inv(a).astype(np.float64)
    shift = -back @ t
    forward = rotate(a, field_on(fixed_to_moving, working, fixed))
    forward += affine_displacement(fixed, a, t, forward.device)
    # At q, the map q -> A (r + v(r)) folds where q -> r + v(r) does.
    bent = rotate(a, resample_field(moving_to_fixed, working, moving, back, shift))
    inverse = rotate(back, unfolded(bent, moving, working.spacing[0]))
    inverse += affine_displacement(moving, back, shift, inverse.device)
    return Totals(forward, inverse, fixed, moving, working)


def field_on(u: Tensor, working: Grid, target: Grid) -> Tensor:
    """A working field (1, 3, Z, Y, X; mm along its axes) on `target`, in LPS, `unfolded` there."""
    resampled = resample_field(u, working, target, np.eye(3), np.zeros(3))
    return unfolded(resampled, target, working.spacing[0])
