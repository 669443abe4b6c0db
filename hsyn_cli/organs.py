"""The organs hsyn knows: what tells them in an image, the checkpoint trained for each, and how its images are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from hsyn_cli import config, lungs
from hsyn_cli.bias import without_bias
from hsyn_cli.config import Preset
from hsyn_cli.errors import InputError
from hsyn_cli.prepare import intensity_range

BRAIN, HEAD, CHEST, OTHER = "skull-stripped brain", "whole head", "chest CT", "neither brain nor chest CT"
HEAD_LITRES, MOST_LITRES = (
    2.0,
    12.0,
)  # a brain has less than the first, a head with its neck less than the second


@dataclass(frozen=True)
class Organ:
    """`checkpoint` ships for it; `shows` are what its images are taken for; `presets` are tuned for it.

    Attributes:
        hounsfield: its images are in Hounsfield units and show lungs.
        outside: what a warped image shows where the other one ends.
    """

    checkpoint: str
    shows: tuple[str, ...]
    presets: Mapping[str, Preset]
    hounsfield: bool = False
    outside: float = 0.0


ORGANS = {
    "brain": Organ(config.CHECKPOINTS["brain"], (BRAIN, HEAD), config.PRESETS),
    "lung": Organ(
        config.CHECKPOINTS["lung"], (CHEST,), config.LUNG_PRESETS, hounsfield=True, outside=-1024.0
    ),
}
AUTO = "auto"


@dataclass(frozen=True)
class Look:
    """What an image `shows`, one of the texts above, and the lungs that were found in it (see `lungs.segment`)."""

    shows: str
    lungs: sitk.Image | None = None


def look(image: sitk.Image) -> Look:
    """Takes an image for `CHEST` by its lungs; for `BRAIN` or `HEAD` by the volume of what is brighter than a tenth of the
    range: adult brains have up to 1.7 litres of it, heads 3 and more; else for `OTHER`."""
    if lungs.in_hounsfield(image):
        found = lungs.segment(image)
        return Look(OTHER if found is None else CHEST, found)
    low, high = intensity_range(image)
    bright = sitk.GetArrayViewFromImage(image)[::2, ::2, ::2] > low + 0.1 * (high - low)
    litres = 1e-6 * float(np.prod(image.GetSpacing())) * image.GetNumberOfPixels() * float(bright.mean())
    return Look(BRAIN if litres <= HEAD_LITRES else HEAD if litres <= MOST_LITRES else OTHER)


def evenly_lit(image: sitk.Image) -> sitk.Image:
    """A skull-stripped brain `without_bias`, float32; any other image as it is: what lies around a brain passes for bias."""
    return without_bias(image) if look(image).shows == BRAIN else image


def checkpoint_for(model: str | None, shown: Mapping[str, str]) -> str:
    """Name or path of the checkpoint that `model` means: an organ, a name, a path, or `AUTO` (or None), which goes by what
    the images show. Raises InputError where they show different organs."""
    if model in ORGANS:
        return ORGANS[model].checkpoint
    if model not in (None, AUTO):
        return str(model)
    fitting = {name for name, organ in ORGANS.items() for what in shown.values() if what in organ.shows}
    if len(fitting) > 1:
        what = " and ".join(f"the {role} image looks like a {kind}" for role, kind in shown.items())
        raise InputError(
            what, "check that they are the right files; --model NAME registers them all the same"
        )
    return ORGANS[fitting.pop()].checkpoint if fitting else ORGANS["brain"].checkpoint


def warnings(checkpoint: str, shown: Mapping[str, str]) -> list[str]:
    """A line for images that a checkpoint that ships was not trained for; of others it is not known."""
    for organ in ORGANS.values():
        if organ.checkpoint == checkpoint:
            return [
                f"the {role} image looks like {'' if kind == OTHER else 'a '}{kind}, which {checkpoint} was not trained for"
                for role, kind in shown.items()
                if kind not in organ.shows
            ]
    return []
