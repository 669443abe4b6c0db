"""A rough mask of the lungs in a chest CT, from their density.

It is good enough to recognise lungs and to align them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Grid, nearest_lps, shrink_factors

AIR = -400.0  # HU; the lungs and the air around the body are darker
PADDING = -1500.0  # HU; nothing in a scan is as dark, so such voxels were never scanned
PADDINGS = (-1024.0, -1000.0)  # HU; padding, too, if they are the darkest value
ROUGH_MM, VOXEL_MM = 4.0, 2.0  # voxels of the search for lungs, and of their outline
LEAST_LITRES = 0.5  # of both lungs together
LEAST_SHARE = 0.1  # of the larger lung's volume
MOST_CUT = 0.01  # share of a lung's voxels on the image's sides; the air around a body has more
GAS = -960.0  # HU; the mean of bowel gas is darker, the mean of a lung is not
CLOSING_MM = 6.0  # vessels up to this width belong to the lung


def segment(image: sitk.Image) -> sitk.Image | None:
    """The lungs of a CT with vessels and airways, float32; None if it shows no lungs.

    The voxels are up to 2 mm wide, or those of the image. A lung is a large piece of air that
    hardly touches the sides of the image. The first and last slices may cut through it.
    """
    small = _shrunk(image, ROUGH_MM)
    scanned = _shrunk(unscanned(image), ROUGH_MM) < 0.5
    # The erosion cuts thin bridges.
    inner = sitk.BinaryErode((small < AIR) & scanned, [1] * 3, sitk.sitkCross)
    pieces = sitk.ConnectedComponent(inner)
    labels = sitk.GetArrayViewFromImage(pieces)
    count = np.bincount(labels.ravel())
    litres = count * (1e-6 * float(np.prod(small.GetSpacing())))
    total = np.bincount(labels.ravel(), sitk.GetArrayViewFromImage(small).ravel())
    mean = total / np.maximum(count, 1)
    sides = np.concatenate([face.ravel() for face in _sides(labels, image)])
    cut = np.bincount(sides, minlength=len(count)) / np.maximum(count, 1)
    lung = (litres >= LEAST_SHARE * LEAST_LITRES) & (mean > GAS) & (cut < MOST_CUT)
    lung[0] = False  # label 0 is not air
    lung &= litres >= LEAST_SHARE * litres[lung].max(initial=0.0)
    if litres[lung].sum() < LEAST_LITRES:
        return None
    mask = sitk.GetImageFromArray(lung[labels].astype(np.uint8))
    mask.CopyInformation(small)
    mask = sitk.BinaryDilate(mask, [2] * 3, sitk.sitkBall)
    factor = np.array(shrink_factors(Grid.of(image), ROUGH_MM))
    near = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
    last = np.array(small.GetSize()) - 1
    first = near.min(0) * factor
    end = np.where(near.max(0) == last, image.GetSize(), (near.max(0) + 1) * factor)
    part = _shrunk(sitk.RegionOfInterest(image, (end - first).tolist(), first.tolist()), VOXEL_MM)
    # The last slices may fill no rough voxel. Extrapolation (True) covers them, too.
    rough = sitk.Resample(
        mask, part, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8, True
    )
    inside = rough & (part < AIR)
    radius = [max(1, round(0.5 * CLOSING_MM / s)) for s in part.GetSpacing()]
    closed = sitk.BinaryMorphologicalClosing(inside, radius, sitk.sitkBall)
    return sitk.Cast(closed, sitk.sitkFloat32)


def _shrunk(image: sitk.Image, mm: float) -> sitk.Image:
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), shrink_factors(Grid.of(image), mm))


def _sides(labels: NDArray[Any], image: sitk.Image) -> list[NDArray[Any]]:
    """The four faces of (Z, Y, X) `labels` that do not point up or down the body."""
    direction = np.reshape(image.GetDirection(), (3, 3))
    # The index axis along the body.
    up = int(np.argmax(np.abs(direction.T @ nearest_lps(direction)[:, 2])))
    faces = itertools.product([k for k in range(3) if k != up], (0, -1))
    return [labels.take(end, axis=2 - axis) for axis, end in faces]


def unscanned(image: sitk.Image) -> sitk.Image:
    """1 where a CT in Hounsfield units may be padding, outside the scanner's field of view; uint8.

    Scanned voxels that are as dark as the padding are 1 as well.
    """
    values = sitk.GetArrayViewFromImage(image)
    low = float(values.min())
    padded = values <= max(PADDING, low if low in PADDINGS else PADDING)
    out = sitk.GetImageFromArray(padded.astype(np.uint8))
    out.CopyInformation(image)
    return out
