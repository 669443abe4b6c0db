"""What a registration is worth: overlap of labels, errors of landmarks, folding, smoothness, inverse error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.determinants import folding, log_determinant
from hsyn_cli.errors import GeometryError
from hsyn_cli.fields import determinants
from hsyn_cli.inverse import sample_points
from hsyn_cli.outputs import warp_labels
from hsyn_cli.overlap import LabelScore, compare
from hsyn_cli.prepare import foreground, mask_on_grid
from hsyn_cli.report import ErrorStats, Folding, finite
from hsyn_cli.space import Array, Grid
from hsyn_cli.totals import along, from_image, round_trip

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TargetError:
    """Distances in mm between where fixed landmarks go and the moving ones."""

    mean_mm: float
    median_mm: float
    max_mm: float


@dataclass(frozen=True)
class Landmarks:
    """`before`: as the images lie; `after`: by the field, without the `outside` that lie off its grid; NaN if all do."""

    count: int
    outside: int
    before: TargetError
    after: TargetError


@dataclass(frozen=True)
class Evaluation:
    """What could be measured of one pair; the rest is None.

    Attributes:
        sdlogj: standard deviation of log(determinant), clipped to [1e-9, 1e9], in the fixed foreground or mask, outermost
            voxel layer left out.
        inverse_error: |inverse(forward(p)) - p| over the same voxels.
        labels: of the moving labels warped to the fixed ones, per id of the latter.
    """

    folding: Folding
    sdlogj: float
    inverse_folding: Folding | None = None
    inverse_error: ErrorStats | None = None
    labels: tuple[LabelScore, ...] | None = None
    landmarks: Landmarks | None = None

    @property
    def dice(self) -> float | None:
        """Mean over the labels."""
        return float(np.mean([s.dice for s in self.labels])) if self.labels else None

    @property
    def hd95_mm(self) -> float | None:
        """Mean over the labels that both maps have."""
        found = [s.hd95_mm for s in self.labels or () if not math.isnan(s.hd95_mm)]
        return float(np.mean(found)) if found else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain: dict[str, Any] = finite(
            {"dice": self.dice, "hd95_mm": self.hd95_mm, **dataclasses.asdict(self)}
        )
        return plain


def evaluate(
    forward: sitk.Image,
    fixed: sitk.Image,
    *,
    inverse: sitk.Image | None = None,
    fixed_labels: sitk.Image | None = None,
    moving_labels: sitk.Image | None = None,
    landmarks: Array | None = None,
    fixed_mask: sitk.Image | None = None,
    ignore: Collection[int] = (),
    progress: Progress = lambda step, fraction: None,
) -> Evaluation:
    """Measure a pair of fields.

    Args:
        forward, inverse: vector images, mm, LPS, total: fixed point -> moving point and back.
        fixed: image whose foreground (all above its darkest value) counts, unless there is a `fixed_mask`.
        landmarks: (N, 6): fixed x, y, z and moving x, y, z in mm, LPS.
        ignore: label ids that do not count.
    """
    progress("folding", 0.0)
    grid, u = Grid.of(forward), from_image(forward)
    where = _content(fixed, fixed_mask, grid)
    if not where.any():
        raise GeometryError(
            "nothing of the fixed image lies on the forward field's grid",
            "give the fixed image of this very field",
        )
    det, corner = determinants(along(u, grid), grid.spacing)
    fold = folding(grid, det, corner)
    inner = (slice(1, -1),) * 3
    logs = log_determinant(det[0][inner][torch.from_numpy(where[inner])])
    sdlogj = float(logs.std(correction=0)) if len(logs) else float("nan")
    inverse_fold = error = None
    if inverse is not None:
        progress("inverse error", 0.2)
        back, end = from_image(inverse), Grid.of(inverse)
        inverse_fold = folding(end, *determinants(along(back, end), end.spacing))
        error = round_trip(u, grid, back, end, where)
    points = None if landmarks is None else target_errors(u, grid, landmarks)
    scores = None
    if fixed_labels is not None and moving_labels is not None:
        progress("labels", 0.4)
        warped = warp_labels(moving_labels, forward, fixed_labels)
        scores = compare(fixed_labels, warped, ignore, lambda part: progress("labels", 0.5 + 0.5 * part))
    return Evaluation(fold, sdlogj, inverse_fold, error, scores, points)


def target_errors(u: Tensor, grid: Grid, landmarks: Array) -> Landmarks:
    """Errors of (N, 6) landmarks under a field (1, 3, Z, Y, X) on `grid`; all mm, LPS."""
    start, end = landmarks[:, :3], landmarks[:, 3:]
    index = grid.indices(start)
    inside = ((index >= 0) & (index <= np.array(grid.size) - 1)).all(1)
    moved, _ = sample_points(u[0], torch.from_numpy(index[inside]).float())
    after = start[inside] + moved.numpy().astype(float) - end[inside]
    return Landmarks(len(landmarks), int((~inside).sum()), _target_error(start - end), _target_error(after))


def _target_error(apart: Array) -> TargetError:
    if not len(apart):
        return TargetError(*(float("nan"),) * 3)
    distance = np.linalg.norm(apart, axis=1)
    return TargetError(float(distance.mean()), float(np.median(distance)), float(distance.max()))


def _content(fixed: sitk.Image, mask: sitk.Image | None, grid: Grid) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(Z, Y, X) on the field's grid: where the fixed image counts."""
    if mask is None:
        mask = sitk.GetImageFromArray(foreground(fixed).astype(np.uint8))
        mask.CopyInformation(fixed)
    if Grid.of(mask).same_as(grid):
        return np.asarray(sitk.GetArrayViewFromImage(mask) != 0)
    return (mask_on_grid(mask, grid)[0, 0] > 0).numpy()
