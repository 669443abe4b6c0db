"""Affine alignment with SimpleITK: a coarse search over poses, then correlation at 8 to 2 mm.

The result maps fixed points to moving points (mm, LPS), as in SimpleITK and ANTs.
"""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.intensity import Intensities, read_intensities
from hsyn_cli.errors import GeometryError, UsageError
from hsyn_cli.space import LEAST_VOXELS_PER_AXIS, Array, affine_from, affine_parts

Kind = Literal["affine", "rigid", "none"]

SEARCH_MM, STAGES_MM = 8.0, (4.0, 2.0)
SAMPLED = (0.15, 0.03)  # share of the voxels sampled in each of STAGES_MM ...
LEAST_SAMPLES = 20_000  # ... but at least this many voxels
LEAST_VOLUME = 0.1  # determinant; a transform that shrinks space further is no alignment

SEARCH_ANGLES = (-0.6, 0.0, 0.6)  # radians about each axis, tried before any optimisation
SEARCH_KEPT = 3  # best poses, which are then optimised


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
    finest_mm: float = STAGES_MM[-1],
    grey: tuple[Intensities | None, Intensities | None] = (None, None),
) -> sitk.AffineTransform:
    """Affine or rigid transform, fixed point -> moving point.

    Centres of mass give the shift, second moments the scale, and a grid of rotations the pose. The
    best few are optimised at 8 mm as similarities, and the best of those at 4 and 2 mm as `kind`.
    The cost is Pearson's correlation.

    Args:
        kind: "none" returns `start`, or the identity.
        start: takes the place of the search. other: a shift in mm that the search tries, too.
        finest_mm: finer stages are left out, except the first stage.
        grey: intensities of the moving and the fixed image, if known.

    Raises:
        GeometryError: the images have too few voxels in common. UsageError: an unknown `kind`.
    """
    check_kind(kind)
    if kind == "none":
        return start if start is not None else sitk.AffineTransform(3)
    fixed, moving = _robust(fixed, grey[1]), _robust(moving, grey[0])
    least = min(finest_mm, STAGES_MM[0])
    stages = [(mm, part) for mm, part in zip(STAGES_MM, SAMPLED, strict=True) if mm >= least]
    spacings = (SEARCH_MM, *dict(stages))
    levels = {mm: (_at_spacing(fixed, mm), _at_spacing(moving, mm)) for mm in spacings}
    masks = (fixed_mask, moving_mask)
    transform: sitk.Transform = start or _search(*levels[SEARCH_MM], masks, kind, other)
    for mm, share in stages:
        method = _method(*masks)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(
            min(1.0, max(share, LEAST_SAMPLES / levels[mm][0].GetNumberOfPixels())), seed + 1
        )
        current = as_affine(transform) if kind == "affine" else _as_rigid(transform, levels[mm][0])
        method.SetInitialTransform(current, inPlace=True)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=mm / 4, minStep=mm / 200, numberOfIterations=100, relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )  # fmt: skip
        method.SetOptimizerScalesFromPhysicalShift()
        _check_common(method, *levels[mm])
        method.Execute(*levels[mm])
        # A slab can turn inside out, and a tiny image can get lost. The stage before was better.
        if method.GetMetricValue() > 1 or np.linalg.det(affine_parts(current)[0]) < LEAST_VOLUME:
            break
        transform = current
    return as_affine(transform)


def check_kind(kind: str) -> None:
    """Raise UsageError unless `kind` is one of `Kind`."""
    if kind not in get_args(Kind):
        raise UsageError(f"unknown affine {kind!r}", f"choose one of {', '.join(get_args(Kind))}")


def as_affine(transform: sitk.Transform) -> sitk.AffineTransform:
    """Any linear SimpleITK transform as an AffineTransform centred on the origin of space."""
    return affine_from(*affine_parts(transform))


def _as_rigid(transform: sitk.Transform, fixed: sitk.Image) -> sitk.Euler3DTransform:
    """The rotation nearest to a linear transform, about the middle of `fixed`.

    Both transforms map that middle to the same point.
    """
    a = np.reshape(as_affine(transform).GetMatrix(), (3, 3))
    left, _, right = np.linalg.svd(a)
    rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    out = sitk.Euler3DTransform()
    out.SetCenter(middle)
    out.SetMatrix(rotation.ravel().tolist(), 1e-6)
    out.SetTranslation((np.array(transform.TransformPoint(middle)) - np.array(middle)).tolist())
    return out


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
        sitk.Transform(),
        sitk.sitkLinear,
        first,
        out.tolist(),
        image.GetDirection(),
        0.0,
    )


def _method(
    fixed_mask: sitk.Image | None, moving_mask: sitk.Image | None
) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    if fixed_mask is not None:
        method.SetMetricFixedMask(fixed_mask)
    if moving_mask is not None:
        method.SetMetricMovingMask(moving_mask)
    return method


def _check_common(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image
) -> None:
    """Raise GeometryError if no voxel lies in both images and masks.

    ITK then throws or returns a cost above 1.
    """
    try:
        common = method.MetricEvaluate(fixed, moving) <= 1
    except RuntimeError as error:
        if "1 or more points" not in str(error):
            raise
        common = False
    if not common:
        text = "the fixed and the moving image have too few voxels in common to align them"
        raise GeometryError(text, "check the masks and the --initial-transform, or use --no-affine")


def _moments(image: sitk.Image, mask: sitk.Image | None) -> tuple[Array, float]:
    """Centre of mass in mm, and the root mean square distance from it, weighted by intensity.

    Only voxels inside the mask count.
    """
    values = sitk.GetArrayViewFromImage(image).astype(float)
    if mask is not None:
        resampled = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        inside = sitk.GetArrayViewFromImage(resampled) != 0
        if (values * inside).any():  # a mask thinner than these voxels can miss them all
            values = values * inside
    weight = values / values.sum()
    axes = [np.arange(n, dtype=float) for n in image.GetSize()]
    marginal = [weight.sum(axis=tuple(k for k in range(3) if k != 2 - i)) for i in range(3)]
    mean = [float(a @ m) for a, m in zip(axes, marginal, strict=True)]
    spacing = image.GetSpacing()
    spread = sum(
        float((a - c) ** 2 @ m) * s * s
        for a, c, m, s in zip(axes, mean, marginal, spacing, strict=True)
    )
    return np.array(image.TransformContinuousIndexToPhysicalPoint(mean)), float(np.sqrt(spread))


def _search(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: tuple[sitk.Image | None, sitk.Image | None],
    kind: Kind,
    other: Array | None,
) -> sitk.Similarity3DTransform | sitk.Euler3DTransform:
    centre_f, spread_f = _moments(fixed, masks[0])
    centre_m, spread_m = _moments(moving, masks[1])
    scale = 1.0 if kind == "rigid" else float(np.clip(spread_m / max(spread_f, 1e-6), 0.7, 1.4))
    method = _method(*masks)
    method.SetMetricSamplingStrategy(method.NONE)

    def pose(
        angles: tuple[float, ...], shift: Array, scale: float
    ) -> sitk.Similarity3DTransform | sitk.Euler3DTransform:
        euler = sitk.Euler3DTransform(centre_f.tolist(), *angles, shift.tolist())
        if kind == "rigid":
            return euler
        out = sitk.Similarity3DTransform()
        out.SetCenter(centre_f.tolist())
        out.SetTranslation(shift.tolist())
        out.SetMatrix((np.array(euler.GetMatrix()) * scale).tolist())
        return out

    def cost(transform: sitk.Transform) -> float:
        method.SetInitialTransform(transform, inPlace=True)
        return float(method.MetricEvaluate(fixed, moving))

    shift = centre_m - centre_f
    poses = [pose(angles, shift, scale) for angles in itertools.product(SEARCH_ANGLES, repeat=3)]
    identity = pose((0.0, 0.0, 0.0), np.zeros(3), 1.0)
    best = [*sorted(poses, key=cost)[:SEARCH_KEPT], identity]
    if other is not None:
        best.append(pose((0.0, 0.0, 0.0), other, 1.0))
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.05, numberOfIterations=60, relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    for transform in best:
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(fixed, moving)
    return min(best, key=cost)
