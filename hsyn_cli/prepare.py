"""What is done to an image before anything is registered: its intensity range, its content, its place on the working grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli import lungs
from hsyn_cli.errors import GeometryError
from hsyn_cli.space import Array, Grid, affine_parts

NO_AIR = -940.0  # HU


def intensity_range(image: sitk.Image) -> tuple[float, float]:
    """Darkest value and the 99.5th percentile of what lies above it; of Hounsfield units always the lungs' window."""
    if lungs.in_hounsfield(image):
        return lungs.WINDOW
    values = sitk.GetArrayViewFromImage(image)
    low = float(values.min())
    sample = values[::2, ::2, ::2]
    above = sample[sample > low]
    return low, float(np.percentile(above, 99.5)) if above.size else float(values.max())


def foreground(image: sitk.Image) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(Z, Y, X) True above the darkest value; of Hounsfield units above air."""
    values = sitk.GetArrayViewFromImage(image)
    return np.asarray(values > (NO_AIR if lungs.in_hounsfield(image) else values.min()))


def content_box(image: sitk.Image) -> tuple[Array, Array]:
    """First and last index (x, y, z) of what is brighter than 2 % of the range."""
    ends = _content_ends(image)
    return ends.min(0), ends.max(0)


def pair_box(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.AffineTransform, whole: Grid | None = None
) -> tuple[Array, Array]:
    """Box (first, last index of `whole`, by default the grid of `fixed`) that holds what both images show, inside its extent.

    The content of the moving image counts where `transform` (fixed point -> moving point) puts it, so two images of one
    grid that lie on each other already have the same box whichever is called fixed.
    """
    whole = Grid.of(fixed) if whole is None else whole
    a, t = affine_parts(transform)
    points = Grid.of(moving).points(_content_ends(moving))
    other = whole.indices((points - t) @ np.linalg.inv(a).T)
    own = whole.indices(Grid.of(fixed).points(_content_ends(fixed)))
    last = np.array(whole.size) - 1.0
    both = np.concatenate((own, other)).clip(0, last)
    return both.min(0), both.max(0)


def _content_ends(image: sitk.Image) -> Array:
    """(N, 3) indices x, y, z: on every line along x, the first and last voxel brighter than 2 % of the range.

    No convex box around all bright voxels, however turned, is larger than that around these.
    """
    low, high = intensity_range(image)
    bright = sitk.GetArrayViewFromImage(image) > low + 0.02 * (high - low)
    bright = bright if bright.any() else np.ones_like(bright)  # a mask of all
    z, y = np.nonzero(bright.any(axis=2))
    lines = bright[z, y]
    first, last = lines.argmax(1), lines.shape[1] - 1 - lines[:, ::-1].argmax(1)
    ends: Array = np.concatenate([np.stack((x, y, z), axis=1) for x in (first, last)]).astype(float)
    return ends


def on_grid(image: sitk.Image, grid: Grid, transform: sitk.Transform | None = None) -> Tensor:
    """`image` on a working grid, linear, intensities scaled to [0, 1] -> (1, 1, Z, Y, X)."""
    low, high = intensity_range(image)
    spacing = np.array(image.GetSpacing())
    if (spacing < 0.6 * grid.spacing[0]).any():
        image = sitk.SmoothingRecursiveGaussian(
            image, [max(0.5 * grid.spacing[0], 0.01 * s) for s in spacing]
        )
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(
        image, reference, transform or sitk.Transform(), sitk.sitkLinear, low, sitk.sitkFloat32
    )
    values = torch.from_numpy(sitk.GetArrayFromImage(moved))
    return values.sub_(low).div_(max(high - low, 1e-12)).clamp_(0, 1)[None, None]


def mask_on_grid(mask: sitk.Image | None, grid: Grid, transform: sitk.Transform | None = None) -> Tensor:
    """(1, 1, Z, Y, X): 1 where `mask` is not 0, ones where there is no mask."""
    if mask is None:
        return torch.ones(1, 1, *reversed(grid.size))
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(mask != 0, reference, transform or sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return torch.from_numpy(sitk.GetArrayFromImage(moved)).float()[None, None]


def check_overlap(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform | None) -> None:
    """Raise GeometryError unless the boxes of the two images meet in space."""
    boxes = []
    for image, chain in ((fixed, transform), (moving, None)):
        size = image.GetSize()
        corners = [[(n - 1.0) * ((c >> k) & 1) for k, n in enumerate(size)] for c in range(8)]
        points = [image.TransformContinuousIndexToPhysicalPoint(c) for c in corners]
        boxes.append(np.array([chain.TransformPoint(p) if chain else p for p in points]))
    low, high = np.maximum(boxes[0].min(0), boxes[1].min(0)), np.minimum(boxes[0].max(0), boxes[1].max(0))
    if (low >= high).any():
        gap = float((low - high).max())
        text = f"fixed and moving image do not overlap in space (they lie {gap:.0f} mm apart)"
        raise GeometryError(
            text, "check their headers, or give an --initial-transform that brings them together"
        )
