"""Both images on one working grid, in the form that the networks and the forces work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.anatomy.air import without_air
from hsyn_cli.anatomy.borders import CUT, cut_faces, trimmed
from hsyn_cli.anatomy.intensity import (
    Intensities,
    content_ends,
    grown_box,
    pair_box,
    resample_image,
    resample_mask,
    widened,
    without,
)
from hsyn_cli.anatomy.lesions import beside, product
from hsyn_cli.anatomy.organs import Chains, Images, Look, Masks, Organ
from hsyn_cli.anatomy.tensors import FADING, Part, Scene, part_around
from hsyn_cli.anatomy.thick import blur_along, slice_vector, thinned
from hsyn_cli.errors import GeometryError
from hsyn_cli.space import Array, Grid, working_grid

ROLES = ("moving", "fixed")
ROOM = 16  # working voxels beyond a face that cuts the fixed image
FINE_MM = 12.0  # beyond the middles of heads; brains end within
WIDE_MM = 230.0  # from left to right; heads are narrower, bodies wider
LESION_EDGE = 2  # working voxels beside a lesion that do not count where nothing stands in
OTHERS_EDGE = 4  # working voxels inside the border of a cut channel, where the first one tells
BYTE = sitk.sitkUInt8
Greys = tuple[Intensities, Intensities]


@dataclass(frozen=True)
class Subjects:
    """A moving and a fixed image, ready to be put on a grid.

    Attributes:
        views: both images, prepared for the `organ`: brains and heads without bias field.
        grey: the intensities of the views.
        masks: the user's masks.
        regions: the parts to register, if the organ limits them.
        lesions: where an image shows what the other one cannot have.
        others: views and intensities of further channels of both images.
        slices: the vectors across the thick slices of both images, which the views have not.
        alike: whether both images have one contrast in each channel.
        doubt: see `method.where.Where`; images that were given one contrast bring noise with it.
        even: whether both are sampled so that noise and blur do not depend on the place of voxels.
        middles: of both images, if both have one; see `Organ.middle`.
    """

    views: Images
    grey: Greys
    masks: Masks
    regions: Images | None
    organ: Organ
    lesions: Masks = (None, None)
    others: tuple[tuple[Images, Greys], ...] = ()
    slices: tuple[Array, Array] = (np.zeros(3), np.zeros(3))
    alike: bool = False
    doubt: float = 0.0
    even: bool = False
    middles: Images | None = None

    @cached_property
    def channels(self) -> tuple[Subjects, ...]:
        """Each channel as a pair of its own."""
        others = (replace(self, views=v, grey=grey, others=()) for v, grey in self.others)
        return (replace(self, others=()), *others)

    @property
    def counted(self) -> Masks:
        """Where each image counts for the affine step: inside its mask, beside its lesion."""
        sides = zip(self.masks, self.lesions, strict=True)
        moving, fixed = (
            mask if lesion is None else sitk.And(_all(mask, lesion), sitk.Cast(lesion == 0, BYTE))
            for mask, lesion in sides
        )
        return moving, fixed

    @property
    def align_by(self) -> Images:
        """The images that the affine step aligns."""
        moving, fixed = self.regions or (None, None)
        return self.organ.align_by(self.views[0], moving), self.organ.align_by(self.views[1], fixed)

    @property
    def contents(self) -> list[tuple[Array, float]]:
        """(N, 3) points around both regions or contents, mm LPS, and the width of their voxels."""
        shown = self.regions or self.views
        grey = (None, None) if self.regions else self.grey
        return [
            (Grid.of(image).points(content_ends(image, its)), max(image.GetSpacing()))
            for image, its in zip(shown, grey, strict=True)
        ]

    def grid(
        self,
        transform: sitk.AffineTransform,
        spacing: float,
        margin: float,
        multiple: int,
        room: int = ROOM,
    ) -> Grid:
        """The working grid around both regions and what is near them, or around both contents.

        Beyond faces that cut the fixed image, it goes on for up to `room` voxels of `spacing`.
        """
        whole = Grid.of(self.views[1])
        moving, fixed = self.regions or self.views
        grey = (None, None) if self.regions else self.grey
        box = pair_box(fixed, moving, transform, whole, grey, self._room(room * spacing))
        if self.regions is not None:
            box = grown_box(whole, whole, box, self.organ.near_mm)
        return working_grid(whole, box, spacing, margin, multiple)

    def middle_on(self, grid: Grid, transform: sitk.AffineTransform) -> Tensor | None:
        """(1, 1, Z, Y, X): 1 in both `middles`, that of the moving image through `transform`."""
        if self.middles is None:
            return None
        moving, fixed = self.middles
        return resample_mask(moving, grid, transform) * resample_mask(fixed, grid)

    def finer_than(self, mm: float) -> bool:
        """Whether the images have enough detail for working voxels of `mm`.

        Their voxels must be about as small (a sixth more is fine), and no slice more than twice as
        thick.
        """
        grids = [Grid.of(view) for view in self.views]
        thickest = [
            max(s for k, s in enumerate(grid.spacing) if k != grid.normal) for grid in grids
        ]
        sides = zip(grids, thickest, strict=True)
        return all(grid.voxel < 7 / 6 * mm and most <= 2 * mm for grid, most in sides)

    @cached_property
    def cuts(self) -> NDArray[np.bool_]:
        """(2, 3, 2): whether the first and the last face across each axis cut what an image shows.

        Regions lie inside.
        """
        if self.regions is not None:
            return np.zeros((2, 3, 2), bool)
        sides = zip(self.views, self.grey, strict=True)
        return np.array([cut_faces(view, grey) for view, grey in sides]) > CUT

    @property
    def cut(self) -> tuple[bool, bool]:
        """Whether the border cuts what an image shows, moving first."""
        moving, fixed = self.cuts
        return bool(moving.any()), bool(fixed.any())

    def _room(self, mm: float) -> Array:
        """(2, 3), in voxels: how far the working grid may go on beyond the fixed image's faces.

        Where a face cuts the fixed image and the moving one goes on, the fields are as large as
        anywhere. Without room to fall to zero they would nearly fold.
        """
        wide: Array = self.cuts[1].T * mm / np.array(self.views[1].GetSpacing())
        return wide

    def _seen(self, grid: Grid, chains: Chains) -> tuple[Tensor, Tensor | None]:
        """The first channel of both images on `grid`, and `_scanned`. Raises GeometryError."""
        sides = zip(self.views, chains, self.grey, self.cut, strict=True)
        pair = torch.cat(
            [resample_image(v, grid, way, grey, cut, self.even) for v, way, grey, cut in sides]
        )
        scanned = self._scanned(grid, chains)
        shown = pair if scanned is None else pair * scanned
        if not (shown[0].any() and shown[1].any()):
            raise GeometryError(
                "after the alignment, no part of the moving image lies on the fixed image",
                "check the headers, the masks and the --initial-transform; all channels of an "
                "image must be aligned",
            )
        return pair, scanned

    def _scanned(self, grid: Grid, chains: Chains) -> Tensor | None:
        """0 beyond the border of a cut image, where it must not pull; None: no image is cut."""
        if not any(self.cut):
            return None
        rows = []
        for view, chain, cut in zip(self.views, chains, self.cut, strict=True):
            everywhere = sitk.Cast(view == view, BYTE) if cut else None
            rows.append(resample_mask(everywhere, grid, chain))
        return torch.cat(rows)

    def on(self, grid: Grid, transform: sitk.AffineTransform, device: torch.device) -> Scene:
        """Both images on `grid`, the moving one through `transform` (fixed -> moving point).

        Raises GeometryError if no part of the moving image lies there.
        """
        chains: Chains = (transform, None)
        seen, scans = zip(*(channel._seen(grid, chains) for channel in self.channels), strict=True)
        pair, others, scanned = seen[0], torch.cat((seen[0][:, :0], *seen[1:]), dim=1), scans[0]
        maps = self.organ.maps(self.regions, grid, chains)
        counts = self.organ.counts(self.views, self.masks, grid, chains, maps)
        edge = 0 if self.alike else LESION_EDGE
        shows = product(scanned, beside(self.lesions, grid, chains, edge))
        counts = product(counts, shows)
        maps = pair[:, :0] if maps is None else maps
        if any(scan is not None for scan in scans[1:]):  # a column for each channel
            one = torch.ones_like(pair)
            rows = [
                one if scan is None else 1 - widened(1 - scan, OTHERS_EDGE) for scan in scans[1:]
            ]
            counts = torch.cat((one if counts is None else counts, *rows), dim=1)
        counts = None if counts is None else counts.to(device)
        shows = None if shows is None else shows.to(device)
        pair, maps, others = (v.to(device) for v in (pair, maps, others))
        blur = blur_along(grid, self.slices, transform)
        fine = self._fine(grid, transform)
        return Scene(grid, pair, maps, counts, others, shows, self.alike, blur, self.doubt, fine)

    def _fine(self, grid: Grid, transform: sitk.AffineTransform) -> Part | None:
        """Of two heads, the part of `grid` around their brains; None if masks say what counts."""
        middle = self.middle_on(grid, transform)
        wide = float(np.abs(grid.axes[0]) @ (np.array(grid.size) * grid.spacing))
        if middle is None or self.masks != (None, None) or wide > WIDE_MM:
            return None
        return part_around(middle[0, 0], round(FINE_MM / grid.spacing[0]) + FADING)


def _all(mask: sitk.Image | None, like: sitk.Image) -> sitk.Image:
    """`mask` as ones; without a mask, ones everywhere."""
    return sitk.Cast(mask != 0, BYTE) if mask is not None else sitk.Cast(like == like, BYTE)


def prepare_subjects(
    images: Images,
    masks: Masks,
    looks: tuple[Look, Look],
    organ: Organ,
    percentile: float,
    lesions: Masks = (None, None),
    others: Sequence[Images] = (),
    mm: float = 1.0,
) -> Subjects:
    """Prepare two images for their organ.

    Args:
        images, masks, looks: moving and fixed.
        percentile: of the grey values, see `read_intensities`.
        others: further channels of both images.
        mm: the working voxel.

    Raises:
        InputError: an image cannot show the organ. UsageError: the masks do not go together.
    """
    for role, look in zip(ROLES, looks, strict=True):
        organ.check(look.grey, f"the {role} image")

    regions = organ.regions(masks, looks)

    def prepared(both: Images) -> Images:
        moving, fixed = map(organ.prepare, both, looks, lesions)
        if regions is not None:
            return moving, fixed
        return without_air(trimmed(moving)), without_air(trimmed(fixed))

    given = prepared(images)
    views = (thinned(given[0], mm), thinned(given[1], mm))
    slices = (slice_vector(Grid.of(given[0]), mm), slice_vector(Grid.of(given[1]), mm))
    further = [(thinned(moving, mm), thinned(fixed, mm)) for moving, fixed in map(prepared, others)]

    def greys(both: Images) -> Greys:
        moving, fixed = (
            organ.window(without(view, lesion), percentile)
            for view, lesion in zip(both, lesions, strict=True)
        )
        return moving, fixed

    channels = tuple((v, greys(v)) for v in further)
    of_moving, of_fixed = (
        organ.middle(view, look) for view, look in zip(images, looks, strict=True)
    )
    middles = None if of_moving is None or of_fixed is None else (of_moving, of_fixed)
    return Subjects(
        views, greys(views), masks, regions, organ, lesions, channels, slices, middles=middles
    )
