"""Images of different contrast are given one, so that local NCC can register them. Ours.

MIND steps align both images roughly. The mean of the one image, where the other one has a certain
grey value, is then what that value looks like in the one. This is the regression behind the
correlation ratio (Roche et al., MICCAI 1998). Voxels beside edges show two tissues, often not those
of the other image, so they hardly count. Both ways make two channels, which pull together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.contrast import Values, relates
from hsyn_cli.anatomy.intensity import Intensities
from hsyn_cli.anatomy.scene import Subjects
from hsyn_cli.space import Grid

BINS = 64  # of the grey values
SMOOTH = 1.5  # bins, the sigma of a Gaussian
CONTENT = 0.05  # of the range; darker voxels may be background
LEAST_RATIO = 0.2  # the correlation ratio that a match needs
ALIKE = "after the first steps, the images turned out to have one contrast"
MATCHED = (
    "the images differ in contrast: hsyn gave each the contrast of the other one "
    "(correlation ratio {})"
)
UNMATCHED = "the images differ in contrast, and neither tells enough of the other for a match"
DOUBT = 2.0  # see `where.Where`; a matched image has noise of its own contrast
LEAST_WEIGHT = 1e-6  # of all voxels; fewer do not tell what a grey value looks like
EVEN = 0.5  # of the median slope; where an image is as steep, voxels count half


@dataclass(frozen=True)
class Match:
    """The grey values that image `which` (0 is moving) has in the contrast of the other image.

    Attributes:
        values: (BINS,), in the middle of equal parts of [0, 1].
        ratio: the correlation ratio, the share of the other image's variance that it explains.
    """

    which: int
    values: NDArray[np.float64]
    ratio: float

    def applied(self, subjects: Subjects) -> Subjects:
        """The subjects, of one channel, with one image in the contrast of the other one."""
        views, grey = list(subjects.views), list(subjects.grey)
        image, own = views[self.which], grey[self.which]
        shown = sitk.GetArrayViewFromImage(image).astype(np.float32)
        shown = (shown - own.low) / max(own.high - own.low, 1e-12)
        middles = (np.arange(BINS) + 0.5) / BINS
        mapped = np.interp(shown, middles, self.values).astype(np.float32)
        mapped[shown <= 0] = 0
        views[self.which] = Grid.of(image).stamp(sitk.GetImageFromArray(mapped))
        grey[self.which] = Intensities(0.0, float(self.values.max()), hounsfield=False)
        return replace(subjects, views=(views[0], views[1]), grey=(grey[0], grey[1]))


Matches = tuple[Match, ...]


def matches(moving: Values, fixed: Values, counts: Values | None = None) -> Matches:
    """The matches of two roughly registered images in [0, 1] that tell enough, the best first.

    `counts`: the weight of each voxel; None: all the same.
    """
    even = evenness(moving, fixed, counts)
    found = [
        Match(which, *regression(image, other, even))
        for which, (image, other) in enumerate(((moving, fixed), (fixed, moving)))
    ]
    found.sort(key=lambda one: one.ratio, reverse=True)
    return tuple(one for one in found if one.ratio >= LEAST_RATIO)


def differing(
    weights: Sequence[float],
    seen: Sequence[tuple[Values, Values]],
    counts: Values | None = None,
    *,
    brains: bool,
) -> list[bool]:
    """Which channels pull and differ in contrast, once they are roughly registered.

    The look after the affine step found that one does. Correlation cannot overrule it: the only
    channel that pulls, of anything but brains and heads, differs. Arguments are those of `matched`.

    Args:
        brains: whether all images show brains or heads.
    """
    if not brains and np.count_nonzero(weights) == 1:
        return [weight > 0 for weight in weights]
    channels = zip(weights, seen, strict=True)
    return [bool(weight) and not relates(*both, counts, brains) for weight, both in channels]


def matched(
    subjects: Subjects,
    weights: Sequence[float],
    seen: Sequence[tuple[Values, Values]],
    differs: Sequence[bool],
    counts: Values | None = None,
) -> tuple[Subjects, tuple[float, ...], str] | None:
    """The subjects with all channels in one contrast each, their weights, and what to tell.

    A channel that differs in contrast becomes one channel a match, and they share its weight. None:
    one of them has no match.

    Args:
        seen: each channel of both images, moving first, roughly registered, in [0, 1].
        differs: whether a channel does, see `differing`. At least one must.
        counts: the weight of each voxel; None: all the same.
    """
    channels: list[Subjects] = []
    shares: list[float] = []
    ratios: list[float] = []
    rows = zip(subjects.channels, weights, seen, differs, strict=True)
    for channel, weight, both, differ in rows:
        parts = [channel]
        if differ:
            found = matches(*both, counts)
            if not found:
                return None
            parts = [one.applied(channel) for one in found]
            ratios.append(found[0].ratio)
        channels += parts
        shares += [weight / len(parts)] * len(parts)
    first, *others = channels
    beside = tuple((channel.views, channel.grey) for channel in others)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    note = MATCHED.format(shown)
    return replace(first, others=beside, alike=True, doubt=DOUBT), tuple(shares), note


def regression(image: Values, other: Values, counts: Values) -> tuple[NDArray[np.float64], float]:
    """The mean of `other` for each of BINS grey values of `image`, and the correlation ratio.

    `counts`: the weight of each voxel.
    """
    bins, grey = np.minimum((image * BINS).astype(int), BINS - 1), other.astype(np.float64)
    weights, sums = (
        np.bincount(bins.ravel(), part.ravel(), BINS) for part in (counts, counts * grey)
    )
    total, weight = _smooth(sums), _smooth(weights)
    known = weight > LEAST_WEIGHT * weight.sum()  # other values look as the nearest of these
    if not known.any():
        return np.zeros(BINS), 0.0
    index = np.arange(BINS)
    means = np.interp(index, index[known], total[known] / weight[known])
    both = (image > CONTENT) & (other > CONTENT) & (counts > 0)
    if not both.any():
        return means, 0.0
    part, share = grey[both], counts[both]
    spread, rest = (
        float(np.average(np.square(part - its), weights=share))
        for its in (np.average(part, weights=share), means[bins[both]])
    )
    return means, 1 - rest / spread if spread else 0.0


def evenness(moving: Values, fixed: Values, counts: Values | None = None) -> Values:
    """The weight of each voxel: that in `counts`, and little beside the edges of both images."""
    even: Values = _even(moving) * _even(fixed)
    return even if counts is None else even * counts


def _even(image: Values) -> Values:
    """The weight of each voxel in (0, 1]: 1 inside tissue, and little beside edges."""
    slopes = np.gradient(image, axis=[k for k in range(3) if image.shape[k] > 1])
    slope = np.sqrt(sum(np.square(part) for part in slopes))
    content = slope[image > CONTENT]
    usual = EVEN * float(np.median(content)) if content.size else 0.0
    out: Values = (1 / (1 + np.square(slope / max(usual, 1e-6)))).astype(np.float32)
    return out


def _smooth(values: NDArray[Any]) -> NDArray[np.float64]:
    apart = np.arange(BINS)[:, None] - np.arange(BINS)
    weights = np.exp(-0.5 * (apart / SMOOTH) ** 2)
    return np.asarray(weights @ values)
