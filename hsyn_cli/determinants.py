"""The Jacobian determinant of p -> p + d(p) and where it says that the map folds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.fields import determinants
from hsyn_cli.report import Folding
from hsyn_cli.space import Grid, field_from_lps

LEAST_FOR_LOG = 1e-9  # smaller determinants, and those below 0, become this before the logarithm
MOST_FOR_LOG = 1e9


@dataclass(frozen=True)
class Jacobian:
    """`image`: determinant, or its natural logarithm, float32 on the field's grid, one-sided differences at the border.

    `clipped`: how many voxels had no logarithm and hold log(1e-9) = -20.7; 0 for the determinant itself.
    """

    image: sitk.Image
    folding: Folding
    log: bool
    clipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the image."""
        return {"folding": dataclasses.asdict(self.folding), "log": self.log, "clipped": self.clipped}


def jacobian(field: sitk.Image, *, log: bool = False) -> Jacobian:
    """Determinants of a displacement field (vector image, mm, LPS) by central differences in mm along the grid's axes."""
    grid = Grid.of(field)
    u = torch.from_numpy(field_from_lps(field))[None]
    det, corner = determinants(u, grid.spacing)
    values = log_determinant(det[0]) if log else det[0]
    image = grid.stamp(sitk.GetImageFromArray(values.float().numpy()))
    clipped = int((det < LEAST_FOR_LOG).sum()) if log else 0
    return Jacobian(image, folding(grid, det, corner), log, clipped)


def folding(grid: Grid, det: Tensor, corner: Tensor) -> Folding:
    """The verdict on a field, outermost voxel layer left out, since central differences need both neighbours.

    Args:
        det, corner: its `determinants` on `grid`, (1, Z, Y, X).
    """
    inside = (slice(1), *(slice(1, -1),) * 3)
    det, corner = det[inside], corner[inside]
    least = int(det.argmin())
    _, z, y, x = (int(k) for k in np.unravel_index(least, tuple(det.shape)))
    at = grid.points(np.array([x + 1.0, y + 1.0, z + 1.0]))
    folded, by_corners = (det.numel() - int((d > 0).count_nonzero()) for d in (det, corner))  # NaN folds, too
    return Folding(
        folded, 100 * folded / det.numel(), by_corners, float(det[0, z, y, x]),
        (float(at[0]), float(at[1]), float(at[2])),
    )  # fmt: skip


def log_determinant(det: Tensor) -> Tensor:
    """Natural logarithm of determinants clipped to [1e-9, 1e9], in float64."""
    return det.double().clamp(LEAST_FOR_LOG, MOST_FOR_LOG).log()
