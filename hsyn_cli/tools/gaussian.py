"""Gaussian interpolation of images and of labels as in ITK and ANTs, Gaussian and MultiLabel.

A voxel's weight along an axis is the integral of the Gaussian over it. ITK cuts the Gaussian off at
`alpha` times its sigma. SimpleITK fixes both numbers, at others than ANTs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.mapping import index_slabs

AT_ONCE = 4_000_000  # weights


@dataclass(frozen=True)
class Window:
    """Sigma and the distance of the cut along x, y, z, both in voxels."""

    sigma: Array
    cut: Array

    @classmethod
    def of(cls, grid: Grid, sigma: Sequence[float], alpha: float) -> Window:
        """`sigma` in mm along the axes of `grid`, or one for all; none: the voxels' sizes."""
        spacing = np.array(grid.spacing)
        inner = np.array(sigma or grid.spacing) / spacing
        return cls(inner, alpha * inner)

    @property
    def reach(self) -> list[int]:
        """The most voxels to each side, x, y, z."""
        return [math.ceil(cut) for cut in self.cut]

    def taps(self, axis: int, at: Array, size: int) -> tuple[NDArray[np.intp], Array]:
        """(N, T) voxels within reach of N continuous indices, and their weights.

        Those beyond the border are moved onto it, with the weight 0.
        """
        middle = np.floor(at + 0.5).astype(np.intp)
        reach = self.reach[axis]
        index = middle[:, None] + np.arange(-reach, reach + 1)
        first = np.floor(at + 0.5 - self.cut[axis])[:, None]
        last = np.ceil(at + 0.5 + self.cut[axis])[:, None] - 1
        away, scale = index - at[:, None], 1 / (math.sqrt(2) * self.sigma[axis])
        weight = erf((away + 0.5) * scale) - erf((away - 0.5) * scale)
        inside = (index >= np.maximum(first, 0)) & (index <= np.minimum(last, size - 1))
        return index.clip(0, size - 1), np.where(inside, weight, 0.0)


def resample(
    image: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    default: float,
    pixel: int,
    window: Window,
) -> sitk.Image:
    """Sample a scalar image at transform(p) for every voxel p of `reference`.

    The result has the float type `pixel`, and `default` outside `image`.
    """
    values = sitk.GetArrayViewFromImage(image).astype(np.float64)
    out = np.full(reference.size[::-1], default, np.float64)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(image)):
        places, weights = _all_taps(index, values.shape, window)
        total, weight = np.zeros(len(index)), np.zeros(len(index))
        for where, own in _each(places, weights):
            total += own * values[where]
            weight += own
        out[slab][inside] = total / weight
    return reference.stamp(sitk.Cast(sitk.GetImageFromArray(out), pixel))


def resample_labels(
    labels: sitk.Image, reference: Grid, transform: sitk.Transform, default: int, window: Window
) -> sitk.Image:
    """Give each voxel the label with the largest sum of weights around it; `default` outside."""
    values = sitk.GetArrayViewFromImage(labels)
    ids, coded = np.unique(values, return_inverse=True)
    coded = coded.reshape(values.shape).astype(np.int32)
    size = [2 * reach + 1 for reach in reversed(window.reach)]
    mixed = ndimage.maximum_filter(coded, size) != ndimage.minimum_filter(coded, size)
    out = np.full(reference.size[::-1], default, values.dtype)
    per_point = math.prod(size)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(labels)):
        nearest = np.floor(index + 0.5).astype(np.intp).clip(0, np.array(values.shape[::-1]) - 1)
        here = (nearest[:, 2], nearest[:, 1], nearest[:, 0])
        best = coded[here]
        unsure = np.flatnonzero(mixed[here])
        for part in np.array_split(unsure, len(unsure) * per_point // AT_ONCE + 1):
            best[part] = _heaviest(coded, index[part], window)
        out[slab][inside] = ids[best]
    image = sitk.Cast(sitk.GetImageFromArray(out), labels.GetPixelID())
    return reference.stamp(image)


def _heaviest(coded: NDArray[Any], index: Array, window: Window) -> NDArray[Any]:
    """(N,) values of `coded` with the largest sums of weights at N continuous indices."""
    (z, y, x), (wz, wy, wx) = _all_taps(index, coded.shape, window)
    near = coded[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
    weights = wz[:, :, None, None] * wy[:, None, :, None] * wx[:, None, None, :]
    present, codes = np.unique(near, return_inverse=True)
    number = len(present)
    keys = np.arange(len(index))[:, None] * number + codes.reshape(len(index), -1)
    sums = np.bincount(keys.ravel(), weights.ravel(), len(index) * number)
    found: NDArray[Any] = present[sums.reshape(-1, number).argmax(1)] if len(index) else present
    return found


def _all_taps(
    index: Array, shape: tuple[int, ...], window: Window
) -> tuple[list[NDArray[np.intp]], list[Array]]:
    """The taps along z, y, x of N continuous indices (N, 3; x, y, z)."""
    each = [window.taps(axis, index[:, axis], shape[2 - axis]) for axis in (2, 1, 0)]
    return [places for places, _ in each], [weights for _, weights in each]


def _each(places: list[NDArray[np.intp]], weights: list[Array]) -> Any:
    """Each combination of taps: where it reads, and its weights (N,)."""
    for k, j, i in itertools.product(*(range(w.shape[1]) for w in weights)):
        where = (places[0][:, k], places[1][:, j], places[2][:, i])
        yield where, weights[0][:, k] * weights[1][:, j] * weights[2][:, i]
