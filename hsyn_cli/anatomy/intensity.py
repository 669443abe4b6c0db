"""Grey values: their range, Hounsfield units, the foreground, and images on a working grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.anatomy.background import faces
from hsyn_cli.anatomy.hounsfield import in_hounsfield
from hsyn_cli.space import Array, Grid, affine_parts

if TYPE_CHECKING:
    import SimpleITK as sitk

CT_WINDOW = (-1000.0, 200.0)  # HU that become 0 (air) and 1 (above all vessels)
NO_AIR = -940.0  # HU; brighter voxels are not air
CONTENT = 0.02  # of the range; brighter voxels are content
BRIGHT = 0.1  # of the range; brighter voxels are no noise
NOISE, ABOVE_NOISE = 99.9, 1.5  # percentile of the quietest face; content is so many times brighter
USUAL, MOST_NOISE = (
    75,
    5.0,
)  # another percentile; in noise, `NOISE` is at most so many times as high
RUN = 3  # voxels; fewer that are bright in a row may be noise
PERCENTILE = 99.5  # if no checkpoint gives another one


@dataclass(frozen=True)
class Intensities:
    """The grey values that become 0 (`low`) and 1 (`high`), and whether they are in HU."""

    low: float
    high: float
    hounsfield: bool


def read_intensities(image: sitk.Image, percentile: float = PERCENTILE) -> Intensities:
    """The darkest value and a percentile of the values above it; `CT_WINDOW` in Hounsfield units.

    `image`: as the registration sees it, see `view`.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    if in_hounsfield(values):
        return Intensities(*CT_WINDOW, hounsfield=True)
    low = float(values.min())
    sample = values[::2, ::2, ::2]
    above = sample[sample > low]
    high = float(np.percentile(above, percentile)) if above.size else float(values.max())
    return Intensities(low, high, hounsfield=False)


def foreground(image: sitk.Image, hounsfield: bool | None = None) -> NDArray[np.bool_]:
    """(Z, Y, X): True above the darkest value, or above air in Hounsfield units.

    Args:
        image: as the registration sees it, see `view`.
        hounsfield: None finds out from the image.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    if hounsfield is None:
        hounsfield = in_hounsfield(values)
    return np.asarray(values > (NO_AIR if hounsfield else values.min()))


def content_from(image: sitk.Image, grey: Intensities) -> float:
    """The grey value above which voxels are content: CONTENT of the range, or the noise of air.

    The quietest of the faces that show mostly air tells the noise. A face may show some content,
    too: what is brighter than noise gets is not noise. Air of one value on half of these faces has
    none; on fewer, it is padding.
    """
    import SimpleITK as sitk

    values, span = sitk.GetArrayViewFromImage(image), grey.high - grey.low
    least = grey.low + CONTENT * span
    dark = [face for face in faces(values) if np.median(face) <= least]
    if not dark:
        return least
    levels = np.array([np.percentile(face, (NOISE, USUAL)) for face in dark]) - grey.low
    noises = np.minimum(levels[:, 0], MOST_NOISE * levels[:, 1])
    noisy = noises[noises > 0]
    noise = float(noisy.min()) if 2 * noisy.size > noises.size else 0.0
    return max(least, grey.low + min(ABOVE_NOISE * noise, BRIGHT * span))


def content_box(image: sitk.Image) -> tuple[Array, Array]:
    """First and last index (x, y, z) of the content, see `content_from`."""
    ends = content_ends(image)
    return ends.min(0), ends.max(0)


def grown_box(whole: Grid, own: Grid, box: tuple[Array, Array], mm: float) -> tuple[Array, Array]:
    """First and last index of `whole` within `mm` of a `box` given in indices of the grid `own`."""
    corners = np.array(list(itertools.product(*zip(*box, strict=True))))
    there = whole.indices(own.points(corners))
    widths, end = mm / np.array(whole.spacing), np.array(whole.size) - 1.0
    return (there.min(0) - widths).clip(0, end), (there.max(0) + widths).clip(0, end)


def pair_box(
    fixed: sitk.Image,
    moving: sitk.Image,
    transform: sitk.AffineTransform,
    whole: Grid | None = None,
    grey: tuple[Intensities | None, Intensities | None] = (None, None),
    room: Array | float = 0.0,
) -> tuple[Array, Array]:
    """First and last index, on `whole`, of the box that holds the content of both images.

    `transform` (fixed point -> moving point) places the content of the moving image. Two aligned
    images on one grid therefore have the same box, whichever is fixed. The box ends at the border
    of `whole`, or up to `room` beyond it.

    Args:
        whole: None is the grid of `fixed`. grey: of moving and fixed image, if known.
        room: (2, 3), in voxels of `whole` before its first and behind its last face.
    """
    whole = Grid.of(fixed) if whole is None else whole
    a, t = affine_parts(transform)
    points = Grid.of(moving).points(content_ends(moving, grey[0]))
    other = whole.indices((points - t) @ np.linalg.inv(a).T)
    own = whole.indices(Grid.of(fixed).points(content_ends(fixed, grey[1])))
    last = np.array(whole.size) - 1.0
    before, behind = np.broadcast_to(room, (2, 3))
    both = np.concatenate((own, other)).clip(-before, last + behind)
    return both.min(0), both.max(0)


def content_ends(image: sitk.Image, grey: Intensities | None = None) -> Array:
    """(N, 3) indices x, y, z of the first and last content voxel on every line along x.

    Their convex hull is that of all content, so a box around them holds it in any orientation. In
    noise, single voxels are none.
    """
    import SimpleITK as sitk

    grey = grey or read_intensities(image)
    least = content_from(image, grey)
    bright = sitk.GetArrayViewFromImage(image) > least
    if least > grey.low + CONTENT * (grey.high - grey.low):
        bright = _in_rows(bright)
    bright = bright if bright.any() else np.ones_like(bright)  # all voxels of a flat image
    z, y = np.nonzero(bright.any(axis=2))
    lines = bright[z, y]
    first, last = lines.argmax(1), lines.shape[1] - 1 - lines[:, ::-1].argmax(1)
    ends: Array = np.concatenate([np.stack((x, y, z), axis=1) for x in (first, last)]).astype(float)
    return ends


def _in_rows(bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True for voxels in rows of RUN and more along the longest axis."""
    axis = max(range(3), key=lambda k: (bright.shape[k], k))
    rows, out = np.moveaxis(bright, axis, 2), np.zeros_like(bright)
    n = rows.shape[2] - RUN + 1
    starts = np.logical_and.reduce([rows[..., k : k + n] for k in range(RUN)])
    for k in range(RUN):
        np.moveaxis(out, axis, 2)[..., k : k + n] |= starts
    return out


def resample_image(
    image: sitk.Image,
    grid: Grid,
    transform: sitk.Transform | None = None,
    grey: Intensities | None = None,
    goes_on: bool = False,
    even: bool = False,
) -> Tensor:
    """`image` on a working grid, scaled to [0, 1] by `grey` -> (1, 1, Z, Y, X).

    Beyond its border it is dark, or, if it `goes_on` there, as at the border. Linear interpolation
    blurs, and takes noise away, by how far from the voxels it samples. `even`: cubic B-splines on
    the voxels as they are blur by a third of a square voxel everywhere.
    """
    import SimpleITK as sitk

    grey = grey or read_intensities(image)
    spacing = np.array(image.GetSpacing())
    if (spacing < 0.6 * grid.spacing[0]).any():
        image = smoothed(image, 0.5 * grid.spacing[0])
    reference = grid.empty_image(sitk.sitkUInt8)
    transform = transform or sitk.Transform()
    kernel = sitk.sitkBSplineResamplerOrder3 if even else sitk.sitkLinear
    moved = sitk.Resample(image, reference, transform, kernel, grey.low, sitk.sitkFloat32, goes_on)
    values = torch.from_numpy(sitk.GetArrayFromImage(moved))
    span = max(grey.high - grey.low, 1e-12)
    return values.sub_(grey.low).div_(span).clamp_(0, 1)[None, None]


def smoothed(image: sitk.Image, sigma: float) -> sitk.Image:
    """`image` after a Gaussian of `sigma` mm along each axis of several voxels."""
    import SimpleITK as sitk

    image = sitk.Cast(image, sitk.sitkFloat32)
    for axis, (n, s) in enumerate(zip(image.GetSize(), image.GetSpacing(), strict=True)):
        if n > 1:
            image = sitk.RecursiveGaussian(image, max(sigma, 0.01 * s), direction=axis)
    return image


def resample_mask(
    mask: sitk.Image | None,
    grid: Grid,
    transform: sitk.Transform | None = None,
    touched: bool = False,
) -> Tensor:
    """(1, 1, Z, Y, X): 1 where `mask` is not 0. Without a mask, all ones.

    `touched`: also where the image between its voxels depends on one in the mask.
    """
    import SimpleITK as sitk

    if mask is None:
        return torch.ones(1, 1, *reversed(grid.size))
    reference = grid.empty_image(sitk.sitkUInt8)
    transform = transform or sitk.Transform()
    if touched:
        share = sitk.Cast(mask != 0, sitk.sitkFloat32)
        moved = sitk.Resample(share, reference, transform, sitk.sitkLinear, 0.0) > 0
    else:
        moved = sitk.Resample(mask != 0, reference, transform, sitk.sitkNearestNeighbor, 0)
    return torch.from_numpy(sitk.GetArrayFromImage(moved)).float()[None, None]


def widened(mask: Tensor, voxels: float) -> Tensor:
    """A mask (1, 1, Z, Y, X) and what lies within `voxels` of it, along each axis."""
    radius = round(voxels)
    for axis in range(3):  # one axis after the other takes a tenth of the time
        window, border = (
            [w if k == axis else v for k in range(3)] for w, v in ((2 * radius + 1, 1), (radius, 0))
        )
        mask = F.max_pool3d(mask, window, stride=1, padding=border)
    return mask


def without(view: sitk.Image, lesion: sitk.Image | None) -> sitk.Image:
    """A view whose lesion has its darkest value, so that it does not widen the range of greys."""
    import SimpleITK as sitk

    if lesion is None:
        return view
    like = sitk.Resample(
        lesion != 0, view, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8
    )
    return sitk.Mask(view, like == 0, float(sitk.GetArrayViewFromImage(view).min()))
