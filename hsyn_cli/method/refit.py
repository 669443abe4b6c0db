"""The affine part of half-way fields, as the better affine to start from. Ours.

Between contrasts, mutual information leads some heads to poor optima. Force steps follow local
structure, and their fields know a better affine than the one that they started from.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.method.inference import FIELD_STRIDE
from hsyn_cli.method.working import Halves
from hsyn_cli.space import Array, Grid, affine_from, affine_parts, strided

LEAST_VOXELS, MOST_VOXELS = 1000, 100_000  # that tell the affine part


def refitted(
    affine: sitk.AffineTransform, halves: Halves, counts: NDArray[np.float32]
) -> sitk.AffineTransform:
    """The affine, fixed point -> moving point, that is nearest to the whole map of `halves`.

    It is a weighted least-squares fit at the points of the mean space. Directions in which the
    points do not spread, as across a slice, stay as they are.

    Args:
        affine: what brings the moving image of `halves` to the fixed one.
        counts: the weight of each voxel of the mean space, (Z, Y, X) on the grid of the fields.
    """
    grid = strided(halves.scene.grid, FIELD_STRIDE)
    inside = np.argwhere(counts > 0)
    if len(inside) < LEAST_VOXELS:
        return affine
    every = -(-len(inside) // MOST_VOXELS)
    inside, weights = inside[::every], counts[counts > 0][::every].astype(float)
    of_moving, of_fixed = (_points(half, grid, inside) for half in halves.u.cpu().numpy())
    middle = np.average(of_fixed, axis=0, weights=weights)
    apart, share = of_moving - of_fixed, np.sqrt(weights)[:, None]
    terms = np.c_[of_fixed - middle, np.ones(len(inside))]
    found, *_ = np.linalg.lstsq(share * terms, share * apart, rcond=1e-6)  # (4, 3)
    own, shift = np.eye(3) + found[:3].T, found[3] - found[:3].T @ middle
    a, t = affine_parts(affine)
    return affine_from(a @ own, a @ shift + t)


def _points(half: NDArray[np.float32], grid: Grid, index: NDArray[np.intp]) -> Array:
    """Where a half-way field (3, Z, Y, X) leads voxels z, y, x (N, 3): LPS points in mm."""
    z, y, x = index.T
    steps = half[:, z, y, x].T.astype(float)
    points: Array = grid.points(index[:, ::-1].astype(float)) + steps @ grid.axes.T
    return points
