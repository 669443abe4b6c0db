"""A subject's scans as the template takes them: one scale of grey values, and what is content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import Intensities, content_from, read_intensities
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.errors import InputError
from hsyn_cli.io.images import read_image, read_mask
from hsyn_cli.space import Array, Grid
from hsyn_cli.template.subjects import Subject

LOW, HIGH = 0.0, 100.0  # of the template, but for Hounsfield units
AIR = -1024.0  # HU
MOST_POINTS = 200_000  # of a content that decide on its middle


@dataclass(frozen=True)
class Channel:
    """A scan with its dark background, and the grey values that become LOW and HIGH."""

    image: sitk.Image
    grey: Intensities

    @property
    def outside(self) -> float:
        """The grey value of the template where no scan reaches."""
        return AIR if self.grey.hounsfield else LOW

    def scaled(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Its grey values on the template's scale, in place."""
        if self.grey.hounsfield:
            return values
        values -= np.float32(self.grey.low)
        values *= np.float32((HIGH - LOW) / max(self.grey.high - self.grey.low, 1e-12))
        values += np.float32(LOW)
        return values


@dataclass(frozen=True)
class Scans:
    """All channels of a subject; `mask`: uint8, the user's, or else the content of the first."""

    channels: tuple[Channel, ...]
    mask: sitk.Image

    @property
    def grid(self) -> Grid:
        """That of the first channel."""
        return Grid.of(self.channels[0].image)

    @property
    def content(self) -> NDArray[np.bool_]:
        """The mask as (Z, Y, X)."""
        return np.asarray(sitk.GetArrayViewFromImage(self.mask) > 0)


def load(subject: Subject) -> Scans:
    """Read the scans and the mask of a subject. Raises InputError, GeometryError."""
    channels = []
    for k, path in enumerate(subject.scans, 1):
        name = f"scan of {subject.id}" if k == 1 else f"scan {k} of {subject.id}"
        view = view_of(read_image(path, name).image).image
        channels.append(Channel(view, read_intensities(view)))
    first = channels[0]
    if subject.mask is not None:
        return Scans(tuple(channels), read_mask(subject.mask, first.image, "mask").image)
    bright = sitk.Cast(first.image > content_from(first.image, first.grey), sitk.sitkUInt8)
    return Scans(tuple(channels), Grid.of(first.image).stamp(bright))


def check_scale(scans: Scans, like: Scans, subject: Subject, other: Subject) -> None:
    """Raise InputError if one subject is in Hounsfield units and the other is not."""
    for own, theirs in zip(scans.channels, like.channels, strict=True):
        if own.grey.hounsfield != theirs.grey.hounsfield:
            one, two = (subject, other) if own.grey.hounsfield else (other, subject)
            text = f"the scan of {one.id} is a CT in Hounsfield units, and that of {two.id} is not"
            raise InputError(text, "make a template of scans of one kind")


def middle(scans: Scans) -> Array:
    """The centre of the content, mm LPS."""
    found: Array = content_points(scans).mean(0)
    return found


def content_points(scans: Scans) -> Array:
    """(N, 3): evenly spread points of the content, mm LPS."""
    flat = np.flatnonzero(scans.content)
    flat = flat[:: max(1, len(flat) // MOST_POINTS)]
    zyx = np.unravel_index(flat, scans.content.shape)
    return scans.grid.points(np.stack(zyx[::-1], -1).astype(float))
