"""The data of the page: 8-bit volumes and a coarse field on one isotropic grid."""

from __future__ import annotations

import base64
import dataclasses
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.anatomy.intensity import content_box, foreground, read_intensities, resample_mask
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.fields.folding import determinant, inner
from hsyn_cli.fields.grids import affine_displacement, sample_mm
from hsyn_cli.fields.images import as_transform
from hsyn_cli.fields.sampling import rotate, sample_affine
from hsyn_cli.method.result import Outcome
from hsyn_cli.space import Grid, affine_parts, field_from_lps, working_grid
from hsyn_cli.space.planes import raised, raised_transform

MAX_VOXELS = 1_000_000  # of the page's grid: 1.6 mm for a brain
MARGIN = 0.03  # around the fixed image's content, as a share of its longest side
BEND_STRIDE = 2  # page voxels per voxel of the field that bends the lines
CODE_TOP = 250  # largest code of a value
CODE_FOLDED = 254  # a voxel that folds
CODE_NOTHING = 255  # a voxel without a value
OCTAVES = 3.0  # the codes cover determinants from 1/8 to 8

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Volumes:
    """The volumes on `grid`, whose axes lie nearest to L, P, S; arrays are (Z, Y, X) uint8.

    Attributes:
        images: "fixed", "moving" (in its own position), "aligned" (moving after the affine; missing
            if that is the identity) and "warped". 0 to 255 cover the window of the image.
        windows: grey values of black and white for the "fixed" and the "moving" image; the latter
            also for "aligned" and "warped".
        determinant: of p -> p + d(p) with the affine: 0 to CODE_TOP for 2^-OCTAVES to 2^OCTAVES,
            or CODE_FOLDED.
        error: |inverse(forward(p)) - p| as CODE_TOP * sqrt(error / error_max); CODE_NOTHING outside
            the fixed image's content and where p leads out of the moving image.
        error_max: largest error, mm.
        error_shown: end of the colour scale, mm.
        bend: (3, Z', Y', X') int8, the displacement without the affine at every BEND_STRIDE-th
            voxel; x, y, z along the grid's axes, in units of `bend_mm`.
        folded: number of the fixed grid's voxels with CODE_FOLDED.
    """

    grid: Grid
    images: Mapping[str, Bytes]
    windows: Mapping[str, tuple[float, float]]
    determinant: Bytes
    error: Bytes
    error_max: float
    error_shown: float
    bend: NDArray[np.int8]
    bend_mm: float
    folded: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data, with arrays as base64 of their gzipped bytes."""
        return {
            "size": self.grid.size,
            "dimension": self.grid.dimension,
            "spacing": self.grid.spacing[0],
            "origin": self.grid.origin,
            "axes": self.grid.direction,
            "windows": self.windows,
            "images": {name: packed(image) for name, image in self.images.items()},
            "determinant": packed(self.determinant),
            "error": packed(self.error),
            "error_max": self.error_max,
            "error_shown": self.error_shown,
            "bend": packed(self.bend),
            "bend_size": self.bend.shape[:0:-1],
            "bend_stride": BEND_STRIDE,
            "bend_mm": self.bend_mm,
            "codes": {
                "top": CODE_TOP,
                "folded": CODE_FOLDED,
                "nothing": CODE_NOTHING,
                "octaves": OCTAVES,
            },
        }


def packed(array: NDArray[Any]) -> str:
    """The bytes in C order, gzipped, as base64."""
    zipped = gzip.compress(np.ascontiguousarray(array).tobytes(), 6, mtime=0)
    return base64.b64encode(zipped).decode("ascii")


def page_volumes(run: Outcome) -> Volumes:
    """Make the volumes from the images and fields of a registration, on any grids."""
    names = ("moving", "fixed", "forward_field", "inverse_field", "warped")
    run = dataclasses.replace(run, **{name: raised(getattr(run, name)) for name in names})
    run = dataclasses.replace(run, affine=raised_transform(run.affine))
    fixed, moving = view_of(run.fixed).image, view_of(run.moving).image
    grid = page_grid(fixed)
    windows = {"fixed": window(fixed), "moving": window(moving)}
    images = {
        "fixed": picture(fixed, grid, windows["fixed"]),
        "moving": picture(moving, grid, windows["moving"]),
        "warped": picture(_warped(run, moving), grid, windows["moving"]),
    }
    if not _does_nothing(run.affine):
        images["aligned"] = picture(moving, grid, windows["moving"], run.affine)
    d, det, folded = _forward(run.forward_field, grid)
    points = affine_displacement(grid, np.eye(3), np.zeros(3), d.device, absolute=True)
    error = _inverse_error(d, points + d, run.inverse_field)
    error[resample_mask(_content(fixed), grid)[0, 0].numpy() == 0] = np.nan
    codes, largest, end = _error_codes(error)
    bend = _bend(points, points + d, run.affine, grid)
    unit = max(float(np.abs(bend).max()), 1e-6) / 127
    steps = np.rint(bend / unit).astype(np.int8)
    return Volumes(grid, images, windows, det, codes, largest, end, steps, unit, folded)


def _warped(run: Outcome, moving: sitk.Image) -> sitk.Image:
    """The warped image, in the grey values of the view `moving`."""
    if moving is run.moving:
        return run.warped
    chain, low = as_transform(run.forward_field), window(moving)[0]
    return sitk.Resample(moving, run.fixed, chain, sitk.sitkLinear, low)


def window(image: sitk.Image) -> tuple[float, float]:
    """The grey values of black and white."""
    grey = read_intensities(image)
    return grey.low, grey.high


def page_grid(fixed: sitk.Image, most: int | None = None) -> Grid:
    """An isotropic grid over the fixed content: as fine as the image if `most` voxels allow."""
    own = Grid.of(fixed)
    first, last = content_box(fixed)
    spacing = np.array(own.spacing)
    margin = MARGIN * float(((last - first) * spacing).max()) / spacing
    box = np.maximum(first - margin, 0), np.minimum(last + margin, np.array(own.size) - 1.0)
    wide = [k for k in range(3) if k != own.normal]
    volume = float(((box[1] - box[0] + 1) * spacing)[wide].prod())
    voxel = max(float(spacing[wide].min()), (volume / (most or MAX_VOXELS)) ** (1 / len(wide)))
    return working_grid(own, box, voxel, 0.0, 1)


def picture(
    image: sitk.Image,
    grid: Grid,
    window: tuple[float, float],
    transform: sitk.Transform | None = None,
) -> Bytes:
    """`image` on `grid`, 0 to 255 over `window`, 0 outside the image; fine voxels are averaged."""
    low, high = window
    sides = zip(image.GetSize(), image.GetSpacing(), strict=True)
    factors = [max(1, min(n, int(grid.spacing[0] / s))) for n, s in sides]
    if max(factors) > 1:
        image = sitk.BinShrink(image, factors)
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(
        image, reference, transform or sitk.Transform(), sitk.sitkLinear, low, sitk.sitkFloat32
    )
    values: NDArray[np.float32] = sitk.GetArrayFromImage(moved)
    scaled = ((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255)
    codes: Bytes = np.rint(scaled).astype(np.uint8)
    return codes


def _forward(field: sitk.Image, grid: Grid) -> tuple[Tensor, Bytes, int]:
    """The field on `grid`, (1, 3, Z, Y, X) in mm LPS, with the codes of its determinant.

    The last item is the number of its voxels that fold inside `grid`.
    """
    part = _cropped(field, grid)
    own = Grid.of(part)
    along = torch.from_numpy(field_from_lps(part))[None]
    det = determinant(along, own.spacing)
    to_index = np.linalg.inv(own.index_to_point)
    matrix = to_index @ grid.index_to_point
    offset = to_index @ (np.array(grid.origin) - np.array(own.origin))
    both = sample_affine(
        torch.cat((along, det[None]), 1),
        torch.from_numpy(matrix),
        torch.from_numpy(offset),
        grid.size,
    )
    octaves = both[0, 3].clamp(2**-OCTAVES, 2**OCTAVES).log2()
    codes = ((octaves / OCTAVES + 1) * (CODE_TOP / 2)).round().to(torch.uint8).numpy()
    part = inner(det.shape[1:])  # without the outermost layer, as in the report
    first = [side.start or 0 for side in part]
    index = (np.argwhere(det[0][part].numpy() <= 0) + first)[:, ::-1].astype(np.float64)
    at = np.rint(grid.indices(own.points(index))).astype(int)
    x, y, z = at[((at >= 0) & (at < np.array(grid.size))).all(1)].T
    codes[z, y, x] = CODE_FOLDED
    return rotate(own.axes, both[:, :3]), codes, len(x)


def _does_nothing(affine: sitk.AffineTransform) -> bool:
    a, t = affine_parts(affine)
    return np.allclose(a, np.eye(3)) and np.allclose(t, 0)


def _bend(
    points: Tensor, moved: Tensor, affine: sitk.AffineTransform, grid: Grid
) -> NDArray[np.float32]:
    """A^-1(moved) - points at every BEND_STRIDE-th voxel, (3, Z', Y', X').

    In mm along the axes of `grid`.
    """
    a, t = affine_parts(affine)
    every = (slice(None), slice(None)) + (slice(None, None, BEND_STRIDE),) * 3
    back, straight = (grid.axes.T @ m for m in (np.linalg.inv(a), np.eye(3)))
    shifted = moved[every] - torch.from_numpy(t).float()[:, None, None, None]
    bend: NDArray[np.float32] = (rotate(back, shifted) - rotate(straight, points[every]))[0].numpy()
    return bend


def _cropped(field: sitk.Image, grid: Grid) -> sitk.Image:
    """The part of `field` around `grid`, with a margin of a voxel if `field` has one."""
    own = Grid.of(field)
    corners = np.array(
        [[(n - 1.0) * ((c >> k) & 1) for k, n in enumerate(grid.size)] for c in range(8)]
    )
    index = own.indices(grid.points(corners))
    low = np.maximum(np.floor(index.min(0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(index.max(0)) + 2, own.size).astype(int)
    return sitk.RegionOfInterest(field, (high - low).tolist(), low.tolist())


def _inverse_error(d: Tensor, moved: Tensor, inverse: sitk.Image) -> NDArray[np.float32]:
    """|inverse(p + d(p)) + d(p)| in mm, (Z, Y, X).

    NaN where p + d(p) = `moved` lies outside the inverse's grid.
    """
    grid = Grid.of(inverse)
    values = sitk.GetArrayFromImage(inverse).astype(np.float32, copy=False)
    back = torch.from_numpy(values).movedim(-1, 0)[None]
    error: NDArray[np.float32] = (sample_mm(back, grid, moved) + d).norm(dim=1)[0].numpy()
    index = grid.indices(moved[0].movedim(0, -1).numpy())
    room = np.where(np.array(grid.size) > 1, 0.0, 0.5)  # the points of a slice are a little off it
    outside = (index < -room) | (index > np.array(grid.size) - 1 + room)
    error[outside.any(-1)] = np.nan
    return error


def _content(image: sitk.Image) -> sitk.Image:
    """The foreground of an image as 1."""
    return Grid.of(image).stamp(sitk.GetImageFromArray(foreground(image).astype(np.uint8)))


def _error_codes(error: NDArray[np.float32]) -> tuple[Bytes, float, float]:
    """Codes, the largest error in mm, and a round number in mm above 99.5 % of the errors."""
    known = error[np.isfinite(error)]
    largest = max(float(known.max()), 1e-6) if known.size else 1e-6
    codes = np.full(error.shape, CODE_NOTHING, np.uint8)
    codes[np.isfinite(error)] = np.rint(CODE_TOP * np.sqrt(known / largest))
    most = max(float(np.percentile(known, 99.5)) if known.size else 0.0, 1e-6)
    power = 10.0 ** np.floor(np.log10(most))
    return codes, largest, float(power * next(k for k in (1, 2, 5, 10) if k * power >= most))
