"""The states between the steps of `register`. Tuples: moving, fixed.

`Joined` holds the paper's compositions; `working` has the states before it, which are tensors
alone. The other states are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import SimpleITK as sitk
import torch

from hsyn_cli.anatomy.contrast import Shown
from hsyn_cli.anatomy.hounsfield import in_hounsfield
from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.organs import NONE, Images, Look, Organ, find
from hsyn_cli.anatomy.organs.brain import HEAD
from hsyn_cli.anatomy.poses import Kind, Search
from hsyn_cli.anatomy.scene import ROLES, Subjects
from hsyn_cli.anatomy.size import Extent, Extents, scaled
from hsyn_cli.anatomy.view import View
from hsyn_cli.errors import UsageError
from hsyn_cli.fields.change import Change, Linear
from hsyn_cli.fields.totals import Settled, Totals
from hsyn_cli.method.result import Scores, SimilarityScores
from hsyn_cli.method.working import Method, WorkingFields
from hsyn_cli.space import Grid

Transform = Literal["translation", "rigid", "affine", "deformable"]
Head = Literal["auto", "all", "brain"]
AUTO = "auto"
AIR = -1024.0  # HU


def check_search(search: str, transform: str) -> None:
    """Raise UsageError for an unknown kind of search, or one that turns where nothing may."""
    if search not in get_args(Search):
        known = ", ".join(get_args(Search))
        raise UsageError(f"unknown search {search!r}", f"choose one of {known}")
    if search == "full" and transform == "translation":
        text = "the search full turns the moving image, and the transform translation must not"
        raise UsageError(text, "give one of them")


def check_head(head: str) -> None:
    """Raise UsageError for an unknown part of heads."""
    if head not in get_args(Head):
        known = ", ".join(get_args(Head))
        raise UsageError(f"unknown part of heads {head!r}", f"choose one of {known}")


def check_transform(transform: str, affine: str) -> None:
    """Raise UsageError for an unknown kind, or one that contradicts the kind of the `affine`."""
    if transform not in get_args(Transform):
        known = ", ".join(get_args(Transform))
        raise UsageError(f"unknown transform {transform!r}", f"choose one of {known}")
    if transform == "deformable" or affine in ("affine", transform):
        return
    hint = f"give the transform {transform} alone"
    raise UsageError(f"the transform {transform} and the alignment {affine!r} do not agree", hint)


@dataclass(frozen=True)
class Settings:
    """The user's choices.

    `channels`: the weights of the channels, with the sum 1. `even`: as of `Subjects`. `head`: what
    of whole heads is registered.
    """

    preset: str
    weights: str | None
    affine: Kind
    start: sitk.AffineTransform | None
    device: torch.device
    seed: int
    smoothness: float
    similarity: str = AUTO
    transform: Transform = "deformable"
    search: Search = "near"
    channels: tuple[float, ...] = (1.0,)
    even: bool = False
    head: Head = "auto"


@dataclass(frozen=True)
class Other:
    """A further channel of both images, moving first."""

    images: tuple[sitk.Image, sitk.Image]
    views: tuple[View, View]

    def outside(self, organ: Organ) -> tuple[float, float]:
        """As `Pair.outside`."""
        greys = [in_hounsfield(sitk.GetArrayViewFromImage(view.image)) for view in self.views]
        return _outside(self.views, greys, organ)


@dataclass(frozen=True)
class Pair:
    """Two images as the user gives them, how hsyn sees them, and what they show.

    Tuples: moving, fixed. `unit`: mm of the `images` per mm of all other geometry, see
    `anatomy.size`. `voxel`: of the working grid, in units; None: that of the checkpoint.
    """

    images: tuple[sitk.Image, sitk.Image]
    views: tuple[View, View]
    masks: tuple[sitk.Image | None, sitk.Image | None]
    looks: tuple[Look, Look]
    unit: float = 1.0
    voxel: float | None = None
    lesions: tuple[sitk.Image | None, sitk.Image | None] = (None, None)
    others: tuple[Other, ...] = ()

    def sized(self, organ: Organ) -> Pair:
        """The pair in the unit of length of an organ. `self` has the unit 1 mm."""
        extents, images = self.extents, self.parts
        unit, voxel = organ.unit(extents, self.kinds.values()), organ.voxel(images, extents)
        voxel = None if voxel is None else voxel / unit
        if unit == 1:
            return replace(self, voxel=voxel)
        views, *more = (
            [replace(view, image=scaled(view.image, 1 / unit)) for view in both]
            for both in (self.views, *(other.views for other in self.others))
        )
        others = [
            replace(other, views=(both[0], both[1]))
            for other, both in zip(self.others, more, strict=True)
        ]
        masks, lesions = (
            [mask and scaled(mask, 1 / unit) for mask in both]
            for both in (self.masks, self.lesions)
        )
        regions = [look.region and scaled(look.region, 1 / unit) for look in self.looks]
        looks = [replace(v, region=r) for v, r in zip(self.looks, regions, strict=True)]
        return replace(
            self,
            views=(views[0], views[1]),
            masks=(masks[0], masks[1]),
            looks=(looks[0], looks[1]),
            lesions=(lesions[0], lesions[1]),
            others=tuple(others),
            unit=unit,
            voxel=voxel,
        )

    @property
    def of_found_brains(self) -> bool:
        """Whether the brains of heads are what is registered."""
        return any(look.kind == HEAD and look.region is not None for look in self.looks)

    @property
    def parts(self) -> Images:
        """What is registered of both views: the brains of heads, if they were found."""
        moving, fixed = (
            find(NONE).part(view.image, look)
            for view, look in zip(self.views, self.looks, strict=True)
        )
        return moving, fixed

    @property
    def extents(self) -> Extents:
        """Of what is registered of both views."""
        greys = (
            look.grey if part is view.image else read_intensities(part)
            for view, look, part in zip(self.views, self.looks, self.parts, strict=True)
        )
        moving, fixed = map(Extent.of, self.parts, greys)
        return moving, fixed

    @property
    def grids(self) -> tuple[Grid, Grid]:
        """Those of the images, in units of length."""
        moving, fixed = (Grid.of(image).scaled(1 / self.unit) for image in self.images)
        return moving, fixed

    @property
    def kinds(self) -> dict[str, str]:
        """{role: what the image shows}."""
        return {role: look.kind for role, look in zip(ROLES, self.looks, strict=True)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What hsyn sees otherwise than given."""
        channels = (self.views, *(other.views for other in self.others))
        return tuple(
            f"the {role} image {f'of channel {k} ' if k > 1 else ''}{view.note}"
            for k, views in enumerate(channels, 1)
            for role, view in zip(ROLES, views, strict=True)
            if view.note
        )

    def outside(self, organ: Organ) -> tuple[float, float]:
        """Grey values of warped images beyond the border of their source image."""
        return _outside(self.views, [look.grey.hounsfield for look in self.looks], organ)


def _outside(
    views: Sequence[View], hounsfield: Sequence[bool], organ: Organ
) -> tuple[float, float]:
    usual = (AIR if hu else organ.outside for hu in hounsfield)
    moving, fixed = (
        other if view.outside is None else view.outside
        for view, other in zip(views, usual, strict=True)
    )
    return moving, fixed


@dataclass(frozen=True)
class Aligned:
    """The prepared pair, and what aligns it.

    Attributes:
        affine: fixed point -> moving point.
        notes: on the alignment.
        shown: how the aligned images relate.
        unmatched: whether the first channel differs in contrast, and there is no match for all.
        first: the pair, its method, and what aligns it, if the images have one contrast after all.
    """

    subjects: Subjects
    affine: sitk.AffineTransform
    notes: tuple[str, ...]
    shown: Shown
    unmatched: bool = False
    first: tuple[Pair, Method, Aligned] | None = None


@dataclass(frozen=True)
class Joined:
    """The whole maps on the working grid, and how alike they make the images."""

    working: WorkingFields
    similarity: SimilarityScores
    information: Scores
    overlap: Scores


@dataclass(frozen=True)
class Composed:
    """The total fields on the grids of the images, and what was measured on them."""

    totals: Totals
    settled: Settled
    linear: Linear
    change: Change
