"""Affine alignment with SimpleITK: a coarse search over poses, then optima at 8 to 1 mm.

The result maps fixed points to moving points (mm, LPS), as in SimpleITK and ANTs.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.intensity import Intensities, read_intensities
from hsyn_cli.anatomy.poses import (
    POSES,
    Kind,
    Masks,
    Search,
    best_pose,
    best_turn,
    better,
    cost_of,
    metric,
    optimise,
    summed_in_order,
    turned,
)
from hsyn_cli.errors import GeometryError, UsageError
from hsyn_cli.space import LEAST_VOXELS_PER_AXIS, Array, Grid, affine_from, affine_parts
from hsyn_cli.space.planes import Plane

SEARCH_MM, STAGES_MM = 8.0, (4.0, 2.0, 1.0)
SAMPLED = (0.15, 0.03, 0.02)  # share of the voxels sampled in each of STAGES_MM ...
LEAST_SAMPLES = 20_000  # ... but at least this many voxels
ROUNDING = 1e-3  # of the entries of a matrix that is a rotation, or the identity
LEAST_VOLUME = 0.1  # determinant; a transform that shrinks space further is no alignment


def align(
    fixed: sitk.Image,
    moving: sitk.Image,
    kind: Kind = "affine",
    *,
    seed: int = 0,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    start: sitk.AffineTransform | None = None,
    other: Array | None = None,
    finest_mm: float = STAGES_MM[1],
    grey: tuple[Intensities | None, Intensities | None] = (None, None),
    same_contrast: bool = True,
    search: Search = "near",
    middles: Masks = (None, None),
) -> sitk.AffineTransform:
    """Affine or rigid transform, or translation, fixed point -> moving point.

    Centres of mass give the shift, second moments the scale, and a grid of rotations the pose. The
    best few are optimised at 8 mm as similarities, and the best of those at 4 and 2 mm as `kind`.
    The cost is Pearson's correlation, or Mattes' mutual information where contrasts differ.

    Args:
        kind: "none" returns `start`, or the identity.
        start: takes the place of the search. other: a shift in mm that the search tries, too.
        finest_mm: finer stages are left out, except the first stage.
        grey: intensities of the moving and the fixed image, if known.
        same_contrast: whether both images show a tissue in the same way.
        search: "full" also finds poses that are turned by up to 180 degrees.
        middles: masks of the parts of both images that tell the pose, too, and of which that of
            the fixed image is aligned last, as well as its masks allow.

    Raises:
        GeometryError: the images have too few voxels in common. UsageError: an unknown `kind`.
    """
    check_kind(kind)
    if kind == "none":
        return start if start is not None else sitk.AffineTransform(3)
    plane = Plane.of(Grid.of(fixed))
    height = 0.0 if plane is None else plane.height(Grid.of(moving))
    if plane is not None:  # slices are aligned as 2-D images
        fixed, moving = plane.image(fixed), plane.image(moving)
        fixed_mask, moving_mask = (m and plane.image(m) for m in (fixed_mask, moving_mask))
        start, other = start and plane.within(start), plane.along(other)
    fixed, moving = _robust(fixed, grey[1]), _robust(moving, grey[0])
    least = min(finest_mm, STAGES_MM[0])
    stages = [(mm, part) for mm, part in zip(STAGES_MM, SAMPLED, strict=True) if mm >= least]
    spacings = (SEARCH_MM, *dict(stages))
    levels = {mm: (_at_spacing(fixed, mm), _at_spacing(moving, mm)) for mm in spacings}
    masks: Masks = (fixed_mask, moving_mask)
    turn, centre = np.eye(fixed.GetDimension()), np.zeros(fixed.GetDimension())
    with summed_in_order(same_contrast):
        if search == "full" and start is None:
            turn, centre = best_turn(*levels[SEARCH_MM], masks, kind, same_contrast)
            levels = {mm: (f, turned(m, turn, centre)) for mm, (f, m) in levels.items()}
            masks = (fixed_mask, moving_mask and turned(moving_mask, turn, centre))
        middle, of_moving = middles
        plan = [(stage, masks) for stage in (stages if middle is None else stages[:1])]
        within = masks
        if middle is not None:
            inside = middle if masks[0] is None else sitk.And(middle, _as_ones(masks[0], middle))
            within = (inside, masks[1])
            plan += [(stage, within) for stage in stages]
        transform: sitk.Transform
        if start is None:
            levels_here = levels[SEARCH_MM]
            transform, _ = best_pose(*levels_here, masks, kind, other, same_contrast)
            if middle is not None and of_moving is not None:
                about = (middle, turned(of_moving, turn, centre))
                further = best_pose(*levels_here, within, kind, other, same_contrast, about=about)
                transform = better(*levels_here, within, same_contrast, transform, further)
        else:
            transform = start if kind == "affine" else _nearest(start, kind, fixed)
        for k, (stage, where) in enumerate(plan):
            found = (transform, *levels[stage[0]], where, kind, same_contrast, stage, seed)
            try:
                refined = _refined(*found)
            except GeometryError:
                if not k:
                    raise
                break  # the middles do not meet, or have one grey value
            if refined is None:  # a slab can turn inside out, and a tiny image can get lost
                break
            transform = refined
    a, t = affine_parts(transform)
    found = affine_from(turn @ a, centre + turn @ (t - centre))
    return found if plane is None else plane.lifted(found, height)


def _refined(
    transform: sitk.Transform,
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Masks,
    kind: Kind,
    same_contrast: bool,
    stage: tuple[float, float],
    seed: int,
) -> sitk.Transform | None:
    """The optimum of a stage (its mm, the share of voxels sampled); None: it was better before."""
    mm, share = stage
    method = metric(*masks, same_contrast)
    method.SetMetricSamplingStrategy(method.RANDOM)
    least = LEAST_SAMPLES / fixed.GetNumberOfPixels()
    method.SetMetricSamplingPercentage(min(1.0, max(share, least)), seed + 1)
    current = as_affine(transform) if kind == "affine" else _nearest(transform, kind, fixed)
    method.SetInitialTransform(current, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=mm / 4, minStep=mm / 200, numberOfIterations=100, relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    _check_common(method, fixed, moving)
    if not optimise(method, fixed, moving):
        return None
    lost = method.GetMetricValue() > 1 or np.linalg.det(affine_parts(current)[0]) < LEAST_VOLUME
    return None if lost else current


def check_kind(kind: str) -> None:
    """Raise UsageError unless `kind` is one of `Kind`."""
    if kind not in get_args(Kind):
        raise UsageError(f"unknown affine {kind!r}", f"choose one of {', '.join(get_args(Kind))}")


def as_affine(transform: sitk.Transform) -> sitk.AffineTransform:
    """Any linear SimpleITK transform as an AffineTransform centred on the origin of space."""
    return affine_from(*affine_parts(transform))


def _nearest(transform: sitk.Transform, kind: Kind, fixed: sitk.Image) -> sitk.Transform:
    """The rotation about the middle of `fixed`, or translation, nearest to a linear transform.

    Both transforms map that middle to the same point.
    """
    a, _ = affine_parts(transform)
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    shift = (np.array(transform.TransformPoint(middle)) - np.array(middle)).tolist()
    if kind == "translation":
        return sitk.TranslationTransform(len(a), shift)
    out = POSES[len(a)][0]()
    out.SetCenter(middle)
    out.SetMatrix(_rotation(a).ravel().tolist(), 1e-6)
    out.SetTranslation(shift)
    return out


def _rotation(matrix: Array) -> Array:
    """The rotation (d, d) nearest to a matrix, by its singular values."""
    left, _, right = np.linalg.svd(matrix)
    mirrored = np.diag([*(1.0,) * (len(matrix) - 1), np.linalg.det(left @ right)])
    rotation: Array = left @ mirrored @ right
    return rotation


def left_out(start: sitk.Transform, kind: Kind) -> str:
    """A warning that tells which part of a linear `start` an alignment of `kind` cannot keep.

    Empty if it keeps all, up to rounding.
    """
    if kind not in ("rigid", "translation"):
        return ""
    matrix, _ = affine_parts(start)
    rotation = _rotation(matrix)
    stretch, lost = rotation.T @ matrix, []
    same = np.eye(len(matrix))
    if kind == "translation" and np.abs(rotation - same).max() > ROUNDING:
        turn = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
        lost.append(f"its rotation by {turn:.3g} degrees")
    if np.abs(stretch - same).max() > ROUNDING:
        factors = ", ".join(f"{factor:.4g}" for factor in np.linalg.eigvalsh(stretch)[::-1])
        lost.append(f"its scales and shears (factors {factors} along three axes)")
    word = "a translation" if kind == "translation" else "rigid"
    told = f"the alignment is {word}, so it starts from the initial transform"
    return f"{told}, without {' and '.join(lost)}" if lost else ""


def _as_ones(mask: sitk.Image, like: sitk.Image) -> sitk.Image:
    """A mask as ones on another grid."""
    same = sitk.Transform(like.GetDimension(), sitk.sitkIdentity)
    return sitk.Resample(mask != 0, like, same, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)


def _robust(image: sitk.Image, grey: Intensities | None) -> sitk.Image:
    """`image` clipped to `grey` (or to `read_intensities`) and scaled to [0, 1], float32."""
    grey = grey or read_intensities(image)
    low, high = grey.low, grey.high
    return sitk.Cast(
        sitk.IntensityWindowing(sitk.Cast(image, sitk.sitkFloat32), low, high, 0.0, 1.0),
        sitk.sitkFloat32,
    )


def _at_spacing(image: sitk.Image, mm: float) -> sitk.Image:
    """`image` smoothed and resampled to about `mm`.

    Axes that are as coarse stay as they are. Thin axes keep LEAST_VOXELS_PER_AXIS voxels.
    """
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    out = np.maximum(np.minimum(mm, spacing * size / LEAST_VOXELS_PER_AXIS), spacing)
    factor = out / spacing
    if (factor < 1.5).all():
        return image
    shrink = [int(max(1, f // 2)) for f in factor]
    image = sitk.BinShrink(image, shrink)  # a cheap first mean; interpolation does the rest
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    new = np.ceil(size * spacing / out).astype(int)
    first = image.TransformContinuousIndexToPhysicalPoint(((out / spacing - 1) / 2).tolist())
    return sitk.Resample(
        image,
        new.tolist(),
        sitk.Transform(image.GetDimension(), sitk.sitkIdentity),
        sitk.sitkLinear,
        first,
        out.tolist(),
        image.GetDirection(),
        0.0,
    )


def _check_common(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image
) -> None:
    """Raise GeometryError if no voxel lies in both images and masks.

    ITK then throws or returns a cost above 1.
    """
    if not cost_of(method, fixed, moving) <= 1:
        text = "the fixed and the moving image have too few voxels in common to align them"
        raise GeometryError(text, "check the masks and the --initial-transform, or use --no-affine")
