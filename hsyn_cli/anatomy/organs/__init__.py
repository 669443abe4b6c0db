"""The organs that hsyn knows. Each file of this folder is one organ, named as checkpoints name it.

A file defines `ORGAN`, an object of a subclass of `Organ`. `look` asks every organ what an image
shows, and later steps use its answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from hsyn_cli import plugins
from hsyn_cli.anatomy.intensity import Intensities, read_intensities, resample_mask
from hsyn_cli.errors import InputError
from hsyn_cli.space import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.size import Extents

OTHER = "neither brain nor chest CT"
SLICE = "single slice"
AUTO = "auto"
NONE = "none"  # the organ of all other images, and the name of no checkpoint
DEFAULT = "brain"
Images: TypeAlias = "tuple[sitk.Image, sitk.Image]"  # moving, fixed
Masks: TypeAlias = "tuple[sitk.Image | None, sitk.Image | None]"
# From points of the fixed image to points of the moving image, and of the fixed image.
Chains: TypeAlias = "tuple[sitk.Transform | None, sitk.Transform | None]"


@dataclass(frozen=True)
class Look:
    """What an image shows.

    Attributes:
        kind: one of an organ's `kinds`, `SLICE` or `OTHER`.
        grey: intensities of the image as given.
        region: the part to register, if the organ limits it: a mask on a grid of its own.
    """

    kind: str
    grey: Intensities
    region: sitk.Image | None = None


class Organ:
    """The defaults of an organ: whole images, and only their grey values count.

    Its modules import SimpleITK inside functions, because training runs without it.

    Attributes:
        checkpoint: name of the checkpoint that ships for it; None: no networks run.
        kinds: what its images can show, in the words of the report.
        outside: grey value of a warped image beyond the border of the source image.
        near_mm: tissue this close to its region is registered with it.
        prepared_as: what training caches call its prepared images; None: the organ's name.
        ct: scans are CT; training draws kernels, noise and cut slices in place of bias fields.
        maps_from_labels: training uses label maps as maps beside the image.
        breathes: training may pair two depths of breath.
    """

    checkpoint: str | None = None
    kinds: tuple[str, ...] = ()
    outside = 0.0
    near_mm = 0.0
    prepared_as: str | None = None
    ct = False
    maps_from_labels = False
    breathes = False

    def recognise(self, image: sitk.Image, grey: Intensities) -> Look | None:
        """What `image` shows if it shows this organ, else None."""
        return None

    def check(self, grey: Intensities, name: str) -> None:
        """Raise InputError if the image called `name` cannot be one of this organ."""

    def window(self, image: sitk.Image, percentile: float) -> Intensities:
        """The grey values of a prepared image that become 0 and 1."""
        return read_intensities(image, percentile)

    def part(self, image: sitk.Image, look: Look) -> sitk.Image:
        """What is registered of an image, as if the rest were cut away."""
        return image

    def prepare(
        self, image: sitk.Image, look: Look, lesion: sitk.Image | None = None
    ) -> sitk.Image:
        """`image` as the later steps use it; a `lesion` does not count for what they estimate."""
        return image

    def unsuited(self, images: Images) -> str:
        """Why images of these voxels, or of so much of the body, gain nothing from the networks.

        "" if they gain.
        """
        return ""

    def contrast(self, image: sitk.Image, look: Look) -> str:
        """The contrast of an image of this organ, in a few words; "" if it is not judged."""
        return ""

    def unit(self, extents: Extents, kinds: Collection[str] = ()) -> float:
        """The mm that are one unit of length of the method, see `anatomy.size`.

        kinds: what the images show.
        """
        return 1.0

    def voxel(self, images: Images, extents: Extents) -> float | None:
        """The voxel of the working grid in mm; None: that of the checkpoint."""
        return None

    def regions(self, masks: Masks, looks: tuple[Look, Look]) -> Images | None:
        """The parts of moving and fixed image to register; None: all. Raises UsageError."""
        return None

    def align_by(self, image: sitk.Image, region: sitk.Image | None) -> sitk.Image:
        """The part of `image` that the affine step aligns."""
        return image

    def middle(self, image: sitk.Image, look: Look) -> sitk.Image | None:
        """A mask of what the affine step aligns once it has aligned the whole; None: no more."""
        return None

    def maps(self, regions: Images | None, grid: Grid, chains: Chains) -> Tensor | None:
        """(2, C, Z, Y, X) maps in [0, 1] beside the images on `grid`, moving first, or None."""
        return None

    def counts(
        self, views: Images, masks: Masks, grid: Grid, chains: Chains, maps: Tensor | None
    ) -> Tensor | None:
        """(2, 1, Z, Y, X): 0 where an image does not count; None: all counts.

        `views`, `masks`: the prepared images, and their masks as given.
        """
        if masks == (None, None):
            return None
        pairs = zip(masks, chains, strict=True)
        return torch.cat([resample_mask(mask, grid, chain) for mask, chain in pairs])

    def remarks(self, kinds: Mapping[str, str]) -> Iterator[str]:
        """Warnings about a pair of images, given as {role: kind}."""
        yield from ()


def names() -> list[str]:
    """The names of all organs. Imports none of them."""
    return plugins.names(__name__)


def find(name: str) -> Organ:
    """The organ called `name`. Raises TypeError if unknown, as for a config's other keys."""
    try:
        organ: Organ = plugins.load(__name__, name).ORGAN
    except KeyError:
        raise TypeError(f"organ is {name!r}, not {' or '.join(names())}") from None
    return organ


def look(image: sitk.Image) -> Look:
    """What an image shows, by the first organ that recognises it; `DEFAULT` comes last."""
    grey = read_intensities(image)
    if Grid.of(image).normal is not None:
        return Look(SLICE, grey)
    for name in sorted(names(), key=lambda name: name == DEFAULT):
        look = find(name).recognise(image, grey)
        if look is not None:
            return look
    return Look(OTHER, grey)


def checkpoint_for(
    model: str | None, kinds: Mapping[str, str], images: Images | None = None
) -> str:
    """Name or path of the checkpoint for `model`: an organ, a name, a path, or `AUTO`.

    `AUTO` (or None) goes by the {role: kind} of the images. It is `NONE` if no organ has both, or
    if the `images` are too coarse for it or slabs. Raises InputError if they show different organs.
    """
    if model not in (None, AUTO, *names()):
        return str(model)
    if model in names():
        return find(str(model)).checkpoint or NONE
    fitting = _organs_of(kinds)
    if len(fitting) > 1:
        hint = "check that these are the right files; --model NAME registers them anyway"
        raise InputError(" and ".join(looks_like(kinds)), hint)
    organ = find(fitting[0] if fitting else NONE)
    fits = set(kinds.values()) <= set(organ.kinds) and (
        images is None or not organ.unsuited(images)
    )
    return (fits and organ.checkpoint) or NONE


def of_brains(kinds: Mapping[str, str]) -> bool:
    """Whether all images show brains or heads, as {role: kind}."""
    return set(kinds.values()) <= set(find(DEFAULT).kinds)


def why_none(kinds: Mapping[str, str], images: Images) -> str:
    """Why `checkpoint_for` finds none for images that show {role: kind}; "" if it finds one."""
    fitting = _organs_of(kinds)
    organ = find(fitting[0] if fitting else NONE)
    if organ.checkpoint is None or not set(kinds.values()) <= set(organ.kinds):
        return "no checkpoint is for what both images show"
    return organ.unsuited(images)


def warnings(checkpoint: str, kinds: Mapping[str, str]) -> list[str]:
    """A line for each image that a shipped `checkpoint` was not trained for."""
    for organ in map(find, names()):
        if organ.checkpoint == checkpoint:
            wrong = {role: kind for role, kind in kinds.items() if kind not in organ.kinds}
            return [f"{line}, which {checkpoint} was not trained for" for line in looks_like(wrong)]
    return []


def remarks(kinds: Mapping[str, str]) -> list[str]:
    """The warnings of all organs about a pair that shows {role: kind}."""
    return [line for organ in map(find, names()) for line in organ.remarks(kinds)]


def shipped() -> dict[str, str]:
    """{organ: the checkpoint that ships for it}."""
    return {name: checkpoint for name in names() if (checkpoint := find(name).checkpoint)}


def _organs_of(kinds: Mapping[str, str]) -> list[str]:
    return [name for name in names() if set(find(name).kinds) & set(kinds.values())]


def looks_like(kinds: Mapping[str, str]) -> list[str]:
    """A clause for each image in {role: kind}."""
    return [
        f"the {role} image looks like {'' if kind == OTHER else 'a '}{kind}"
        for role, kind in kinds.items()
    ]
