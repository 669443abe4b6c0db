"""The mean shape of a group: what its fields have in common beyond the poses of the scans.

A field u sends a point p of the template to p + u(p) in a scan. R is the rigid motion nearest to
it over the template's mask, and v(p) = R^-1(p + u(p)) - p the displacement of the subject's shape.
The template has the mean shape if the mean of v over the subjects is 0, as in partial Procrustes
analysis: sizes count, poses do not. If the mean is w, the template moves by w: with h the inverse
of p + w(p), the new field sends p to h(p) + u(h(p)), and that back through p + w(p).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.fields.compact import compact_field
from hsyn_cli.fields.grids import affine_displacement, sample_mm
from hsyn_cli.fields.images import from_image, to_image
from hsyn_cli.fields.repair import repair
from hsyn_cli.fields.sampling import length, rotate
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.invert import invert

Mask = NDArray[np.bool_]

MOST_POINTS = 200_000  # of the mask that decide on rigid and affine parts
LEAST_DET = 0.25  # of p + w(p), one-sided; as of the half-way fields of a registration
EXACT = 0.001  # mm, of the inverse of p + w(p)


def rigid_of(u: Tensor, grid: Grid, mask: Mask) -> tuple[Array, Array]:
    """(R, t) of the rigid motion nearest to p + u(p) over the mask (Kabsch); mm LPS."""
    p, q = _ways(u, grid, mask)
    here, there = p.mean(0), q.mean(0)
    left, _, right = np.linalg.svd((q - there).T @ (p - here))
    turn: Array = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return turn, there - turn @ here


def affine_of(u: Tensor, grid: Grid, mask: Mask) -> tuple[Array, Array]:
    """(A, t) of the affine map nearest to p + u(p) over the mask, in least squares; mm LPS."""
    p, q = _ways(u, grid, mask)
    middle = p.mean(0)
    design = np.column_stack((p - middle, np.ones(len(p))))
    # The points of a slice say nothing of the way across it, which stays as it is.
    fit = np.linalg.lstsq(design, q - p, rcond=None)[0]
    a: Array = np.eye(3) + fit[:3].T
    return a, middle + fit[3] - a @ middle


def _ways(u: Tensor, grid: Grid, mask: Mask) -> tuple[Array, Array]:
    """(N, 3) points p of the mask, evenly spread, and p + u(p); mm LPS."""
    flat = np.flatnonzero(mask)
    flat = flat[:: -(-len(flat) // MOST_POINTS)]
    zyx = np.unravel_index(flat, mask.shape)
    p = grid.points(np.stack(zyx[::-1], -1).astype(float))
    steps = u[0].flatten(1)[:, torch.from_numpy(flat)].T.double().numpy()
    return p, p + steps


def beyond_rigid(u: Tensor, grid: Grid, mask: Mask) -> Tensor:
    """v(p) = R^-1(p + u(p)) - p, (1, 3, Z, Y, X), mm LPS."""
    turn, t = rigid_of(u, grid, mask)
    back = np.ascontiguousarray(turn.T)
    return rotate(back, u).add_(affine_displacement(grid, back, -back @ t, u.device))


class MeanShape:
    """The mean of the displacements of subjects that are given one after the other, in float64."""

    def __init__(self, grid: Grid, mask: Mask) -> None:
        self._grid, self._mask = grid, mask
        self._sum = torch.zeros(1, 3, *grid.size[::-1], dtype=torch.float64)
        self._count = 0

    def add(self, u: Tensor) -> Tensor:
        """Add a subject by its field; returns the lengths of its v in the mask, (N,), mm."""
        v = beyond_rigid(u, self._grid, self._mask)
        self._sum += v
        self._count += 1
        return within(v, self._mask)

    def mean(self) -> Tensor:
        """(1, 3, Z, Y, X), mm LPS, float32."""
        return (self._sum / self._count).float()


def within(v: Tensor, mask: Mask) -> Tensor:
    """The lengths of a field in the mask, (N,)."""
    lengths = length(v)[0].flatten()
    return lengths[torch.from_numpy(np.flatnonzero(mask))]


@dataclass(frozen=True)
class Shift:
    """w, by which a template moves to the mean shape, and h - id, its inverse; on the grid."""

    grid: Grid
    w: Tensor
    h: Tensor

    @classmethod
    def of(cls, field: sitk.Image) -> Shift:
        """Invert w, a vector image in mm, LPS."""
        h = invert(field, tolerance=EXACT).inverse
        return cls(Grid.of(field), from_image(field), from_image(h))

    def forward(self, u: Tensor) -> Tensor:
        """The field of a subject from the moved template: h(p) + u(h(p)) - p."""
        here = affine_displacement(self.grid, np.eye(3), np.zeros(3), u.device, absolute=True)
        return self.h + sample_mm(u, self.grid, here.add_(self.h))

    def inverse(self, u: Tensor, grid: Grid) -> Tensor:
        """The field of a subject, on its `grid`, to the moved template: q + u(q), then + w."""
        there = affine_displacement(grid, np.eye(3), np.zeros(3), u.device, absolute=True)
        return u + sample_mm(self.w, self.grid, there.add_(u))


def shift_image(mean: Tensor, grid: Grid) -> sitk.Image:
    """The mean displacement as it is stored: rounded, and smoothed where it nearly folds.

    The axes of the grid are L, P, S, so the components need no rotation.
    """
    mended, _ = repair(mean, grid.spacing, LEAST_DET)
    image, _ = compact_field(to_image(mended, grid), None, rounded=True)
    return image
