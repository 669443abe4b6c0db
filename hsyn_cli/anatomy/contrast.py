"""Whether two aligned images show tissue in the same way, or differ in contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import resample_image
from hsyn_cli.anatomy.scene import Subjects
from hsyn_cli.space import Grid

Values = NDArray[np.float32]

LOOK_MM, SLICE_LOOK_MM = 4.0, 2.0  # voxel size of the comparison, and that of a slice
DARKEST = 0.1  # of the range; darker voxels may be background
DARK = 35.0  # percent of the content, the darkest, in which fluid lies
LEAST = 0.45  # relation of equal contrasts; see the guide "experiments"
PARTS, APART = 10, 3  # equal parts of the grey values, and how many of them lie between two means
RISES, RISES_CLOSE = 0.3, 0.0  # rise of brains of one contrast, aligned and roughly registered
EARLY = 0.25  # relation of brains of one contrast that are registered on the coarsest level alone
FEW = 100  # voxels; fewer tell nothing
BINS, SLICE_BINS = 32, 16  # of the grey values; a slice has fewer voxels


def look_mm(grid: Grid) -> float:
    """The voxel size in mm at which two images are compared."""
    return LOOK_MM if grid.normal is None else SLICE_LOOK_MM


@dataclass(frozen=True)
class Shown:
    """How two aligned images relate.

    Attributes:
        correlation: see `relation`. rise: see `rise`.
        information: see `information`.
        overlap: share of the smaller content that lies in the other one.
    """

    correlation: float
    information: float
    overlap: float
    rise: float

    @classmethod
    def in_values(cls, moving: Values, fixed: Values, middle: Values | None = None) -> Shown:
        """Of aligned grey values in [0, 1], on coarse voxels.

        `middle`: 0 where they do not count for correlation and rise.
        """
        contents = (moving > DARKEST, fixed > DARKEST)
        common, least = (contents[0] & contents[1]).sum(), min(v.sum() for v in contents)
        middle = np.ones_like(moving) if middle is None else middle
        inside = _within(middle, moving, fixed)
        overlap = float(common / max(least, 1))
        return cls(relation(*inside), information(moving, fixed), overlap, rise(*inside))

    @classmethod
    def of(cls, subjects: Subjects, affine: sitk.AffineTransform) -> Shown:
        """Of two images that `affine` aligns, fixed point -> moving point.

        Two images in Hounsfield units have the same contrast by definition. Of heads, the middle
        tells the contrast, because fat and skin follow rules of their own.
        """
        grid = subjects.grid(affine, look_mm(Grid.of(subjects.views[1])), 0.0, 1, room=0)
        sides = zip(subjects.views, (affine, None), subjects.grey, strict=True)
        moving, fixed = (
            resample_image(view, grid, chain, grey)[0, 0].numpy() for view, chain, grey in sides
        )
        middle = subjects.middle_on(grid, affine)
        found = cls.in_values(moving, fixed, None if middle is None else middle[0, 0].numpy())
        same = all(grey.hounsfield for grey in subjects.grey)
        return replace(found, correlation=1.0, rise=1.0) if same else found

    def same_contrast(self, brains: bool) -> bool:
        """Whether both images have one contrast. `brains`: both show brains or heads."""
        return _same(self.correlation, self.rise if brains else math.nan, RISES)


def relates(moving: Values, fixed: Values, middle: Values | None, brains: bool) -> bool:
    """Whether roughly registered grey values in [0, 1] are those of one contrast.

    Args:
        middle: 0 where they do not count; None: all do. brains: as of `Shown.same_contrast`.
    """
    middle = np.ones_like(moving) if middle is None else middle
    inside = _within(middle, moving, fixed)
    return _same(relation(*inside), rise(*inside) if brains else math.nan, RISES_CLOSE)


def relates_early(moving: Values, fixed: Values, middle: Values) -> bool:
    """As `relates`, of brains after the coarsest level: correlation must agree with the order."""
    inside = _within(middle, moving, fixed)
    return rise(*inside) >= RISES_CLOSE and relation(*inside) >= EARLY


def _same(correlation: float, rises: float, least: float) -> bool:
    """Whether images have one contrast. A rise that is NaN tells nothing."""
    return correlation >= LEAST if math.isnan(rises) else rises >= least


def relation(moving: Values, fixed: Values) -> float:
    """Pearson's correlation of aligned grey values in [0, 1], where both images show content.

    It is the smaller one of all content, and of content without its darkest part: fluid is dark in
    T1 and in FLAIR, which differ in all else. Bodies against air make any two images correlate, so
    the background does not count.
    """
    content = (moving > DARKEST) & (fixed > DARKEST)
    if content.sum() < FEW:
        return 1.0
    dark = [np.percentile(image[image > DARKEST], DARK) for image in (moving, fixed)]
    tissue = (moving > dark[0]) & (fixed > dark[1])
    return min(_correlation(moving[part], fixed[part]) for part in (content, tissue))


def rise(moving: Values, fixed: Values) -> float:
    """How much one image brightens at least where the other does, in SD; below 0 where it darkens.

    The grey values of each image fall into PARTS equal parts, and the other one has a mean in each.
    The result is the smallest difference of two means that lie APART parts apart, brighter minus
    darker. Correlation cannot tell T1 from FLAIR of one person: fluid is dark in both, and the
    white matter, which is brighter in the one and darker in the other, weighs less. Means of badly
    aligned images differ less, but the order of tissues stays. NaN: too few voxels, or one value.
    """
    content = (moving > DARKEST) & (fixed > DARKEST)
    one, other = moving[content], fixed[content]
    if one.size < FEW * PARTS or one.std() == 0 or other.std() == 0:
        return math.nan
    return min(_least_rise(one, other), _least_rise(other, one))


def _least_rise(image: Values, other: Values) -> float:
    """`rise` of (N,) values of `other` where those of `image` rise."""
    order = np.argsort(image, kind="stable")
    means = np.array([part.mean() for part in np.array_split(other[order], PARTS)])
    return float((means[APART:] - means[:-APART]).min() / other.std())


def _within(middle: Values, moving: Values, fixed: Values) -> tuple[Values, Values]:
    """Both images where `middle` is not 0, else 0; all of them if too little content lies there."""
    inside = (middle > 0) & (moving > DARKEST) & (fixed > DARKEST)
    part = inside if inside.sum() >= FEW else np.ones_like(inside)
    return moving * part, fixed * part


def information(moving: Values, fixed: Values) -> float:
    """Mutual information of aligned grey values in [0, 1], as a share of the smaller entropy.

    Over the voxels inside the content of both images: silhouettes do not count. What few voxels
    gain by chance is subtracted (Miller 1955). NaN: few voxels, or two images of one grey value.
    """
    contents = (moving > DARKEST, fixed > DARKEST)
    both = _inside(contents[0]) & _inside(contents[1])
    if both.sum() < FEW:  # thin content
        both = contents[0] & contents[1]
    if both.sum() < FEW:
        return math.nan
    bins = SLICE_BINS if min(moving.shape) == 1 else BINS
    counts, _, _ = np.histogram2d(moving[both], fixed[both], bins, ((0, 1), (0, 1)))
    parts = (counts.sum(1), counts.sum(0), counts.ravel())
    of_moving, of_fixed, of_both = map(_entropy, parts)
    chance = [np.count_nonzero(part) - 1 for part in parts]
    found = of_moving + of_fixed - of_both
    found -= (chance[2] - chance[0] - chance[1]) / (2 * counts.sum())
    least = min(of_moving, of_fixed)
    if least:
        return float(max(found, 0.0) / least)
    return math.nan if max(of_moving, of_fixed) == 0 else 0.0  # one of the two tells nothing


def _inside(content: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`content` without its outermost voxels; it goes on at the border of the grid."""
    for axis in range(3):
        beside = np.pad(content, [(int(k == axis),) * 2 for k in range(3)], constant_values=True)
        n = content.shape[axis]
        first, last = (beside.take(range(a, a + n), axis) for a in (0, 2))
        content = content & first & last
    return content


def _correlation(a: Values, b: Values) -> float:
    if a.size < FEW or a.std() == 0 or b.std() == 0:
        return 1.0
    return float(np.corrcoef(a, b)[0, 1])


def _entropy(counts: NDArray[np.float64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
