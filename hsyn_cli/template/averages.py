"""Mean images of many scans: a scan at a time, in float64, in the order of the subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import smoothed
from hsyn_cli.space import Grid
from hsyn_cli.template.scans import Channel, Scans

SMOOTHER = 0.6  # scans with voxels smaller than this share of the template's are smoothed first
BLUR = 1.0  # voxels; detail finer than that is sharpened
MOST = 0.5  # share of the subjects

Values = NDArray[np.float32]
Placed = tuple[Scans, sitk.Transform]  # a subject and its way, template point -> scan point


@dataclass(frozen=True)
class Means:
    """Mean channels (Z, Y, X), and the mask of the voxels in at least half of the masks."""

    images: tuple[Values, ...]
    mask: NDArray[np.bool_]


def warped(channel: Channel, way: sitk.Transform, grid: Grid) -> Values:
    """A scan on the template's grid and scale, (Z, Y, X), linear; NaN where it does not reach."""
    image, target = channel.image, grid.empty_image(sitk.sitkUInt8)
    own = Grid.of(image)
    if any(s < SMOOTHER * grid.voxel for k, s in enumerate(own.spacing) if k != own.normal):
        image = smoothed(image, grid.voxel / 2)
    moved = sitk.Resample(image, target, way, sitk.sitkLinear, float("nan"), sitk.sitkFloat32)
    return channel.scaled(sitk.GetArrayFromImage(moved))


def warped_mask(mask: sitk.Image, way: sitk.Transform, grid: Grid) -> Values:
    """How much of a voxel of the template lies in a mask, (Z, Y, X) from 0 to 1."""
    target = grid.empty_image(sitk.sitkUInt8)
    share = sitk.Cast(mask > 0, sitk.sitkFloat32)
    moved = sitk.Resample(share, target, way, sitk.sitkLinear, 0.0)
    return np.asarray(sitk.GetArrayFromImage(moved), np.float32)


class Average:
    """Sums of scans that are given one after the other."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sums: list[tuple[NDArray[np.float64], NDArray[np.int32], float]] = []
        self._inside = np.zeros(grid.size[::-1])
        self._count = 0

    def add(self, scans: Scans, way: sitk.Transform) -> tuple[Values, ...]:
        """Add a subject; returns its warped channels, see `warped`."""
        if not self._sums:
            shape = self._grid.size[::-1]
            self._sums = [
                (np.zeros(shape), np.zeros(shape, np.int32), channel.outside)
                for channel in scans.channels
            ]
        moved = tuple(warped(channel, way, self._grid) for channel in scans.channels)
        for (total, reached, _), values in zip(self._sums, moved, strict=True):
            there = np.isfinite(values)
            np.add(total, values, out=total, where=there)
            reached += there
        self._inside += warped_mask(scans.mask, way, self._grid)
        self._count += 1
        return moved

    def means(self) -> Means:
        """The means over the scans that reach a voxel; outside where fewer than half do."""
        images = []
        for total, reached, outside in self._sums:
            mean = np.full(total.shape, outside)
            np.divide(total, reached, out=mean, where=reached >= max(1.0, MOST * self._count))
            images.append(mean.astype(np.float32))
        return Means(tuple(images), self._inside >= MOST * self._count)


def average(
    count: int, placed: Iterable[Placed], grid: Grid, step: Callable[[str, float], None]
) -> Means:
    """The means of `count` subjects."""
    sums = Average(grid)
    for k, (scans, way) in enumerate(placed):
        step("averaging", k / count)
        sums.add(scans, way)
    return sums.means()


def sharpened(values: Values, amount: float) -> Values:
    """`values` + `amount` times their detail, within their range (an unsharp mask)."""
    if not amount:
        return values
    from scipy.ndimage import gaussian_filter

    thin = [0.0 if n == 1 else BLUR for n in values.shape]
    blurred = gaussian_filter(values, thin)
    out: Values = np.clip(values + amount * (values - blurred), values.min(), values.max())
    return out.astype(np.float32)


def sharpness(values: Values, mask: NDArray[np.bool_], grid: Grid) -> float:
    """The mean gradient magnitude in the mask, grey values per mm."""
    square = np.zeros(values.shape)
    for axis, spacing in enumerate(grid.spacing[::-1]):
        if values.shape[axis] > 1:
            square += np.gradient(values.astype(np.float64), spacing, axis=axis) ** 2
    return float(np.sqrt(square[mask]).mean()) if mask.any() else 0.0


def change(values: Values, before: Values, mask: NDArray[np.bool_]) -> float:
    """|values - before| / |values| over the mask, Euclidean norms."""
    now, then = (v[mask].astype(np.float64) for v in (values, before))
    return float(np.linalg.norm(now - then) / max(np.linalg.norm(now), 1e-12))


def correlation(one: Values, other: Values, mask: NDArray[np.bool_]) -> float:
    """Pearson's correlation over the voxels of the mask that both have."""
    there = mask & np.isfinite(one) & np.isfinite(other)
    a, b = one[there].astype(np.float64), other[there].astype(np.float64)
    if a.size < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def to_image(values: NDArray[np.float32] | NDArray[np.uint8], grid: Grid) -> sitk.Image:
    """(Z, Y, X) as an image on `grid`."""
    return grid.stamp(sitk.GetImageFromArray(np.ascontiguousarray(values)))
