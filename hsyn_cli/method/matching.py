"""Images of different contrast are given one, so that local NCC can register them. Ours.

MIND steps align both images roughly. The mean of the one image, where the other one has a certain
grey value, is then what that value looks like in the one. This is the regression behind the
correlation ratio (Roche et al., MICCAI 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.contrast import Values
from hsyn_cli.anatomy.intensity import Intensities
from hsyn_cli.anatomy.scene import ROLES, Subjects
from hsyn_cli.space import Grid

BINS = 64  # of the grey values
SMOOTH = 1.5  # bins, the sigma of a Gaussian
CONTENT = 0.05  # of the range; darker voxels may be background
LEAST_RATIO = 0.3  # the correlation ratio that a match needs


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
        """The subjects with one image in the contrast of the other one."""
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

    @property
    def note(self) -> str:
        """What the user should know of it."""
        return (
            f"the images differ in contrast: hsyn gave the {ROLES[self.which]} one that of the "
            f"{ROLES[1 - self.which]} one (correlation ratio {self.ratio:.2f})"
        )


def match(moving: Values, fixed: Values) -> Match | None:
    """The better match of two roughly registered images in [0, 1]; None if both are poor."""
    found = [
        Match(which, *regression(image, other))
        for which, (image, other) in enumerate(((moving, fixed), (fixed, moving)))
    ]
    best = max(found, key=lambda one: one.ratio)
    return best if best.ratio >= LEAST_RATIO else None


def regression(image: Values, other: Values) -> tuple[NDArray[np.float64], float]:
    """The mean of `other` for each of BINS grey values of `image`, and the correlation ratio."""
    bins = np.minimum((image * BINS).astype(int), BINS - 1)
    ones, grey = np.ones(image.size), other.ravel().astype(np.float64)
    counts, sums = (np.bincount(bins.ravel(), weights, BINS) for weights in (ones, grey))
    means = _smooth(sums) / np.maximum(_smooth(counts), 1e-9)
    both = (image > CONTENT) & (other > CONTENT)
    spread = float(other[both].var()) if both.any() else 0.0
    rest = float(np.square(other[both] - means[bins[both]]).mean()) if spread else 0.0
    return means, 1 - rest / spread if spread else 0.0


def _smooth(values: NDArray[Any]) -> NDArray[np.float64]:
    apart = np.arange(BINS)[:, None] - np.arange(BINS)
    weights = np.exp(-0.5 * (apart / SMOOTH) ** 2)
    return np.asarray(weights @ values)
