"""Lungs in chest CT, in Hounsfield units: two breaths, or baseline and follow-up, of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.anatomy.intensity import (
    CT_WINDOW,
    Intensities,
    content_box,
    grown_box,
    resample_mask,
    widened,
)
from hsyn_cli.anatomy.organs import Chains, Images, Look, Masks, Organ
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.space import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

CHEST = "chest CT"
CHEST_MM = 60.0  # around the lungs, chest that the affine step aligns
NEAR_MM = 24.0  # around the lungs, tissue that is registered with them
SCAN_EDGE_MM = 4.0  # beside voxels that were not scanned, images show false edges
BESIDE_MM = 6.0  # around lungs with given masks, the images still count


class Lung(Organ):
    """An image with lungs shows a chest. The user's masks are masks of its lungs."""

    checkpoint = "lung-ct"
    kinds = (CHEST,)
    outside = -1024.0
    near_mm = NEAR_MM
    ct = True
    maps_from_labels = True
    breathes = True

    def recognise(self, image: sitk.Image, grey: Intensities) -> Look | None:
        from hsyn_cli.anatomy.lungs import segment

        lungs = segment(image) if grey.hounsfield else None
        return None if lungs is None else Look(CHEST, grey, lungs)

    def check(self, grey: Intensities, name: str) -> None:
        if not grey.hounsfield:
            text = f"{name} is no CT in Hounsfield units: air is not -1000, or water not 0"
            raise InputError(text, "add the rescale intercept, or choose another --model")

    def window(self, image: sitk.Image, percentile: float) -> Intensities:
        return Intensities(*CT_WINDOW, hounsfield=True)

    def regions(self, masks: Masks, looks: tuple[Look, Look]) -> Images | None:
        """The user's masks, else the segmented lungs; None if either image has none."""
        import SimpleITK as sitk

        if masks.count(None) == 1:
            text = "of two chests one has a mask of its lungs"
            raise UsageError(text, "give a mask of the lungs for both images, or for neither")
        given = [None if mask is None else sitk.Cast(mask != 0, sitk.sitkFloat32) for mask in masks]
        moving, fixed = [look.region for look in looks] if None in given else given
        return None if moving is None or fixed is None else (moving, fixed)

    def align_by(self, image: sitk.Image, region: sitk.Image | None) -> sitk.Image:
        """The chest without table and arms: all within CHEST_MM of the box around its lungs."""
        import SimpleITK as sitk

        if region is None:
            return image
        box = grown_box(Grid.of(image), Grid.of(region), content_box(region), CHEST_MM)
        first, last = (np.rint(end).astype(int) for end in box)
        return sitk.RegionOfInterest(image, (last - first + 1).tolist(), first.tolist())

    def maps(self, regions: Images | None, grid: Grid, chains: Chains) -> Tensor | None:
        """The masks of the lungs."""
        if regions is None:
            return None
        pairs = zip(regions, chains, strict=True)
        return torch.cat([resample_soft(mask, grid, chain) for mask, chain in pairs])

    def counts(
        self, views: Images, masks: Masks, grid: Grid, chains: Chains, maps: Tensor | None
    ) -> Tensor | None:
        """Scanned voxels; with the user's masks, only those near the lungs of either image."""
        pairs = zip(views, chains, strict=True)
        counts = torch.cat([_scanned(image, grid, chain) for image, chain in pairs])
        if maps is not None and masks != (None, None):
            either = (maps > 0.5).float().amax(0, keepdim=True)
            counts = counts * widened(either, BESIDE_MM / grid.spacing[0])
        return counts


ORGAN = Lung()


def _scanned(image: sitk.Image, grid: Grid, transform: sitk.Transform | None) -> Tensor:
    """1 at the scanned voxels of a CT, except next to padding."""
    from hsyn_cli.anatomy.lungs import unscanned

    here = resample_mask(unscanned(image) == 0, grid, transform)
    solid = 1 - widened(here, 1)  # single voxels as dark as the padding are noise
    return 1 - widened(solid, 1 + SCAN_EDGE_MM / grid.spacing[0])


def resample_soft(mask: sitk.Image, grid: Grid, transform: sitk.Transform | None) -> Tensor:
    """A mask on a working grid, linearly interpolated -> (1, 1, Z, Y, X) in [0, 1]."""
    import SimpleITK as sitk

    mask = sitk.Cast(mask != 0, sitk.sitkFloat32)
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(mask, reference, transform or sitk.Transform(), sitk.sitkLinear, 0.0)
    return torch.from_numpy(sitk.GetArrayFromImage(moved))[None, None]
