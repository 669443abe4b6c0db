"""Brains in T1-weighted MR, skull-stripped or as whole heads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hsyn_cli.anatomy.borders import cut_faces, trimmed
from hsyn_cli.anatomy.intensity import BRIGHT, Intensities, read_intensities
from hsyn_cli.anatomy.organs import Images, Look, Organ, looks_like

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.size import Extents

BRAIN, HEAD = "skull-stripped brain", "whole head"
LEAST_LITRES = 0.03  # the brains of smaller animals look different
SMALL_LITRES = 0.25  # human brains have more, those of newborns, too
COARSE_MM = 2.1  # voxels; networks for detail of 1 mm gain nothing from coarser images
SLAB = 0.5  # of the largest area across an axis; a slab has more on both of its faces
HEAD_LITRES = 2.0  # of bright voxels; a brain has less, in adults up to 1.7 litres
MOST_LITRES = 12.0  # a head with its neck has less; heads have 3 litres and more
T1 = 1.0  # times as bright inside as farther out; other contrasts have less


class Brain(Organ):
    """The volume of the bright voxels decides whether an image shows a brain or a head.

    Brains of other primates are registered at the size of a human one.
    """

    checkpoint = "brain-t1"
    kinds = (BRAIN, HEAD)
    prepared_as = "brains and heads without bias"

    def recognise(self, image: sitk.Image, grey: Intensities) -> Look | None:
        import SimpleITK as sitk

        if grey.hounsfield:
            return None
        values = sitk.GetArrayViewFromImage(image)[::2, ::2, ::2]
        bright = values > grey.low + BRIGHT * (grey.high - grey.low)
        voxel = 1e-6 * float(np.prod(image.GetSpacing()))
        litres = voxel * image.GetNumberOfPixels() * float(bright.mean())
        if not LEAST_LITRES <= litres <= MOST_LITRES:
            return None
        return Look(BRAIN if litres <= HEAD_LITRES else HEAD, grey)

    def prepare(
        self, image: sitk.Image, look: Look, lesion: sitk.Image | None = None
    ) -> sitk.Image:
        """A brain or head without its bias field, float32; any other image unchanged.

        Of a head whose brain is known, only that remains. Else the tissue around the brain would
        pass for a bias field, so its middle tells it.
        """
        from hsyn_cli.anatomy.bias import without_bias

        image = self.part(image, look)
        if look.kind == BRAIN or look.region is not None:
            return without_bias(image, lesion)
        middle = self.middle(image, look)
        return image if middle is None else without_bias(image, lesion, middle)

    def part(self, image: sitk.Image, look: Look) -> sitk.Image:
        """The brain of a head as if skull-stripped, if the look has it as region; else `image`."""
        import SimpleITK as sitk

        if look.kind != HEAD or look.region is None:
            return image
        near = sitk.sitkNearestNeighbor
        mask = sitk.Resample(look.region, image, sitk.Transform(), near, 0, sitk.sitkUInt8)
        return sitk.Mask(image, mask, float(sitk.GetArrayViewFromImage(image).min()))

    def middle(self, image: sitk.Image, look: Look) -> sitk.Image | None:
        """About the brain of a whole head, because scalps and necks differ more."""
        from hsyn_cli.anatomy import depth

        return depth.middle(image) if look.kind == HEAD and look.region is None else None

    def unsuited(self, images: Images) -> str:
        if min(float(np.prod(image.GetSpacing())) for image in images) >= COARSE_MM**3:
            return f"the voxels are {COARSE_MM:g} mm or more"
        if any(_slab(image) for image in images):
            return "an image shows a slab alone"
        if any(_other_contrast(image) for image in images):
            return "a skull-stripped brain does not look like T1"
        return ""

    def contrast(self, image: sitk.Image, look: Look) -> str:
        if look.kind != BRAIN:
            return ""
        return "not like T1" if _other_contrast(image) else "like T1"

    def unit(self, extents: Extents, kinds: Collection[str] = ()) -> float:
        from hsyn_cli.anatomy.size import unit_of

        small = max(extent.content for extent in extents) < 1e6 * SMALL_LITRES
        return unit_of(extents) if small else 1.0

    def remarks(self, kinds: Mapping[str, str]) -> Iterator[str]:
        if set(kinds.values()) == {BRAIN, HEAD}:
            yield f"{' and '.join(looks_like(kinds))}: skull-strip both images or neither"


def _slab(image: sitk.Image) -> bool:
    """Whether an image shows a part between two planes alone."""
    shown = trimmed(image)
    return any(min(ends) > SLAB for ends in cut_faces(shown, read_intensities(shown)))


def _other_contrast(image: sitk.Image) -> bool:
    """Whether an image of a brain's size, skull-stripped, does not look like T1."""
    from hsyn_cli.anatomy.depth import brighter_inside

    grey = read_intensities(image)
    look = ORGAN.recognise(image, grey)
    return look is not None and look.kind == BRAIN and not brighter_inside(image, grey) >= T1


ORGAN = Brain()
