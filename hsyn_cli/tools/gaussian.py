"""Gaussian interpolation of images and of labels as in ITK and ANTs, Gaussian and MultiLabel.

A voxel's weight along an axis is the integral of the Gaussian over it. ITK cuts the Gaussian off at
`alpha` times its sigma. SimpleITK fixes both numbers, at others than ANTs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.mapping import index_slabs

AT_ONCE = 100_000  # weights; more do not fit into the processor's cache
NEAREST, FARTHEST = 1e-6, 32  # voxels from a point to the cut
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Window:
    """Sigma and the distance of the cut along x, y, z, both in voxels."""

    sigma: Array
    cut: Array

    @classmethod
    def of(cls, grid: Grid, sigma: Sequence[float], alpha: float) -> Window:
        """`sigma` in mm along the axes of `grid`, or one for all; none: the voxels' sizes."""
        own, spacing = np.array(sigma or grid.spacing), np.array(grid.spacing)
        return cls(own / spacing, own * alpha / spacing)  # rounded as in ITK

    def number(self, axis: int, size: int) -> int:
        """The most voxels within the cut along an axis of an image with `size` voxels."""
        return min(math.ceil(2 * float(self.cut[axis])) + 1, size)

    def taps(self, axis: int, at: Array, size: int) -> tuple[NDArray[np.intp], Array]:
        """The first (N,) of the voxels around N continuous indices, and the (N, T) weights of T.

        Those beyond the cut have the weight 0. All lie in the image, which has `size` voxels.
        """
        cut = self.cut[axis]
        first = np.floor(at + 0.5 - cut)
        last = np.ceil(at + 0.5 + cut) - 1
        number = self.number(axis, size)
        start = first.clip(0, size - number)
        index = start[:, None] + np.arange(number)
        scale = 1 / (math.sqrt(2) * self.sigma[axis])
        edges = erf((start[:, None] + np.arange(number + 1) - 0.5 - at[:, None]) * scale)
        inside = (index >= first[:, None]) & (index <= last[:, None])
        return start.astype(np.intp), np.where(inside, np.diff(edges), 0.0)


def resample(
    image: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    default: float,
    pixel: int,
    window: Window,
    progress: Progress = lambda share: None,
) -> sitk.Image:
    """Sample a scalar image at transform(p) for every voxel p of `reference`.

    The result has the float type `pixel`, and `default` outside `image`. `progress` gets the share
    done.
    """
    values = sitk.GetArrayViewFromImage(image).astype(np.float64)
    out = np.full(reference.size[::-1], default, np.float64)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(image)):
        found = np.empty(len(index))
        for part, done in _parts(len(index), values.shape, window):
            near, (wz, wy, wx) = _blocks(values, index[part], window)
            lines = np.matmul(near, wx[:, None, :, None])[..., 0]
            total = np.matmul(lines, wy[:, :, None])[..., 0]
            weight = wx.sum(1) * wy.sum(1) * wz.sum(1)
            found[part] = np.einsum("nz,nz->n", total, wz) / weight
            progress(_share(slab, done, reference))
        out[slab][inside] = found
    return reference.stamp(sitk.Cast(sitk.GetImageFromArray(out), pixel))


def resample_labels(
    labels: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    default: int,
    window: Window,
    progress: Progress = lambda share: None,
) -> sitk.Image:
    """Give each voxel the label with the largest sum of weights around it; `default` outside.

    `progress` gets the share done.
    """
    values = sitk.GetArrayViewFromImage(labels)
    ids, coded = np.unique(values, return_inverse=True)
    coded = coded.reshape(values.shape).astype(np.int32)
    around = [
        2 * min(math.ceil(cut), n) + 1
        for cut, n in zip(window.cut[::-1], values.shape, strict=True)
    ]
    mixed = ndimage.maximum_filter(coded, around) != ndimage.minimum_filter(coded, around)
    out = np.full(reference.size[::-1], default, values.dtype)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(labels)):
        nearest = np.floor(index + 0.5).astype(np.intp).clip(0, np.array(values.shape[::-1]) - 1)
        here = (nearest[:, 2], nearest[:, 1], nearest[:, 0])
        best = coded[here]
        unsure = np.flatnonzero(mixed[here])
        for part, done in _parts(len(unsure), values.shape, window):
            best[unsure[part]] = _heaviest(coded, index[unsure[part]], window, len(ids))
            progress(_share(slab, done, reference))
        out[slab][inside] = ids[best]
    image = sitk.Cast(sitk.GetImageFromArray(out), labels.GetPixelID())
    return reference.stamp(image)


def _heaviest(coded: NDArray[Any], index: Array, window: Window, number: int) -> NDArray[np.intp]:
    """(N,) codes below `number` with the largest sums of weights at N continuous indices."""
    near, (wz, wy, wx) = _blocks(coded, index, window)
    near = near.reshape(len(index), -1)
    if number > near.shape[1]:  # count only those that occur
        occurs = np.zeros(number, bool)
        occurs[near] = True
        present = np.flatnonzero(occurs)
        dense = np.zeros(number, np.int32)
        dense[present] = np.arange(len(present))
        near = dense[near]
    else:
        present = np.arange(number)
    half = len(index) // 2
    if half and len(index) * len(present) > 10 * AT_ONCE:
        parts = (index[:half], index[half:])
        return np.concatenate([_heaviest(coded, part, window, number) for part in parts])
    weights = (wx[:, None, None, :] * wy[:, None, :, None]) * wz[:, :, None, None]
    keys = np.arange(len(index))[:, None] * len(present) + near
    sums = np.bincount(keys.ravel(), weights.ravel(), len(index) * len(present))
    found: NDArray[np.intp] = present[sums.reshape(len(index), -1).argmax(1)]
    return found


def _parts(number: int, shape: tuple[int, ...], window: Window) -> Iterator[tuple[slice, float]]:
    """Parts of `number` points whose blocks stay in the processor's cache, and the share done."""
    step = max(1, AT_ONCE // math.prod(window.number(2 - k, n) for k, n in enumerate(shape)))
    for start in range(0, number, step):
        yield slice(start, start + step), min(1.0, (start + step) / number)


def _share(slab: slice, done: float, reference: Grid) -> float:
    """The share of all slices done, with a share of one slab done."""
    return float(slab.start + (slab.stop - slab.start) * done) / reference.size[2]


def _blocks(values: NDArray[Any], index: Array, window: Window) -> tuple[NDArray[Any], list[Array]]:
    """(N, Z, Y, X) voxels around N indices (N, 3; x, y, z), and their weights along z, y, x."""
    each = [window.taps(axis, index[:, axis], values.shape[2 - axis]) for axis in (2, 1, 0)]
    weights = [own for _, own in each]
    around = sliding_window_view(values, [own.shape[1] for own in weights])
    return around[tuple(start for start, _ in each)], weights
