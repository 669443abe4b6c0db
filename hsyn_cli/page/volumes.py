"""What the page shows, as numbers: 8-bit volumes and a coarse field on one isotropic grid of about a million voxels."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.fields import determinant, sample_affine
from hsyn_cli.prepare import content_box, foreground, intensity_range, mask_on_grid
from hsyn_cli.space import Grid, affine_parts, field_from_lps, working_grid
from hsyn_cli.totals import affine_displacement, sampled_at

MAX_VOXELS = 1_000_000  # of the page's grid: 1.6 mm for a brain
MARGIN = 0.03  # around the fixed image's content, share of its longest side
BEND_STRIDE = 2  # page voxels per voxel of the field that bends the lines
TOP, FOLDED, NOTHING = 250, 254, 255  # largest code of a value; a voxel that folds; a voxel without a value
OCTAVES = 3.0  # determinants are told from 1/8 to 8

Bytes = NDArray[np.uint8]


class Registered(Protocol):
    """A finished registration; see `pipeline.Registration`, which is one."""

    @property
    def moving(self) -> sitk.Image: ...
    @property
    def fixed(self) -> sitk.Image: ...
    @property
    def warped(self) -> sitk.Image: ...
    @property
    def affine(self) -> sitk.AffineTransform: ...
    @property
    def forward_field(self) -> sitk.Image: ...
    @property
    def inverse_field(self) -> sitk.Image: ...


@dataclass(frozen=True)
class Volumes:
    """Everything on `grid`, whose axes lie nearest to L, P, S; arrays (Z, Y, X) of uint8.

    Attributes:
        images: "fixed", "moving" (as the files lie), "aligned" (moving after the affine; not there where that does
            nothing) and "warped": 0 to 255 over the window of `windows`, the fixed image's or the moving one's.
        determinant: of p -> p + d(p), affine included: 0 to TOP for 2^-OCTAVES to 2^OCTAVES, or FOLDED.
        error: |inverse(forward(p)) - p|: TOP * sqrt(error / error_max), or NOTHING outside the fixed image's content
            and where p leads out of the moving image.
        error_shown: where the colour scale should end, mm.
        bend: (3, Z', Y', X') int8, x, y, z along the grid's axes, in units of `bend_mm`: the displacement without
            the affine, at every BEND_STRIDE-th voxel.
        folded: how many of the fixed grid's voxels are marked FOLDED.
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
        """JSON-ready; arrays as base64 of their gzipped bytes."""
        return {
            "size": self.grid.size,
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
            "codes": {"top": TOP, "folded": FOLDED, "nothing": NOTHING, "octaves": OCTAVES},
        }


def packed(array: NDArray[Any]) -> str:
    """Bytes in C order, gzipped, as base64."""
    zipped = gzip.compress(np.ascontiguousarray(array).tobytes(), 6, mtime=0)
    return base64.b64encode(zipped).decode("ascii")


def prepare(run: Registered) -> Volumes:
    """The volumes of a page from a registration's images and fields, whatever their grids."""
    grid = page_grid(run.fixed)
    windows = {"fixed": intensity_range(run.fixed), "moving": intensity_range(run.moving)}
    images = {
        "fixed": picture(run.fixed, grid, windows["fixed"]),
        "moving": picture(run.moving, grid, windows["moving"]),
        "warped": picture(run.warped, grid, windows["moving"]),
    }
    if not _does_nothing(run.affine):
        images["aligned"] = picture(run.moving, grid, windows["moving"], run.affine)
    d, det, folded = _forward(run.forward_field, grid)
    points = affine_displacement(grid, np.eye(3), np.zeros(3), d.device, absolute=True)
    error = _inverse_error(d, points + d, run.inverse_field)
    error[mask_on_grid(_content(run.fixed), grid)[0, 0].numpy() == 0] = np.nan
    codes, largest, shown = _error_codes(error)
    bend = _bend(points, points + d, run.affine, grid)
    unit = max(float(np.abs(bend).max()), 1e-6) / 127
    steps = np.rint(bend / unit).astype(np.int8)
    return Volumes(grid, images, windows, det, codes, largest, shown, steps, unit, folded)


def page_grid(fixed: sitk.Image) -> Grid:
    """Isotropic, over the fixed image's content; as fine as the image, or coarser until MAX_VOXELS suffice."""
    own = Grid.of(fixed)
    first, last = content_box(fixed)
    spacing = np.array(own.spacing)
    margin = MARGIN * float(((last - first) * spacing).max()) / spacing
    box = np.maximum(first - margin, 0), np.minimum(last + margin, np.array(own.size) - 1.0)
    volume = ((box[1] - box[0] + 1) * spacing).prod()
    return working_grid(own, box, max(float(spacing.min()), float(np.cbrt(volume / MAX_VOXELS))), 0.0, 1)


def picture(
    image: sitk.Image, grid: Grid, window: tuple[float, float], transform: sitk.Transform | None = None
) -> Bytes:
    """`image` on `grid`, 0 to 255 over `window`, 0 outside the image. Fine voxels are averaged, not skipped."""
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
    codes: Bytes = np.rint(((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255)).astype(np.uint8)
    return codes


def _forward(field: sitk.Image, grid: Grid) -> tuple[Tensor, Bytes, int]:
    """The field on `grid` (1, 3, Z, Y, X; mm LPS), the codes of its determinant, and how many voxels of it fold there."""
    part = _cropped(field, grid)
    own = Grid.of(part)
    along = torch.from_numpy(field_from_lps(part))[None]
    det = determinant(along, own.spacing)
    to_index = np.linalg.inv(own.index_to_point)
    matrix = to_index @ grid.index_to_point
    offset = to_index @ (np.array(grid.origin) - np.array(own.origin))
    both = sample_affine(
        torch.cat((along, det[None]), 1), torch.from_numpy(matrix), torch.from_numpy(offset), grid.size
    )
    octaves = both[0, 3].clamp(2**-OCTAVES, 2**OCTAVES).log2()
    codes = ((octaves / OCTAVES + 1) * (TOP / 2)).round().to(torch.uint8).numpy()
    inside = det[0, 1:-1, 1:-1, 1:-1].numpy()  # as the report counts: not in the outermost layer
    index = (np.argwhere(inside <= 0)[:, ::-1] + 1).astype(np.float64)
    at = np.rint(grid.indices(own.points(index))).astype(int)
    x, y, z = at[((at >= 0) & (at < np.array(grid.size))).all(1)].T
    codes[z, y, x] = FOLDED
    return _turned(torch.from_numpy(own.axes).float(), both[:, :3]), codes, len(x)


def _does_nothing(affine: sitk.AffineTransform) -> bool:
    a, t = affine_parts(affine)
    return np.allclose(a, np.eye(3)) and np.allclose(t, 0)


def _bend(points: Tensor, moved: Tensor, affine: sitk.AffineTransform, grid: Grid) -> NDArray[np.float32]:
    """A^-1(moved) - points in mm along the axes of `grid`, at every BEND_STRIDE-th voxel, (3, Z', Y', X')."""
    a, t = affine_parts(affine)
    every = (slice(None), slice(None)) + (slice(None, None, BEND_STRIDE),) * 3
    back, straight = (torch.from_numpy(grid.axes.T @ m).float() for m in (np.linalg.inv(a), np.eye(3)))
    shifted = moved[every] - torch.from_numpy(t).float()[:, None, None, None]
    bend: NDArray[np.float32] = (_turned(back, shifted) - _turned(straight, points[every]))[0].numpy()
    return bend


def _cropped(field: sitk.Image, grid: Grid) -> sitk.Image:
    """The part of `field` that holds all of `grid`, and a voxel more on each side where there is one."""
    own = Grid.of(field)
    corners = np.array([[(n - 1.0) * ((c >> k) & 1) for k, n in enumerate(grid.size)] for c in range(8)])
    index = own.indices(grid.points(corners))
    low = np.maximum(np.floor(index.min(0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(index.max(0)) + 2, own.size).astype(int)
    return sitk.RegionOfInterest(field, (high - low).tolist(), low.tolist())


def _inverse_error(d: Tensor, moved: Tensor, inverse: sitk.Image) -> NDArray[np.float32]:
    """|inverse(p + d(p)) + d(p)| in mm, (Z, Y, X); NaN where p + d(p) = `moved` lies outside the inverse's grid."""
    grid = Grid.of(inverse)
    back = torch.from_numpy(sitk.GetArrayFromImage(inverse).astype(np.float32, copy=False)).movedim(-1, 0)[
        None
    ]
    error: NDArray[np.float32] = (sampled_at(back, grid, moved) + d).norm(dim=1)[0].numpy()
    index = grid.indices(moved[0].movedim(0, -1).numpy())
    error[((index < 0) | (index > np.array(grid.size) - 1)).any(-1)] = np.nan
    return error


def _content(image: sitk.Image) -> sitk.Image:
    """1 where `foreground` is true."""
    return Grid.of(image).stamp(sitk.GetImageFromArray(foreground(image).astype(np.uint8)))


def _error_codes(error: NDArray[np.float32]) -> tuple[Bytes, float, float]:
    """Codes, largest error, and a round number that 99.5 % of the errors do not exceed; all in mm."""
    known = error[np.isfinite(error)]
    largest = max(float(known.max()), 1e-6) if known.size else 1e-6
    codes = np.full(error.shape, NOTHING, np.uint8)
    codes[np.isfinite(error)] = np.rint(TOP * np.sqrt(known / largest))
    most = max(float(np.percentile(known, 99.5)) if known.size else 0.0, 1e-6)
    power = 10.0 ** np.floor(np.log10(most))
    return codes, largest, float(power * next(k for k in (1, 2, 5, 10) if k * power >= most))


def _turned(matrix: Tensor, vectors: Tensor) -> Tensor:
    """matrix (3, 3) @ each vector of (1, 3, Z, Y, X)."""
    return torch.einsum("ij,bjzyx->bizyx", matrix, vectors)
