"""Total fields, which join affine and deformation, and their folding and inverse errors.

The forward field lies on the fixed grid, the inverse field on the moving grid.
"""

from __future__ import annotations

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
    round_trip,
    sample_mm,
    to_image,
)
from hsyn_cli.fields.repair import unfolded
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.space import Box, Grid, affine_parts


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

    def inverse_errors(
        self, fixed_content: NDArray[np.bool_], moving_content: NDArray[np.bool_]
    ) -> tuple[ErrorStats, ErrorStats]:
        """|inverse(forward(p)) - p| in the fixed content, |forward(inverse(q)) - q| in the moving.

        `round_trip` says which voxels of each mask (Z, Y, X) count.
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
    """Total fields of the deformations u and v and the affine A.

    The forward field at fixed point p is A(p + u(p)) - p. The inverse field at moving point q is
    r + v(r) - q with r = A^-1 q.

    Args:
        fixed_to_moving, moving_to_fixed: u and v, (1, 3, Z, Y, X) on `working`, mm along its axes.
        sharpenings: passes of `sharpened`; each removes most of the error that remains.
    """
    a, t = affine_parts(affine)
    back = np.linalg.inv(a).astype(np.float64)
    shift = -back @ t
    bent = fixed.covered(working.corners()), moving.covered(working.corners() @ a.T + t)
    u = field_on(fixed_to_moving, working, fixed)  # without folding
    forward = rotate(a, u)
    forward += affine_displacement(fixed, a, t, u.device)
    inverse = resample_field(moving_to_fixed, working, moving, back, shift)
    inverse += affine_displacement(moving, back, shift, u.device)
    sharp = inverse
    for _ in range(sharpenings):
        sharp = sharpened(sharp, moving, forward, fixed, bent)
    return Totals(
        forward, unfolded(sharp, moving, working.spacing[0], inverse), fixed, moving, working
    )


def sharpened(
    inverse: Tensor, moving: Grid, forward: Tensor, fixed: Grid, bent: tuple[Box, Box]
) -> Tensor:
    """The inverse without the error that its linear interpolation adds to inverse(forward(p)) - p.

    A field that is exact at its own voxels is off between them by up to an eighth of its second
    difference, always to the same side. Subtracting e(p) = inverse(forward(p)) - p at
    p = inverse(q) moves that error to the other order, forward(inverse(q)). It thus leaves the
    path of fixed points and labels, and the other order gets up to as much of it.

    Args:
        bent: boxes of `fixed` and `moving`, in indices, in which the fields are more than the
            affine. Interpolation leaves an affine as it is.
    """
    (grid, fixed_box), (other, moving_box) = (
        g.part(box) for g, box in zip((fixed, moving), bent, strict=True)
    )
    u, v = forward[fixed_box], inverse[moving_box]
    points = affine_displacement(grid, np.eye(3), np.zeros(3), u.device, absolute=True) + u
    error = sample_mm(inverse, moving, points) + u
    for axis in range(3):  # nothing needs correction beyond the box
        if bent[0][0][axis] > 0:
            error.select(-1 - axis, 0).zero_()
        if bent[0][1][axis] < fixed.size[axis]:
            error.select(-1 - axis, -1).zero_()
    points = affine_displacement(other, np.eye(3), np.zeros(3), u.device, absolute=True) + v
    out = inverse.clone()
    out[moving_box] = v - sample_mm(error, grid, points)
    return out


def field_on(u: Tensor, working: Grid, target: Grid) -> Tensor:
    """A working field (1, 3, Z, Y, X; mm along its axes) on `target`, in LPS, `unfolded` there."""
    resampled = resample_field(u, working, target, np.eye(3), np.zeros(3))
    return unfolded(resampled, target, working.spacing[0])
