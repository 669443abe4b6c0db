"""Label maps: resample them with smooth borders, and measure the change of each label's volume."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.mapping import index_slabs

Labels = NDArray[Any]  # of integers

TIE = 1e-6  # weights (float32) that differ by less are equal


@dataclass(frozen=True)
class Change:
    """The volume of a label before and after resampling, in mm3; of a 2-D image, its area in mm2.

    Attributes:
        dimension: of the image, 2 or 3.
    """

    label: int
    before: float
    after: float
    dimension: int = 3

    @property
    def unit(self) -> str:
        return f"mm{self.dimension}"

    @property
    def lost(self) -> bool:
        return self.before > 0 and self.after == 0

    @property
    def percent(self) -> float:
        """Change in percent of the volume before; infinite for a new label."""
        if self.before == 0:
            return float("inf")
        return 100 * (self.after / self.before - 1)


def changes(before: sitk.Image, after: sitk.Image) -> tuple[Change, ...]:
    """The volumes of every label but 0, in ascending order. Both images hold integers."""
    old, new = _volumes(before), _volumes(after)
    both, dimension = (old | new).keys() - {0}, Grid.of(after).dimension
    return tuple(Change(k, old.get(k, 0.0), new.get(k, 0.0), dimension) for k in sorted(both))


def _volumes(labels: sitk.Image) -> dict[int, float]:
    ids, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    voxel = float(np.prod(labels.GetSpacing()))
    return {int(k): int(n) * voxel for k, n in zip(ids, counts, strict=True)}


def resample(
    labels: sitk.Image, reference: Grid, transform: sitk.Transform, default: int = 0
) -> sitk.Image:
    """Give each voxel the label with the largest sum of the eight weights of linear interpolation.

    This equals ANTs' GenericLabel, which interpolates a 0/1 image per label and takes the largest,
    without its cost per label. The smallest id wins a tie. Voxels outside the image get `default`.
    """
    values = sitk.GetArrayViewFromImage(labels)
    out = np.full(reference.size[::-1], default, values.dtype)
    for slab, inside, index in index_slabs(transform, reference, Grid.of(labels)):
        out[slab][inside] = _heaviest(values, index)
    image = sitk.Cast(sitk.GetImageFromArray(out), labels.GetPixelID())
    return reference.stamp(image)


def _heaviest(values: Labels, index: Array) -> Labels:
    """(N,) labels of `values` (Z, Y, X) at N continuous indices (N, 3; x, y, z).

    The outermost labels extend beyond the border.
    """
    low = np.floor(index).astype(np.intp)
    ahead = (index - low).astype(np.float32)
    last = np.array(values.shape[::-1]) - 1
    ends = [np.clip(low + k, 0, last) for k in (0, 1)]
    corners = list(itertools.product((0, 1), repeat=3))
    ids = np.stack(
        [values[ends[c][:, 2], ends[b][:, 1], ends[a][:, 0]] for a, b, c in corners]
    )  # (8, N)
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


def warp_labels(
    labels: sitk.Image, forward_field: sitk.Image, reference: sitk.Image | None = None
) -> sitk.Image:
    """Warp moving labels to the grid of the field, or of `reference`, by nearest neighbour.

    The result has the integer type of `labels`, and 0 outside them.
    """
    import SimpleITK as sitk

    transform = sitk.DisplacementFieldTransform(sitk.Cast(forward_field, sitk.sitkVectorFloat64))
    target = forward_field if reference is None else reference
    warped = sitk.Resample(
        labels, target, transform, sitk.sitkNearestNeighbor, 0.0, labels.GetPixelID()
    )
    return Grid.of(target).stamp(warped)
