"""The pictures of the page: the template slice by slice, its rounds, and each subject."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.cohort.thumbnail import (
    MOST_BYTES,
    Plane,
    grid_around,
    palette,
    planes,
    png,
    shades,
    thumbnail,
)
from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic
from hsyn_cli.io.images import read_image
from hsyn_cli.results.page.volumes import MAX_VOXELS, Bytes, packed, page_grid, picture, window
from hsyn_cli.space import Grid
from hsyn_cli.template.run import Progress
from hsyn_cli.template.stages import WORK, mean_name

FOLDER = "pictures"
SIDE = 200  # pixels of the longest side in the pictures of the rounds
GAP = 3  # pixels
GREYS = 80
MOST_OF_SUBJECTS = 4_000_000  # bytes
MOST_OF_CHANNELS = 3 * MAX_VOXELS
SMOOTH = 0.7  # voxels of the page, of the mask before its outline is drawn


@dataclass(frozen=True)
class Volumes:
    """The template on the page's grid, whose axes lie nearest to L, P, S; arrays are (Z, Y, X).

    Attributes:
        images: the channels, 0 to 255 over their window. mask: 255 inside.
        windows: grey values of black and white of each channel.
    """

    grid: Grid
    images: tuple[Bytes, ...]
    mask: Bytes
    windows: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data, with arrays as base64 of their gzipped bytes."""
        return {
            "size": self.grid.size,
            "dimension": self.grid.dimension,
            "spacing": self.grid.spacing[0],
            "origin": self.grid.origin,
            "axes": self.grid.direction,
            "windows": self.windows,
            "images": [packed(image) for image in self.images],
            "mask": packed(self.mask),
        }


@dataclass(frozen=True)
class Pictures:
    """All of them. `stages`, `subjects`: {stage or id: PNG}."""

    volumes: Volumes
    stages: Mapping[str, bytes]
    subjects: Mapping[str, bytes]


def read(out: Path, record: Mapping[str, Any], step: Progress) -> Pictures:
    """Make those of a template from its files, and read those of its rounds. Raises InputError."""
    step("drawing", 0.0)
    template = template_of(out)
    made: dict[str, bytes] = {}
    count = len(record["subjects"])
    most = min(MOST_BYTES, MOST_OF_SUBJECTS // count)
    for k, subject in enumerate(record["subjects"]):
        step("drawing", (k + 1) / (count + 1))
        warped = read_image(out / subject["outputs"]["warped"], "warped scan").image
        made[subject["id"]] = thumbnail(warped, template, most, template)
    return Pictures(volumes_of(out, record), _stored(out, record), made)


def template_of(out: Path, channel: int = 1) -> sitk.Image:
    """A channel of a template. Raises InputError."""
    return read_image(out / mean_name(channel, "template"), "template").image


def window_of(record: Mapping[str, Any], image: sitk.Image) -> tuple[float, float]:
    """The grey values of black and white: the ends of the template's scale, if it has one."""
    scale = record["scale"]
    return window(image) if scale["hounsfield"] else (scale["low"], scale["high"])


def volumes_of(out: Path, record: Mapping[str, Any]) -> Volumes:
    """The template and its mask on the page's grid. Raises InputError."""
    grid, images, windows = None, [], []
    for k in range(1, record["channels"] + 1):
        image = template_of(out, k)
        if grid is None:
            grid = page_grid(image, min(MAX_VOXELS, MOST_OF_CHANNELS // record["channels"]))
        windows.append(window_of(record, image))
        images.append(picture(image, grid, windows[-1]))
    assert grid is not None
    mask = read_image(out / record["outputs"]["mask"], "mask of the template").image
    inside = picture(sitk.Cast(mask > 0, sitk.sitkFloat32), grid, (0.0, 1.0))
    return Volumes(grid, tuple(images), _smoothed(inside), tuple(windows))


def _smoothed(mask: Bytes) -> Bytes:
    from scipy.ndimage import gaussian_filter

    width = [SMOOTH if n > 1 else 0.0 for n in mask.shape]
    blurred: Bytes = np.rint(gaussian_filter(mask.astype(np.float32), width)).astype(np.uint8)
    return blurred


def shown(record: Mapping[str, Any]) -> list[str]:
    """The stages on the template's own grid: the last affine pass, and the rounds."""
    return [record["frame"][-1]["stage"], *(entry["stage"] for entry in record["rounds"])]


def store(out: Path, record: Mapping[str, Any]) -> None:
    """Draw the stages of a template from work/, and keep the pictures. Raises OutputError."""
    template = template_of(out)
    grid, ends = grid_around(template, SIDE), window_of(record, template)
    folder = out / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        wanted = {f"{stage}.png": stage for stage in shown(record)}
        for name, stage in wanted.items():
            mean = read_image(out / WORK / stage / mean_name(1), "mean image").image
            codes = shades(stacked(picture(mean, grid, ends)), GREYS)
            atomic.write_bytes(folder / name, png(codes, palette(GREYS)))
        for path in folder.glob("round-*.png"):
            if path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", "see to the folder") from error


def stacked(volume: Plane) -> Plane:
    """The middle planes of (Z, Y, X), one below the other."""
    found = planes(volume)
    width = max(plane.shape[1] for plane in found)
    column = []
    for plane in found:
        left = (width - plane.shape[1]) // 2
        column.append(np.pad(plane, ((0, GAP), (left, width - plane.shape[1] - left))))
    return np.concatenate(column)[:-GAP]


def _stored(out: Path, record: Mapping[str, Any]) -> dict[str, bytes]:
    found = {}
    for stage in shown(record):
        with contextlib.suppress(OSError):
            found[stage] = (out / FOLDER / f"{stage}.png").read_bytes()
    return found
