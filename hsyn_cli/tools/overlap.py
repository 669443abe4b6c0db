"""The overlap of two label maps on one grid: Dice and the 95 % Hausdorff distance per label."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Grid

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]  # z, y, x; of a slice without its normal


@dataclass(frozen=True)
class LabelScore:
    """The overlap of one label. `hd95_mm` is NaN if the warped map lacks the label."""

    label: int
    dice: float
    hd95_mm: float
    fixed_voxels: int
    warped_voxels: int


def compare(
    fixed: sitk.Image,
    warped: sitk.Image,
    ignore: Collection[int] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[LabelScore, ...]:
    """Scores of the ids of `fixed` above 0 in ascending order, without those in `ignore`."""
    a, b = (sitk.GetArrayViewFromImage(image) for image in (fixed, warped))
    boxes = [_boxes(image) for image in (fixed, warped)]
    normal, spacing = Grid.of(fixed).normal, fixed.GetSpacing()
    if normal is not None:  # a slice has no surface along its normal
        a, b = (values.take(0, 2 - normal) for values in (a, b))
        boxes = [{k: _without(box, 2 - normal) for k, box in each.items()} for each in boxes]
        spacing = _without(spacing, normal)
    ids = [label for label in sorted(boxes[0]) if label > 0 and label not in ignore]
    scores = []
    for k, label in enumerate(ids):
        box = _union(boxes[0][label], boxes[1].get(label))
        scores.append(_score(label, a[box] == label, b[box] == label, spacing))
        progress((k + 1) / len(ids))
    return tuple(scores)


def hd95(a: Mask, b: Mask, spacing: tuple[float, ...]) -> float:
    """The larger of the two directed 95th percentiles of surface distances, in mm.

    A directed distance leads from a surface voxel of one mask to the other surface. Surface voxels
    are those of a mask (Z, Y, X) with a face on its outside. `spacing`: x, y, z. NaN if a mask is
    empty.
    """
    if not a.any() or not b.any():
        return float("nan")
    surfaces = [_surface(np.pad(mask, 1)) for mask in (a, b)]
    distances = [_distance(surface, spacing) for surface in surfaces]
    a_to_b, b_to_a = distances[1][surfaces[0]], distances[0][surfaces[1]]
    return float(max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95)))


def _score(label: int, a: Mask, b: Mask, spacing: tuple[float, ...]) -> LabelScore:
    in_a, in_b, both = (int(np.count_nonzero(mask)) for mask in (a, b, a & b))
    return LabelScore(label, 2 * both / (in_a + in_b), hd95(a, b, spacing), in_a, in_b)


def _surface(mask: Mask) -> Mask:
    """Voxels of a mask with a face on its outside. The array's outermost layer must be empty."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    surface: Mask = mask & ~inner
    return surface


def _distance(surface: Mask, spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance from each voxel to the nearest voxel of `surface`, in mm."""
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing(spacing)
    far = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    distances: NDArray[np.float32] = np.abs(sitk.GetArrayFromImage(far))
    return distances


def _boxes(labels: sitk.Image) -> Mapping[int, Box]:
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.Execute(labels)
    boxes = {}
    for label in shapes.GetLabels():
        first, size = np.split(np.array(shapes.GetBoundingBox(label)), 2)
        z, y, x = (slice(int(f), int(f + n)) for f, n in zip(first[::-1], size[::-1], strict=True))
        boxes[int(label)] = (z, y, x)
    return boxes


def _union(a: Box, b: Box | None) -> Box:
    if b is None:
        return a
    return tuple(
        slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True)
    )


def _without(values: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*values[:axis], *values[axis + 1 :])
