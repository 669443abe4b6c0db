"""Noisy air around a body becomes flat, so that no force acts on its noise. Ours."""

from __future__ import annotations

from functools import reduce

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import CONTENT, content_from, read_intensities
from hsyn_cli.space import Grid, shrink_factors

CELLS = 40  # along the edge of a cube as large as the body; noise has little effect on their means
CLOSED, GROWN = 2, 1  # cells: openings of a body are narrower than twice that; what its edge needs


def without_air(image: sitk.Image) -> sitk.Image:
    """`image` with its darkest value in air; unchanged if the air has no noise.

    Air is what lies beyond the body on cells that are darker than the noise. Dark cells that the
    body surrounds, in the planes across any axis, belong to it.
    """
    grey = read_intensities(image)
    least = content_from(image, grey)
    if grey.hounsfield or least <= grey.low + CONTENT * (grey.high - grey.low):
        return image
    bright = sitk.GetArrayViewFromImage(image) > least
    litres = float(bright.mean()) * image.GetNumberOfPixels() * float(np.prod(image.GetSpacing()))
    factors = shrink_factors(Grid.of(image), litres ** (1 / 3) / CELLS)
    small = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    body = sitk.GetArrayFromImage(sitk.BinaryMorphologicalClosing(small > least, [CLOSED] * 3))
    filled = _filled(body > 0)
    mask = Grid.of(small).stamp(sitk.GetImageFromArray(filled.astype(np.uint8)))
    mask = sitk.BinaryDilate(mask, [GROWN] * 3)
    mask = sitk.Resample(
        mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8, True
    )
    return sitk.Mask(image, mask, float(grey.low))


def _filled(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (Z, Y, X) and what it surrounds in the planes across each axis."""
    from scipy import ndimage

    wide = [axis for axis in range(3) if min(np.delete(body.shape, axis)) > 1]
    planes = (
        np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(body, axis, 0)], axis)
        for axis in wide
    )
    return reduce(np.logical_or, planes, body)
