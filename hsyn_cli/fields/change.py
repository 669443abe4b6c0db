"""What a registration does to an image: its affine in parts, and what its field changes beside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from hsyn_cli.fields.folding import determinants, inner, log_determinant
from hsyn_cli.fields.grids import along_axes
from hsyn_cli.fields.marked import Mask
from hsyn_cli.fields.totals import Totals
from hsyn_cli.space import Array

NAN = float("nan")


@dataclass(frozen=True)
class Linear:
    """An affine, fixed point -> moving point, as rotation times shear and scales.

    Attributes:
        scales: along x, y (and z) of LPS; above 1 where the moving image is the larger one.
        rotation_degrees: about whichever axis.
        shear: the largest, as the tangent of its angle.
        translation_mm: how the middle of the fixed image's content moves, LPS.
    """

    scales: tuple[float, ...]
    rotation_degrees: float
    shear: float
    translation_mm: tuple[float, ...]

    def scaled(self, factor: float) -> Linear:
        """The same where all lengths are `factor` times as long."""
        return replace(self, translation_mm=tuple(v * factor for v in self.translation_mm))


@dataclass(frozen=True)
class Change:
    """What a total field does over the fixed image's content.

    Attributes:
        log_det_mean, log_det_sd: of the natural logarithm of the determinant, affine included.
        mean_mm, max_mm: displacements without the affine.
    """

    log_det_mean: float
    log_det_sd: float
    mean_mm: float
    max_mm: float

    def scaled(self, factor: float) -> Change:
        """The same where all lengths are `factor` times as long."""
        return replace(self, mean_mm=self.mean_mm * factor, max_mm=self.max_mm * factor)


def linear_of(a: Array, t: Array, middle: Array, dimension: int = 3) -> Linear:
    """The parts of A x + t about the point `middle`. What mirrors has a negative first scale."""
    rotation, upper = np.linalg.qr(a.astype(float))
    sign = np.sign(np.diag(upper))
    rotation, upper = rotation * sign, upper * sign[:, None]
    scales = np.diag(upper).copy()
    shear = np.abs((upper - np.diag(scales)) / scales[:, None]).max()
    if np.linalg.det(rotation) < 0:
        rotation[:, 0] *= -1
        scales[0] *= -1
    angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    moved = a @ middle + t - middle
    return Linear(
        tuple(scales[:dimension].tolist()),
        float(angle),
        float(shear),
        tuple(moved[:dimension].tolist()),
    )


def measure_change(totals: Totals, content: Mask) -> tuple[Linear, Change]:
    """Measure both on the forward field. `content`: (Z, Y, X) on the fixed grid."""
    grid, (a, t) = totals.fixed, totals.affine
    linear = linear_of(a, t, grid.points(_middle(content)), grid.dimension)
    det, _ = determinants(along_axes(totals.forward, grid), grid.spacing)
    inside = inner(content.shape)
    logs = log_determinant(det[0].cpu()[inside][torch.from_numpy(content[inside])])
    mean, sd = (float(logs.mean()), float(logs.std(correction=0))) if len(logs) else (NAN, NAN)
    return linear, Change(mean, sd, *_displacements(totals, content, a, t))


def _middle(content: Mask) -> Array:
    """The mean index (x, y, z) of a mask (Z, Y, X); the middle of the grid if it is empty."""
    planes = [content.sum(others) for others in ((0, 1), (0, 2), (1, 2))]
    if not planes[0].any():
        return (np.array(content.shape[::-1]) - 1) / 2
    return np.array([np.average(np.arange(len(n)), weights=n) for n in planes])


def _displacements(totals: Totals, content: Mask, a: Array, t: Array) -> tuple[float, float]:
    """The mean and the largest |A^-1 (p + u(p) - t) - p| over the content, slice by slice."""
    grid, back = totals.fixed, np.linalg.inv(a)
    total, largest, count = 0.0, 0.0, 0
    for z in range(len(content)):
        y, x = np.nonzero(content[z])
        if not len(x):
            continue
        p = grid.points(np.stack((x, y, np.full_like(x, z)), -1).astype(float))
        u = totals.forward[0, :, z].cpu().numpy()[:, y, x].T
        lengths = np.linalg.norm((p + u - t) @ back.T - p, axis=1)
        total, count = total + float(lengths.sum()), count + len(x)
        largest = max(largest, float(lengths.max()))
    return (total / count, largest) if count else (NAN, NAN)
