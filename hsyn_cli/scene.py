"""What is registered: both images on one working grid, as the networks and forces see them, and where they count."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli import lungs
from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.organs import Organ, evenly_lit
from hsyn_cli.prepare import content_box, mask_on_grid, on_grid, pair_box
from hsyn_cli.space import Array, Grid, working_grid

CHEST_MM = 60.0  # around the lungs there is chest, by which the affine step goes
NEAR_MM = 24.0  # so much around the lungs is registered with them
EDGE_MM = 4.0  # next to what was not scanned, images show edges that are none
BESIDE_MM = 6.0  # around lungs whose masks are given, the images count as well


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
        images: both, skull-stripped brains without their bias fields.
        lungs: of both, where the organ is one: the masks given, or what was found; None where either has none.

    Raises:
        InputError: a chest is not in Hounsfield units. UsageError: only one chest has a mask.
    """

    def __init__(
        self,
        images: tuple[sitk.Image, sitk.Image],
        masks: tuple[sitk.Image | None, sitk.Image | None],
        found: tuple[sitk.Image | None, sitk.Image | None],
        organ: Organ,
    ) -> None:
        self.images, self.masks, self.organ, self.lungs = images, masks, organ, None
        if not organ.hounsfield:
            self.images = (evenly_lit(images[0]), evenly_lit(images[1]))
        else:
            for role, image in zip(("moving", "fixed"), images, strict=True):
                if not lungs.in_hounsfield(image):
                    text = f"the {role} image is no CT in Hounsfield units: its darkest value is above -500"
                    raise InputError(text, "add the rescale intercept, or choose another --model")
            if masks.count(None) == 1:
                raise UsageError(
                    "of two chests one has a mask of its lungs", "give masks of both, or of neither"
                )
            moving, fixed = found if None in masks else (sitk.Cast(m != 0, sitk.sitkFloat32) for m in masks)
            if moving is not None and fixed is not None:
                self.lungs = (moving, fixed)

    @property
    def to_align(self) -> tuple[sitk.Image, sitk.Image]:
        """What the affine step is to look at: chests without table and arms."""
        if self.lungs is None:
            return self.images
        moving, fixed = (near_lungs(v, lung) for v, lung in zip(self.images, self.lungs, strict=True))
        return moving, fixed

    def grid(self, transform: sitk.AffineTransform, spacing: float, margin: float, multiple: int) -> Grid:
        """Around all that both show, of chests around the lungs and what is near them; see `working_grid`."""
        moving, fixed = self.images if self.lungs is None else self.lungs
        whole = Grid.of(self.images[1])
        box = pair_box(fixed, moving, transform, whole)
        if self.lungs is not None:
            box = _around(whole, whole, box, NEAR_MM)
        return working_grid(whole, box, spacing, margin, multiple)

    def finer_than(self, mm: float) -> bool:
        """Whether voxels of `mm` are worth it: those of both are, but for a sixth, as small, and no slice twice as thick."""
        spacings = [np.array(v.GetSpacing()) for v in self.images]
        return all(s.prod() ** (1 / 3) < 7 / 6 * mm and s.max() <= 2 * mm for s in spacings)

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
        if self.organ.hounsfield:
            counts = torch.cat([_scanned(v, grid, t) for v, t in zip(self.images, chains, strict=True)])
            if self.lungs is not None:
                maps = torch.cat([_soft(v, grid, t) for v, t in zip(self.lungs, chains, strict=True)])
                if any(mask is not None for mask in self.masks):
                    counts = counts * _widened(
                        (maps > 0.5).float().amax(0, keepdim=True), BESIDE_MM / grid.spacing[0]
                    )
        elif any(mask is not None for mask in self.masks):
            counts = torch.cat([mask_on_grid(v, grid, t) for v, t in zip(self.masks, chains, strict=True)])
        return Scene(grid, pair.to(device), maps.to(device), None if counts is None else counts.to(device))


def _around(whole: Grid, of_lungs: Grid, box: tuple[Array, Array], mm: float) -> tuple[Array, Array]:
    """First and last index of `whole` within `mm` of a box that is told in indices of another grid."""
    corners = np.array(list(itertools.product(*zip(*box, strict=True))))
    there = whole.indices(of_lungs.points(corners))
    widths, end = mm / np.array(whole.spacing), np.array(whole.size) - 1.0
    return (there.min(0) - widths).clip(0, end), (there.max(0) + widths).clip(0, end)


def near_lungs(image: sitk.Image, lung: sitk.Image) -> sitk.Image:
    """The part of `image` within CHEST_MM of the box around a mask."""
    first, last = (
        np.rint(v).astype(int) for v in _around(Grid.of(image), Grid.of(lung), content_box(lung), CHEST_MM)
    )
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
    for axis in range(3):  # one after the other takes a tenth of the time
        window, border = (
            [w if k == axis else v for k in range(3)] for w, v in ((2 * radius + 1, 1), (radius, 0))
        )
        mask = F.max_pool3d(mask, window, stride=1, padding=border)
    return mask
