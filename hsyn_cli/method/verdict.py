"""Whether a registration can be trusted. Ours.

What it judges by was not optimised: mutual information and overlap of the contents, on coarse
voxels, and the size of the affine. The limits lie between pairs that work and pairs that cannot,
see the guide "experiments".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.affine import align
from hsyn_cli.anatomy.contrast import Shown
from hsyn_cli.errors import GeometryError
from hsyn_cli.method.result import Scores
from hsyn_cli.method.states import Aligned, Settings
from hsyn_cli.space import Array, Grid, affine_parts

LEAST_INFORMATION = 0.035  # after the affine, where no deformation has made noise alike
LEAST_UNMATCHED = 0.06  # of volumes that differ in contrast, and tell too little for a match
LEAST_OVERLAP = 0.6  # of the smaller content
LEAST_SCALE, MOST_SCALE = 0.72, 1.4  # of the affine, along its axes
WORSE = 0.7  # of the information at first; what is almost aligned varies by less
WORSE_OVERLAP = 0.05  # less of the overlap is within its error
FAR_MM, BETTER = 10.0, 1.25  # a skipped alignment that moves so far, and its gain of information


def problems(
    aligned: Aligned, information: Scores, overlap: Scores, settings: Settings, unit: float
) -> tuple[str, ...]:
    """A clause for each reason why the result is not to be trusted.

    `unit`: mm of the images per mm here. NaN among the scores proves nothing.
    """
    slices = Grid.of(aligned.subjects.views[1]).normal is not None
    return (
        *_worse(information, overlap),
        *_unlike(information, overlap, aligned.unmatched and not slices),
        *_stretched(aligned.affine),
        *_displaced(aligned, settings, unit),
    )


def foreseen(aligned: Aligned) -> tuple[str, ...]:
    """The `problems` that the alignment alone lets expect."""
    shown, unknown = aligned.shown, float("nan")
    information = Scores(unknown, shown.information, unknown)
    overlap = Scores(unknown, shown.overlap, shown.overlap)
    return (*_unlike(information, overlap), *_stretched(aligned.affine))


def _worse(information: Scores, overlap: Scores) -> Iterator[str]:
    met = overlap.before > LEAST_OVERLAP
    if met and information.after < WORSE * information.before:
        yield (
            f"the images are less alike than before (mutual information {information.after:.3f}, "
            f"at first {information.before:.3f})"
        )
    if overlap.after < overlap.before - WORSE_OVERLAP:
        yield (
            f"the images overlap less than before ({overlap.after:.0%} of the smaller content, at "
            f"first {overlap.before:.0%})"
        )


def _unlike(information: Scores, overlap: Scores, unmatched: bool = False) -> Iterator[str]:
    found = np.fmin(information.affine, information.after)
    least, pairs = LEAST_INFORMATION, "pairs"
    if unmatched:
        least, pairs = LEAST_UNMATCHED, "pairs without a match"
    if found < least:
        yield (
            f"aligned, the images have almost nothing in common (mutual information {found:.3f}; "
            f"{pairs} that work have {least:g} and more)"
        )
    if overlap.after < LEAST_OVERLAP:
        yield f"the images overlap little ({overlap.after:.0%} of the smaller content)"


def _stretched(affine: sitk.AffineTransform) -> Iterator[str]:
    matrix, _ = affine_parts(affine)
    scales = np.linalg.svd(matrix)[1]
    if scales.min() < LEAST_SCALE or scales.max() > MOST_SCALE:
        yield (
            f"the affine scales by {scales.min():.2f} to {scales.max():.2f}: the images show "
            "bodies of different size"
        )
    if np.linalg.det(matrix) < 0:
        yield "the affine mirrors: left and right are exchanged"


def _displaced(aligned: Aligned, settings: Settings, unit: float) -> Iterator[str]:
    """Images that were not aligned, though they lie apart."""
    if settings.affine != "none":
        return
    subjects = aligned.subjects
    (moving, fixed), masks = subjects.align_by, subjects.counted
    try:
        other = align(
            fixed, moving, seed=settings.seed, grey=subjects.grey, finest_mm=4.0,
            moving_mask=masks[0], fixed_mask=masks[1],
            same_contrast=aligned.shown.same_contrast(brains=False),
        )  # fmt: skip
    except GeometryError:  # nothing to compare with
        return
    apart = _apart(Grid.of(subjects.views[1]), aligned.affine, other)
    own, better = (Shown.of(subjects, affine).information for affine in (aligned.affine, other))
    if apart > FAR_MM and better > BETTER * own:
        yield f"the images lie about {unit * apart:.3g} mm apart, and their alignment was skipped"


def _apart(grid: Grid, one: sitk.AffineTransform, other: sitk.AffineTransform) -> float:
    """Mean distance in mm between two maps of the corners of a grid's middle half."""
    corners: Array = (grid.corners() + grid.corners().mean(0)) / 2
    (a, t), (b, s) = affine_parts(one), affine_parts(other)
    return float(np.linalg.norm(corners @ (a - b).T + t - s, axis=1).mean())
