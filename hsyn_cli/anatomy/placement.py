"""Affine alignment of two prepared images wherever their headers put them."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.affine import align, left_out
from hsyn_cli.anatomy.poses import Kind, Masks, Search
from hsyn_cli.anatomy.scene import Subjects
from hsyn_cli.errors import GeometryError
from hsyn_cli.space import Array, Grid, affine_from, affine_parts

TOGETHER = 0.5  # share of the smaller content's box; less overlap brings the centres together
HEADERS_COUNT = 0.1  # from this overlap on, the headers' own position is tried as well


def place(
    subjects: Subjects,
    kind: Kind,
    start: sitk.AffineTransform | None,
    *,
    seed: int,
    finest_mm: float,
    same_contrast: bool = True,
    search: Search = "near",
    unit: float = 1.0,
) -> tuple[sitk.AffineTransform, str]:
    """The affine, fixed point -> moving point, and a note or none; see `align`.

    The `middles` of both images tell the pose, too, and that of the fixed one is aligned last.

    If the contents hardly overlap in space, their centres are brought together first, as the note
    tells. A `start` is taken as far as `kind` allows; the note tells what is left out. The place of
    images that are not to be aligned stays. Messages are in mm; lengths here are `unit` mm.

    Raises:
        GeometryError: the images then lie apart, or have too few voxels in common.
    """
    shift, other = None, None
    if kind == "none" or start is not None:
        check_overlap(Grid.of(subjects.views[1]), Grid.of(subjects.views[0]), start, unit)
    else:
        shift, other = _apart(subjects)
    (moving, fixed), (moving_mask, fixed_mask) = subjects.align_by, subjects.counted
    if shift is not None:
        moving = _shifted(moving, -shift)
        moving_mask = None if moving_mask is None else _shifted(moving_mask, -shift)
    middles: Masks = (None, None)
    if subjects.middles is not None:
        of_moving, of_fixed = subjects.middles
        middles = of_fixed, of_moving if shift is None else _shifted(of_moving, -shift)
    affine = align(
        fixed, moving, kind, seed=seed, fixed_mask=fixed_mask, moving_mask=moving_mask,
        start=start, other=other, finest_mm=finest_mm, grey=subjects.grey,
        same_contrast=same_contrast, search=search,
        middles=middles,
    )  # fmt: skip
    if shift is None:
        return affine, "" if start is None else left_out(start, kind)
    a, t = affine_parts(affine)
    note = (
        "by their headers, fixed and moving image lie apart: their centres were brought together "
        f"first, by {unit * np.linalg.norm(shift):.3g} mm"
    )
    return affine_from(a, t + shift), note


def _apart(subjects: Subjects) -> tuple[Array | None, Array | None]:
    """What brings the moving image's centre to the fixed one, and the headers' place from there.

    Shifts in mm, fixed point -> moving point. Either is None where it is of no use.
    """
    moving, fixed = (_box(*content) for content in subjects.contents)
    common = np.minimum(moving[1], fixed[1]) - np.maximum(moving[0], fixed[0])
    smaller = min(float((box[1] - box[0]).prod()) for box in (moving, fixed))
    overlap = float(common.clip(0).prod()) / smaller
    if overlap >= TOGETHER:
        return None, None
    shift: Array = moving.mean(0) - fixed.mean(0)
    tried = overlap >= HEADERS_COUNT and subjects.masks == (None, None)
    return shift, -shift if tried else None


def check_overlap(
    fixed: Grid, moving: Grid, transform: sitk.Transform | None, unit: float = 1.0
) -> None:
    """Raise GeometryError unless the bounding boxes of the two grids meet in space."""
    corners = fixed.corners(sides=True)
    if transform is not None:
        corners = np.array([transform.TransformPoint(p) for p in corners.tolist()])
    other = moving.corners(sides=True)
    low = np.maximum(corners.min(0), other.min(0))
    high = np.minimum(corners.max(0), other.max(0))
    if (low >= high).any():
        gap = unit * float((low - high).max())
        text = f"fixed and moving image do not overlap in space (they lie {gap:.3g} mm apart)"
        hint = "check their headers, or give an --initial-transform that brings them together"
        raise GeometryError(text, hint)


def _box(points: Array, voxel: float) -> Array:
    """(2, 3): the ends of the box around the voxels at `points` (N, 3), mm LPS."""
    return np.stack((points.min(0) - voxel / 2, points.max(0) + voxel / 2))


def _shifted(image: sitk.Image, shift: Array) -> sitk.Image:
    """A copy whose points lie `shift` mm further."""
    out = sitk.Image(image)
    out.SetOrigin((np.array(image.GetOrigin()) + shift).tolist())
    return out
