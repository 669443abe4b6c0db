"""Noisy air around a body becomes flat, so that no force acts on its noise. Ours."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import CONTENT, content_from, read_intensities
from hsyn_cli.space import Grid, shrink_factors

CELLS = 40  # along the edge of a cube, or square, as large as the body
MANY = 8  # voxels of a cell: their mean is so much less noisy that half the limit tells a body
CLOSED, EDGE = 2, 1  # cells: openings of a body are narrower than twice that; where its edge lies
SPECK = 8  # cells; a smaller piece is noise


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
    wide = [n > 1 for n in image.GetSize()]
    sides = [s for s, along in zip(image.GetSpacing(), wide, strict=True) if along]
    content = float(sitk.GetArrayViewFromImage(bright).sum()) * math.prod(sides)
    factors = shrink_factors(Grid.of(image), content ** (1 / sum(wide)) / CELLS)
    small = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    limit = (least + grey.low) / 2 if math.prod(factors) >= MANY else least
    body = sitk.BinaryMorphologicalClosing(small > limit, [CLOSED * along for along in wide])
    body = sitk.RelabelComponent(sitk.ConnectedComponent(body), minimumObjectSize=SPECK)
    filled = _filled(sitk.GetArrayViewFromImage(body) > 0)
    mask = Grid.of(small).stamp(sitk.GetImageFromArray(filled.astype(np.uint8)))
    edge = [EDGE * along for along in wide]
    inner, outer = (
        sitk.Resample(
            near, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8, True
        )
        for near in (
            sitk.BinaryErode(mask, edge, boundaryToForeground=True),
            sitk.BinaryDilate(mask, edge),
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
