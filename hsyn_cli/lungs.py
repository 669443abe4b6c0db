"""Lungs in a chest CT, by what is known of their density: a rough mask, good enough to tell them and to align them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Grid, nearest_lps, shrink_factors

WINDOW = (-1000.0, 200.0)  # HU that the networks see as 0 and 1: air, and all vessels
AIR = -400.0  # HU; the lungs and what is around the body are darker
HOUNSFIELD = -500.0  # an image that reaches below it holds Hounsfield units
PADDING = -1500.0  # HU; nothing is as dark, so such voxels were never scanned
PADDINGS = (-1024.0, -1000.0)  # so may these where they are the darkest value
ROUGH_MM, VOXEL_MM = 4.0, 2.0  # lungs are looked for at about the first, and outlined at the second
LEAST_LITRES = 0.5  # of both together
LEAST_SHARE = 0.1  # of the larger lung's volume
MOST_CUT = 0.01  # share of a lung's voxels on the sides of the image; of the air around a body it is more
GAS = -960.0  # HU; the mean of bowel gas is darker, that of lungs is not
CLOSING_MM = 6.0  # vessels as wide belong to the lung


def in_hounsfield(image: sitk.Image) -> bool:
    """Whether the grey values can be Hounsfield units; those of magnetic resonance are not as negative."""
    return bool(sitk.GetArrayViewFromImage(image).min() <= HOUNSFIELD)


def segment(image: sitk.Image) -> sitk.Image | None:
    """The lungs of a CT with vessels and airways, float32, voxels of up to 2 mm or its own; None if it shows none.

    Pieces of air of some size that hardly touch the sides of the image; slices may cut through them above and below.
    """
    small = _shrunk(image, ROUGH_MM)
    scanned = _shrunk(unscanned(image), ROUGH_MM) < 0.5
    inner = sitk.BinaryErode((small < AIR) & scanned, [1] * 3, sitk.sitkCross)  # thin bridges are cut
    pieces = sitk.ConnectedComponent(inner)
    labels = sitk.GetArrayViewFromImage(pieces)
    count = np.bincount(labels.ravel())
    litres = count * (1e-6 * float(np.prod(small.GetSpacing())))
    mean = np.bincount(labels.ravel(), sitk.GetArrayViewFromImage(small).ravel()) / np.maximum(count, 1)
    sides = np.concatenate([face.ravel() for face in _sides(labels, image)])
    cut = np.bincount(sides, minlength=len(count)) / np.maximum(count, 1)
    lung = (litres >= LEAST_SHARE * LEAST_LITRES) & (mean > GAS) & (cut < MOST_CUT)
    lung[0] = False  # what is no air
    lung &= litres >= LEAST_SHARE * litres[lung].max(initial=0.0)
    if litres[lung].sum() < LEAST_LITRES:
        return None
    mask = sitk.GetImageFromArray(lung[labels].astype(np.uint8))
    mask.CopyInformation(small)
    mask = sitk.BinaryDilate(mask, [2] * 3, sitk.sitkBall)
    factor = np.array(shrink_factors(Grid.of(image), ROUGH_MM))
    near = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
    last = np.array(small.GetSize()) - 1
    first, end = near.min(0) * factor, np.where(near.max(0) == last, image.GetSize(), (near.max(0) + 1) * factor)
    part = _shrunk(sitk.RegionOfInterest(image, (end - first).tolist(), first.tolist()), VOXEL_MM)
    found = sitk.Resample(mask, part, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8, True)
    inside = found & (part < AIR)  # the last slices, too, that fill no rough voxel
    radius = [max(1, round(0.5 * CLOSING_MM / s)) for s in part.GetSpacing()]
    return sitk.Cast(sitk.BinaryMorphologicalClosing(inside, radius, sitk.sitkBall), sitk.sitkFloat32)


def _shrunk(image: sitk.Image, mm: float) -> sitk.Image:
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), shrink_factors(Grid.of(image), mm))


def _sides(labels: NDArray[Any], image: sitk.Image) -> list[NDArray[Any]]:
    """The four faces of (Z, Y, X) `labels` that do not look up or down the body."""
    direction = np.reshape(image.GetDirection(), (3, 3))
    up = int(np.argmax(np.abs(direction.T @ nearest_lps(direction)[:, 2])))  # index axis along the body
    faces = itertools.product([k for k in range(3) if k != up], (0, -1))
    return [labels.take(end, axis=2 - axis) for axis, end in faces]


def unscanned(image: sitk.Image) -> sitk.Image:
    """1 where a CT in Hounsfield units may be padded, outside the scanner's field of view, or is as dark: uint8."""
    values = sitk.GetArrayViewFromImage(image)
    low = float(values.min())
    padded = values <= max(PADDING, low if low in PADDINGS else PADDING)
    out = sitk.GetImageFromArray(padded.astype(np.uint8))
    out.CopyInformation(image)
    return out
