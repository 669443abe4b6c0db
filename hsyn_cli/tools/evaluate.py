"""Measure a registration: overlap, landmark errors, folding, smoothness, inverse error."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.anatomy.intensity import foreground, resample_mask
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.fields.folding import (
    Folding,
    determinants,
    inner,
    log_determinant,
    measure_folding,
)
from hsyn_cli.fields.grids import ErrorStats, along_axes
from hsyn_cli.fields.images import from_image
from hsyn_cli.fields.marked import Mask
from hsyn_cli.fields.mutual import RoundTrips
from hsyn_cli.fields.sampling import sample_points
from hsyn_cli.fields.ways import Ways
from hsyn_cli.io import files
from hsyn_cli.io.images import ImageLike, as_field, as_image, as_labels
from hsyn_cli.io.plain import finite
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.labels import warp_labels
from hsyn_cli.tools.overlap import LabelScore, compare

LANDMARKS = ("fx", "fy", "fz", "mx", "my", "mz")  # columns, mm, LPS
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TargetError:
    """Distances in mm between the mapped fixed landmarks and the moving landmarks."""

    mean_mm: float
    median_mm: float
    max_mm: float


@dataclass(frozen=True)
class Landmarks:
    """Landmark errors `before` the registration and `after` it.

    `after` omits the `outside` landmarks off the field's grid; it is NaN if all are.
    """

    count: int
    outside: int
    before: TargetError
    after: TargetError


@dataclass(frozen=True)
class Evaluation:
    """The measures of one pair; None if a file for one is missing.

    Attributes:
        sdlogj: standard deviation of log(determinant), with the determinant clipped to [1e-9, 1e9],
            in the fixed foreground or mask without the outermost voxel layer.
        inverse_error: |inverse(forward(p)) - p| at each voxel p of the fixed foreground or mask.
        inverse_error_back: |forward(inverse(q)) - q| at each voxel q that the inverse field takes
            into the fixed foreground or mask.
        labels: scores of the warped moving labels for each id of the fixed labels.
    """

    folding: Folding
    sdlogj: float
    inverse_folding: Folding | None = None
    inverse_error: ErrorStats | None = None
    inverse_error_back: ErrorStats | None = None
    labels: tuple[LabelScore, ...] | None = None
    landmarks: Landmarks | None = None

    @property
    def dice(self) -> float | None:
        """Mean over the labels."""
        return float(np.mean([s.dice for s in self.labels])) if self.labels else None

    @property
    def hd95_mm(self) -> float | None:
        """Mean over the labels that both maps have."""
        distances = [s.hd95_mm for s in self.labels or () if not math.isnan(s.hd95_mm)]
        return float(np.mean(distances)) if distances else None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data."""
        plain: dict[str, Any] = finite(
            {"dice": self.dice, "hd95_mm": self.hd95_mm, **dataclasses.asdict(self)}
        )
        return plain


def evaluate_images(
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
        forward, inverse: total fields, fixed point -> moving point and back; vector images, mm,
            LPS.
        fixed: image whose foreground (all above its background) is measured.
        fixed_mask: measured instead of the foreground.
        landmarks: (N, 6): fixed x, y, z and moving x, y, z in mm, LPS.
        ignore: label ids to leave out.
    """
    progress("folding", 0.0)
    grid, u = Grid.of(forward), from_image(forward)
    inside = _content(fixed, fixed_mask, grid)
    if not inside.any():
        raise GeometryError(
            "no part of the fixed image lies on the forward field's grid",
            "give the fixed image that belongs to this field",
        )
    det, corner = determinants(along_axes(u, grid), grid.spacing)
    fold = measure_folding(grid, det, corner)
    part = inner(inside.shape)
    logs = log_determinant(det[0][part][torch.from_numpy(inside[part])])
    sdlogj = float(logs.std(correction=0)) if len(logs) else float("nan")
    inverse_fold = there = returned = None
    if inverse is not None:
        progress("inverse error", 0.2)
        back, end = from_image(inverse), Grid.of(inverse)
        inverse_fold = measure_folding(end, *determinants(along_axes(back, end), end.spacing))
        contents = inside, _reached(back, end, grid, inside)
        there, returned = RoundTrips.of(u, grid, back, end, contents, np.eye(3)).errors()
    points = None if landmarks is None else target_errors(u, grid, landmarks)
    scores = None
    if fixed_labels is not None and moving_labels is not None:
        progress("labels", 0.4)
        warped = warp_labels(moving_labels, forward, fixed_labels)
        scores = compare(
            fixed_labels, warped, ignore, lambda part: progress("labels", 0.5 + 0.5 * part)
        )
    return Evaluation(fold, sdlogj, inverse_fold, there, returned, scores, points)


def _reached(u: Tensor, grid: Grid, other: Grid, content: Mask) -> Mask:
    """The voxels of `grid` (Z, Y, X) that u (1, 3, Z, Y, X; mm LPS) takes into `content`.

    `content` lies on `other`, whose voxel nearest to p + u(p) decides.
    """
    found = np.zeros(u.shape[2:], bool)
    ways = Ways.of(u, grid, other, np.ones_like(found))
    x, y, z = ways.ends.round().long().cpu().numpy().T
    here = tuple(ways.voxels.flip(1).cpu().numpy().T)
    found[here] = content[z, y, x]
    return found


def target_errors(u: Tensor, grid: Grid, landmarks: Array) -> Landmarks:
    """Errors of (N, 6) landmarks under a field (1, 3, Z, Y, X) on `grid`; all mm, LPS."""
    start, end = landmarks[:, :3], landmarks[:, 3:]
    index = grid.indices(start)
    room = np.where(np.array(grid.size) > 1, 0.0, 0.5)
    inside = ((index >= -room) & (index <= np.array(grid.size) - 1 + room)).all(1)
    moved, _ = sample_points(u[0], torch.from_numpy(index[inside]).float())
    after = start[inside] + moved.numpy().astype(float) - end[inside]
    return Landmarks(
        len(landmarks), int((~inside).sum()), _target_error(start - end), _target_error(after)
    )


def _target_error(apart: Array) -> TargetError:
    if not len(apart):
        return TargetError(*(float("nan"),) * 3)
    distance = np.linalg.norm(apart, axis=1)
    return TargetError(float(distance.mean()), float(np.median(distance)), float(distance.max()))


def _content(
    fixed: sitk.Image, mask: sitk.Image | None, grid: Grid
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The fixed foreground or mask (Z, Y, X) on the field's grid."""
    if mask is None:
        mask = sitk.GetImageFromArray(foreground(view_of(fixed).image).astype(np.uint8))
        mask.CopyInformation(fixed)
    if Grid.of(mask).same_as(grid):
        return np.asarray(sitk.GetArrayViewFromImage(mask) != 0)
    return (resample_mask(mask, grid)[0, 0] > 0).numpy()


def evaluate(
    forward: ImageLike,
    fixed: ImageLike,
    *,
    inverse: ImageLike | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    landmarks: Array | str | os.PathLike[str] | None = None,
    fixed_mask: ImageLike | None = None,
    ignore: Collection[int] = (),
) -> Evaluation:
    """Measure a pair of total fields; see `evaluate_images`.

    Args:
        landmarks: (N, 6) points, fixed x, y, z and moving x, y, z, or the path of a CSV with the
            columns fx, fy, fz, mx, my, mz; mm, LPS.
    """
    field = as_field(forward, "forward field")
    dimension = Grid.of(field).dimension
    points = (
        read_landmarks(Path(landmarks), dimension)
        if isinstance(landmarks, str | os.PathLike)
        else landmarks
    )
    return evaluate_images(
        field,
        as_image(fixed, "fixed image"),
        inverse=None if inverse is None else as_field(inverse, "inverse field"),
        fixed_labels=None if fixed_labels is None else as_labels(fixed_labels, "fixed labels"),
        moving_labels=None if moving_labels is None else as_labels(moving_labels, "moving labels"),
        landmarks=points,
        fixed_mask=None if fixed_mask is None else as_labels(fixed_mask, "fixed mask"),
        ignore=ignore,
    )


def read_landmarks(path: Path, dimension: int = 3) -> Array:
    """Read (N, 6) values, mm LPS, of the CSV columns fx, fy, fz, mx, my, mz. Raises InputError.

    In 2-D, where the columns fz and mz may be missing, all points lie in the plane z = 0.
    """
    rows = files.read_table(path, "landmarks")
    hint = f"give the columns {', '.join(LANDMARKS)}, in mm, LPS"
    if not rows:
        raise InputError(f"landmarks {path}: no rows", hint)
    flat = dimension == 2 and not {"fz", "mz"} & rows[0].keys()
    rows = [{**row, "fz": "0", "mz": "0"} for row in rows] if flat else rows
    missing = [name for name in LANDMARKS if name not in rows[0]]
    if missing:
        raise InputError(f"landmarks {path}: no column {', '.join(missing)}", hint)
    values = np.full((len(rows), 6), np.nan)
    for k, row in enumerate(rows):
        for column, name in enumerate(LANDMARKS):
            with contextlib.suppress(ValueError):
                values[k, column] = float(row[name])
            if not np.isfinite(values[k, column]):
                raise InputError(
                    f"landmarks {path}, row {k + 1}: {name} is {row[name]!r}, no number", hint
                )
    return values
