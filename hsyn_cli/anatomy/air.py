"""Noisy air around a body becomes flat, so that no force acts on its noise. Ours."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import CONTENT, content_from, read_intensities
from hsyn_cli.space import Grid, shrink_factors

CELLS = 40  # along the edge of a cube as large as the body
MANY = 8  # voxels of a cell; their mean is so much less noisy that half the limit tells a body
CLOSED, EDGE = 2, 1  # cells: openings of a body are narrower than twice that; where its edge lies


def without_air(image: sitk.Image) -> sitk.Image:
    """`image` with its darkest value in air; unchanged if the air has no noise, see `content_from`.

    Cells of several voxels tell the body. Dark ones that it surrounds, in the planes across any
    axis, belong to it. Near its edge, each voxel tells whether it is brighter than noise.
    """
    grey = read_intensities(image)
    least = content_from(image, grey)
    if grey.hounsfield or least <= grey.low + CONTENT * (grey.high - grey.low):
        return image
    bright = image > least
    share = float(sitk.GetArrayViewFromImage(bright).mean())
    volume = share * image.GetNumberOfPixels() * float(np.prod(image.GetSpacing()))
    factors = shrink_factors(Grid.of(image), volume ** (1 / 3) / CELLS)
    small = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    limit = (least + grey.low) / 2 if math.prod(factors) >= MANY else least
    body = sitk.BinaryMorphologicalClosing(small > limit, [CLOSED] * 3)
    filled = _filled(sitk.GetArrayViewFromImage(body) > 0)
    mask = Grid.of(small).stamp(sitk.GetImageFromArray(filled.astype(np.uint8)))
    inner, outer = (
        sitk.Resample(
            near, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8, True
        )
        for near in (
            sitk.BinaryErode(mask, [EDGE] * 3, boundaryToForeground=True),
            sitk.BinaryDilate(mask, [EDGE] * 3),
        )
    )
    kept = sitk.Or(inner, sitk.And(outer, sitk.Cast(bright, sitk.sitkUInt8)))
    return Grid.of(image).stamp(sitk.Mask(image, kept, float(grey.low)))


def _filled(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (Z, Y, X) and what it surrounds in the planes across each axis."""
    from scipy import ndimage

    wide = [axis for axis in range(3) if min(np.delete(body.shape, axis)) > 1]
    planes = (
        np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(body, axis, 0)], axis)
        for axis in wide
    )
    return reduce(np.logical_or, planes, body)
