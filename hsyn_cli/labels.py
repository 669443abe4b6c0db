"""Label maps: resampled without stairs at their borders, and what resampling did to each label's volume."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Array, Grid, index_slabs

Labels = NDArray[Any]  # of integers

TIE = 1e-6  # weights (float32) closer than this are alike


@dataclass(frozen=True)
class Change:
    """A label's volume on the grid it came from and on the one it went to."""

    label: int
    before_mm3: float
    after_mm3: float

    @property
    def lost(self) -> bool:
        return self.before_mm3 > 0 and self.after_mm3 == 0

    @property
    def percent(self) -> float:
        """Of the volume before; infinite for a label that was not there."""
        if self.before_mm3 == 0:
            return float("inf")
        return 100 * (self.after_mm3 / self.before_mm3 - 1)


def changes(before: sitk.Image, after: sitk.Image) -> tuple[Change, ...]:
    """The volume of every label but 0, in ascending order. Both hold integers."""
    old, new = _volumes(before), _volumes(after)
    return tuple(Change(k, old.get(k, 0.0), new.get(k, 0.0)) for k in sorted((old | new).keys() - {0}))


def _volumes(labels: sitk.Image) -> dict[int, float]:
    ids, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    voxel = float(np.prod(labels.GetSpacing()))
    return {int(k): int(n) * voxel for k, n in zip(ids, counts, strict=True)}


def resample(labels: sitk.Image, reference: Grid, transform: sitk.Transform, default: int = 0) -> sitk.Image:
    """Each voxel gets the label that has the most of the eight weights of linear interpolation.

    As ANTs' GenericLabel: what linear interpolation of every label's own 0/1 image, and the largest of them, would
    give, at no cost per label. Of labels with equal weight the smallest id. `default` outside the image.
    """
    values = sitk.GetArrayViewFromImage(labels)
    out = np.full(reference.size[::-1], default, values.dtype)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(labels)):
        out[slab][inside] = _heaviest(values, index)
    image = sitk.Cast(sitk.GetImageFromArray(out), labels.GetPixelID())
    return reference.stamp(image)


def _heaviest(values: Labels, index: Array) -> Labels:
    """(N,) labels at N continuous indices (N, 3; x, y, z) from `values` (Z, Y, X); beyond the border its labels go on."""
    low = np.floor(index).astype(np.intp)
    ahead = (index - low).astype(np.float32)
    last = np.array(values.shape[::-1]) - 1
    ends = [np.clip(low + k, 0, last) for k in (0, 1)]
    corners = list(itertools.product((0, 1), repeat=3))
    ids = np.stack([values[ends[c][:, 2], ends[b][:, 1], ends[a][:, 0]] for a, b, c in corners])  # (8, N)
    best: Labels = ids[0].copy()
    mixed = np.flatnonzero((ids != best).any(0))
    ids, ahead = ids[:, mixed], ahead[mixed]
    sides = (1 - ahead, ahead)
    weights = np.stack([sides[a][:, 0] * sides[b][:, 1] * sides[c][:, 2] for a, b, c in corners])
    most = np.full(len(mixed), -1.0, np.float32)
    winner = ids[0].copy()
    for own in ids:
        share = np.where(ids == own, weights, 0).sum(0)
        better = (share > most + TIE) | ((np.abs(share - most) <= TIE) & (own < winner))
        winner[better], most[better] = own[better], share[better]
    best[mixed] = winner
    return best
