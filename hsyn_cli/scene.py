"""What is registered: both images on one working grid, as the networks and forces see them, and where they count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli import lungs
from hsyn_cli.errors import GeometryError
from hsyn_cli.organs import Organ
from hsyn_cli.prepare import content_box, flattened, foreground, mask_on_grid, on_grid, pair_box, windowed
from hsyn_cli.space import Array, Grid, working_grid

NEAR_MM = 24.0  # so much around the lungs is registered with them
NO_AIR = 0.05  # -940 HU
EDGE_MM = 4.0  # next to what was not scanned, images show edges that are none
AROUND_MM = 6.0  # around lungs whose masks are given, the images count as well


@dataclass(frozen=True)
class Scene:
    """Tensors on the working `grid`, moving first: `pair` (2, 1, Z, Y, X) in [0, 1]; `maps` (2, C, ...) of what they show, C may
    be 0; `counts` (2, 1, ...), 0 where an image does not count, or None."""

    grid: Grid
    pair: Tensor
    maps: Tensor
    counts: Tensor | None


class Subjects:
    """A moving and a fixed image, to be put on a grid.

    Attributes:
        images: moving, fixed, in the organ's window.
        lungs: of both, where the organ has some: the mask given, or what was found; None where either has none.
    """

    def __init__(
        self,
        images: tuple[sitk.Image, sitk.Image],
        masks: tuple[sitk.Image | None, sitk.Image | None],
        found: tuple[sitk.Image | None, sitk.Image | None],
        organ: Organ,
    ) -> None:
        self.originals, self.masks, self.organ = images, masks, organ
        self.images = (windowed(images[0], organ.window), windowed(images[1], organ.window))
        moving, fixed = (
            f if m is None else sitk.Cast(m != 0, sitk.sitkFloat32) for m, f in zip(masks, found, strict=True)
        )
        known = organ.window is not None and moving is not None and fixed is not None
        self.lungs = (moving, fixed) if known else None

    @property
    def to_align(self) -> tuple[sitk.Image, sitk.Image]:
        """What the affine step is to look at: images without bias field, or chests cut to the lungs and what is near them."""
        if self.organ.window is None:
            moving, fixed = (flattened(v) for v in self.images)
        elif self.lungs is None:
            moving, fixed = self.images
        else:
            moving, fixed = (near_lungs(v, lung) for v, lung in zip(self.images, self.lungs, strict=True))
        return moving, fixed

    def grid(self, transform: sitk.AffineTransform, spacing: float, margin: float, multiple: int) -> Grid:
        """Around all that both show, of chests around the lungs and what is near them; see `working_grid`."""
        moving, fixed = self.images if self.lungs is None else self.lungs
        box, whole = pair_box(fixed, moving, transform), Grid.of(self.images[1])
        if self.lungs is not None:
            box = _around(whole, Grid.of(fixed), box)
        return working_grid(whole, box, spacing, margin, multiple)

    def finer_than(self, mm: float) -> bool:
        """Whether the voxels of both are, but for a sixth, as small as cubes of `mm`."""
        return all(float(np.prod(v.GetSpacing())) ** (1 / 3) < 7 / 6 * mm for v in self.images)

    def foregrounds(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(Z, Y, X) of each, moving first: brighter than its darkest value, or than air."""
        if self.organ.window is None:
            moving, fixed = (foreground(v) for v in self.images)
        else:
            moving, fixed = (np.asarray(sitk.GetArrayViewFromImage(v) > NO_AIR) for v in self.images)
        return moving, fixed

    def on(self, grid: Grid, transform: sitk.AffineTransform, device: torch.device) -> Scene:
        """Both on `grid`, the moving one through `transform` (fixed point -> moving point). Raises GeometryError."""
        chains = (transform, None)
        pair = torch.cat([on_grid(v, grid, t) for v, t in zip(self.images, chains, strict=True)])
        if not pair[0].any():
            raise GeometryError(
                "after the alignment nothing of the moving image lies on the fixed one",
                "check the headers, the masks and the --initial-transform",
            )
        maps, counts = pair[:, :0], None
        if self.organ.window is not None:
            counts = torch.cat([_scanned(v, grid, t) for v, t in zip(self.originals, chains, strict=True)])
            if self.lungs is not None:
                maps = torch.cat([_soft(v, grid, t) for v, t in zip(self.lungs, chains, strict=True)])
                if any(mask is not None for mask in self.masks):
                    counts = counts * _widened(
                        (maps > 0.5).float().amax(0, keepdim=True), AROUND_MM / grid.spacing[0]
                    )
        elif any(mask is not None for mask in self.masks):
            counts = torch.cat([mask_on_grid(v, grid, t) for v, t in zip(self.masks, chains, strict=True)])
        return Scene(grid, pair.to(device), maps.to(device), None if counts is None else counts.to(device))


def _around(whole: Grid, of_lungs: Grid, box: tuple[Array, Array]) -> tuple[Array, Array]:
    """First and last index of `whole` within NEAR_MM of a box that is told in indices of another grid."""
    first, last = (whole.indices(of_lungs.points(end)) for end in box)
    widths, end = NEAR_MM / np.array(whole.spacing), np.array(whole.size) - 1.0
    return (first - widths).clip(0, end), (last + widths).clip(0, end)


def near_lungs(image: sitk.Image, lung: sitk.Image) -> sitk.Image:
    """The part of `image` within NEAR_MM of the box around a mask, which may be on another grid of the same direction."""
    first, last = (np.rint(v).astype(int) for v in _around(Grid.of(image), Grid.of(lung), content_box(lung)))
    return sitk.RegionOfInterest(image, (last - first + 1).tolist(), first.tolist())


def _scanned(image: sitk.Image, grid: Grid, transform: sitk.Transform | None) -> Tensor:
    """1 where a CT was scanned, not padded, and not next to where it was not."""
    here = mask_on_grid(lungs.unscanned(image) == 0, grid, transform)
    solid = 1 - _widened(here, 1)  # single voxels as dark as the padding are noise
    return 1 - _widened(solid, 1 + EDGE_MM / grid.spacing[0])


def _soft(mask: sitk.Image, grid: Grid, transform: sitk.Transform | None) -> Tensor:
    """(1, 1, Z, Y, X) in [0, 1]."""
    mask = sitk.Cast(mask != 0, sitk.sitkFloat32)
    moved = sitk.Resample(
        mask, grid.empty_image(sitk.sitkUInt8), transform or sitk.Transform(), sitk.sitkLinear, 0.0
    )
    return torch.from_numpy(sitk.GetArrayFromImage(moved))[None, None]


def _widened(mask: Tensor, voxels: float) -> Tensor:
    radius = round(voxels)
    return F.max_pool3d(mask, 2 * radius + 1, stride=1, padding=radius)
