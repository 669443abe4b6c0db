"""The search over poses that precedes all fine alignment: centres, scale and rotations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from hsyn_cli.space import Array

Kind = Literal["affine", "rigid", "translation", "none"]
Search = Literal["near", "full"]
Masks = tuple[sitk.Image | None, sitk.Image | None]  # fixed, moving

SEARCH_ANGLES = (-0.6, 0.0, 0.6)  # radians about each axis, tried before any optimisation
SEARCH_KEPT, SEARCH_STEPS = 3, 60  # best poses, which are then optimised
TURNS_KEPT = 4  # best turns of a cube, which are then searched
BINS = 32  # of the grey values, for mutual information
POSES: dict[int, tuple[Any, Any]] = {  # by dimension: rigid, and with a scale
    2: (sitk.Euler2DTransform, sitk.Similarity2DTransform),
    3: (sitk.Euler3DTransform, sitk.Similarity3DTransform),
}
NOTHING_COMMON = (  # of ITK's errors
    "1 or more points", "All samples map outside", "Joint PDF summed to zero", "Refusing to change",
)  # fmt: skip


def metric(
    fixed_mask: sitk.Image | None, moving_mask: sitk.Image | None, same_contrast: bool
) -> sitk.ImageRegistrationMethod:
    """Pearson's correlation inside the masks, or Mattes' mutual information between contrasts."""
    method = sitk.ImageRegistrationMethod()
    if same_contrast:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    if fixed_mask is not None:
        method.SetMetricFixedMask(fixed_mask)
    if moving_mask is not None:
        method.SetMetricMovingMask(moving_mask)
    return method


@contextmanager
def summed_in_order(same_contrast: bool) -> Iterator[None]:
    """Between contrasts, let new filters of ITK use one thread meanwhile.

    Several threads sum mutual information in another order each time, so that a run would not
    give the same result again. Correlation does not depend on it. ITK knows this number for the
    whole process alone.
    """
    itk = sitk.ProcessObject
    threads = itk.GetGlobalDefaultNumberOfThreads()
    if not same_contrast:
        itk.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        itk.SetGlobalDefaultNumberOfThreads(threads)


def optimise(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> bool:
    """Move the initial transform to an optimum; False if it got lost outside the images."""
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        if not any(words in str(error) for words in NOTHING_COMMON):
            raise
        return False
    return True


def cost_of(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> float:
    """The cost where the images lie; infinite if they have no voxel in common."""
    try:
        return float(method.MetricEvaluate(fixed, moving))
    except RuntimeError as error:
        if not any(words in str(error) for words in NOTHING_COMMON):
            raise
        return np.inf


def _moments(image: sitk.Image, mask: sitk.Image | None) -> tuple[Array, float]:
    """Centre of mass in mm, and the root mean square distance from it, weighted by intensity.

    Only voxels inside the mask count.
    """
    values = sitk.GetArrayViewFromImage(image).astype(float)
    if mask is not None:
        same = sitk.Transform(image.GetDimension(), sitk.sitkIdentity)
        resampled = sitk.Resample(mask, image, same, sitk.sitkNearestNeighbor, 0)
        inside = sitk.GetArrayViewFromImage(resampled) != 0
        if (values * inside).any():  # a mask thinner than these voxels can miss them all
            values = values * inside
    weight = values / values.sum()
    axes = [np.arange(n, dtype=float) for n in image.GetSize()]
    d = values.ndim
    marginal = [weight.sum(axis=tuple(k for k in range(d) if k != d - 1 - i)) for i in range(d)]
    mean = [float(a @ m) for a, m in zip(axes, marginal, strict=True)]
    spacing = image.GetSpacing()
    spread = sum(
        float((a - c) ** 2 @ m) * s * s
        for a, c, m, s in zip(axes, mean, marginal, spacing, strict=True)
    )
    return np.array(image.TransformContinuousIndexToPhysicalPoint(mean)), float(np.sqrt(spread))


def turns(d: int = 3) -> list[Array]:
    """The 24 rotations (3, 3) of a cube, or, with `d` = 2, the 4 of a square."""
    flips = [np.diag(signs) for signs in itertools.product((1.0, -1.0), repeat=d)]
    axes = [np.eye(d)[list(order)] for order in itertools.permutations(range(d))]
    return [a @ f for a in axes for f in flips if np.linalg.det(a @ f) > 0]


def turned(image: sitk.Image, turn: Array, about: Array) -> sitk.Image:
    """A copy whose point q lies where `turn` (d, d) about a point leads to q."""
    out, origin = sitk.Image(image), np.array(image.GetOrigin())
    out.SetOrigin((about + turn.T @ (origin - about)).tolist())
    out.SetDirection((turn.T @ np.reshape(image.GetDirection(), turn.shape)).ravel().tolist())
    return out


def best_turn(
    fixed: sitk.Image, moving: sitk.Image, masks: Masks, kind: Kind, same_contrast: bool
) -> tuple[Array, Array]:
    """The turn of a cube after which the images become most alike, and the point it is about.

    Optimisers of rotations fail near 180 degrees, so the moving image is turned instead.
    """
    centre, _ = _moments(moving, masks[1])

    def found(turn: Array, steps: int) -> float:
        mask = masks[1] and turned(masks[1], turn, centre)
        there, both = turned(moving, turn, centre), (masks[0], mask)
        return best_pose(fixed, there, both, kind, None, same_contrast, steps)[1]

    likely = sorted(turns(fixed.GetDimension()), key=lambda turn: found(turn, 0))[:TURNS_KEPT]
    return min(likely, key=lambda turn: found(turn, SEARCH_STEPS)), centre


def best_pose(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Masks,
    kind: Kind,
    other: Array | None,
    same_contrast: bool,
    steps: int = SEARCH_STEPS,
    about: Masks | None = None,
) -> tuple[sitk.Transform, float]:
    """The best pose after so many `steps`, and its cost.

    `about`: masks of the parts whose centres lie on each other at first; None: the `masks`.
    """
    of_fixed, of_moving = masks if about is None else about
    centre_f, spread_f = _moments(fixed, of_fixed)
    centre_m, spread_m = _moments(moving, of_moving)
    size = float(np.clip(spread_m / max(spread_f, 1e-6), 0.7, 1.4))
    scale = size if kind == "affine" else 1.0
    method = metric(*masks, same_contrast)
    method.SetMetricSamplingStrategy(method.NONE)

    d = fixed.GetDimension()
    rigid, similar = POSES[d]
    angles = 3 if d == 3 else 1

    def pose(angles: tuple[float, ...], shift: Array, scale: float) -> sitk.Transform:
        if kind == "translation":
            return sitk.TranslationTransform(d, shift.tolist())
        euler = rigid(centre_f.tolist(), *angles, shift.tolist())
        if kind == "rigid":
            return euler
        out = similar()
        out.SetCenter(centre_f.tolist())
        out.SetTranslation(shift.tolist())
        out.SetMatrix((np.array(euler.GetMatrix()) * scale).tolist())
        return out

    def cost(transform: sitk.Transform) -> float:
        method.SetInitialTransform(transform, inPlace=True)
        return cost_of(method, fixed, moving)

    shift = centre_m - centre_f
    tried = itertools.product((0.0,) if kind == "translation" else SEARCH_ANGLES, repeat=angles)
    poses = [pose(each, shift, scale) for each in tried]
    best = sorted(poses, key=cost)[:SEARCH_KEPT]
    straight = (0.0,) * angles
    best += [pose(straight, by, 1.0) for by in (np.zeros(d), other) if by is not None]
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.05, numberOfIterations=steps, relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    for transform in best:
        if steps and np.isfinite(cost(transform)):
            optimise(method, fixed, moving)
    costs = list(map(cost, best))
    return best[int(np.argmin(costs))], min(costs)


def better(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Masks,
    same_contrast: bool,
    pose: sitk.Transform,
    further: tuple[sitk.Transform, float],
) -> sitk.Transform:
    """The one of two poses with the lower cost inside the masks; that of `further` is known."""
    method = metric(*masks, same_contrast)
    method.SetInitialTransform(pose, inPlace=True)
    return pose if cost_of(method, fixed, moving) <= further[1] else further[0]
