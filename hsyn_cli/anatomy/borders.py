"""Where an image ends amid what it shows: at its border, or at padding and dark layers there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import BRIGHT, Intensities, read_intensities
from hsyn_cli.space import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

CUT = 0.05  # of the largest area across an axis; smaller areas at the border are no cut
STEEP = 1.5  # times as fast as the area of a lying cylinder grows from its edge; a cut grows faster
DARK_LAYERS = 3  # with noise; padding of one value may be as deep as it likes


def cut_faces(image: sitk.Image, grey: Intensities) -> list[tuple[float, float]]:
    """How much of what an image shows goes on beyond each of its faces, for the axes x, y, z.

    It is the bright area of a face, as a share of the largest bright area across that axis. A slice
    has no faces along its normal.
    """
    shares = [_shares(_bright(image, grey), axis) for axis in (2, 1, 0)]
    return [(float(s[0]), float(s[-1])) if len(s) > 1 else (0.0, 0.0) for s in shares]


def trimmed(image: sitk.Image) -> sitk.Image:
    """An image without the dark layers beyond flat ends of what it shows.

    There, the scan ended, and not the body: scanners darken their last slices, and programs pad. A
    body that is flat on all sides, and ends inside the image along each axis, is a box.
    """
    import SimpleITK as sitk

    values, grey = sitk.GetArrayViewFromImage(image), read_intensities(image)
    bright = _bright(image, grey)
    ends = [_flat_ends(values, bright, axis) for axis in (2, 1, 0)]
    wide = [end for end, n in zip(ends, image.GetSize(), strict=True) if n > 1]
    box = all(None not in end and any(end) for end in wide)
    if box or not any(map(any, wide)):
        return image
    first, last = ([layers or 0 for layers in side] for side in zip(*ends, strict=True))
    out = sitk.Crop(image, first, last)
    return replace(Grid.of(out), dimension=Grid.of(image).dimension).stamp(out)


def _bright(image: sitk.Image, grey: Intensities) -> NDArray[np.bool_]:
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    return np.asarray(values > grey.low + BRIGHT * (grey.high - grey.low))


def _shares(bright: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    """The bright area of each layer across an axis, as a share of the largest one."""
    areas = bright.sum(tuple(k for k in range(3) if k != axis))
    shares: NDArray[np.float64] = areas / max(int(areas.max()), 1)
    return shares


def _flat_ends(
    values: NDArray[Any], bright: NDArray[np.bool_], axis: int
) -> tuple[int | None, int | None]:
    """How many layers lie beyond the flat first and last end across an axis; None at other ends."""
    shares, layers = _shares(bright, axis), np.moveaxis(values, axis, 0)
    first, last = (
        _layers_beyond(along, of) for along, of in ((shares, layers), (shares[::-1], layers[::-1]))
    )
    return first, last


def _layers_beyond(shares: NDArray[np.float64], layers: NDArray[Any]) -> int | None:
    """How many layers lie before the first end; None if it is not flat.

    A cylinder of n layers that lies on its side shows sqrt(4 k / n) of its largest area in its k-th
    layer, and a ball less.
    """
    shown = np.flatnonzero(shares > CUT)
    if len(shown) < 2 * DARK_LAYERS:
        return None
    beyond = int(shown[0])
    if beyond == 0:
        return 0
    if shares[beyond + 1] < CUT + STEEP * math.sqrt(8 / len(shown)):
        return None
    if beyond > DARK_LAYERS and layers[: beyond - 1].min() < layers[: beyond - 1].max():
        return None
    return beyond + int(shares[beyond] < shares[beyond + 1] / 2)  # a layer that is half dark
