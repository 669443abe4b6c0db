"""How deep voxels lie in a body: it tells T1 brains from others, and where a head has its brain.

Ours.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import BRIGHT, Intensities, read_intensities
from hsyn_cli.space import Grid

LOOK_MM = 3.0  # voxels of the look, for 1.5 litres; as large a share of other bodies
LITRES = 1.5
NEAR, FAR = (0.1, 0.2), (0.2, 0.3)  # depths, as shares of the radius of a ball as large
HEAD_MM = 4.0  # voxels of the look at a head
CLOSED = 2  # of these voxels: nostrils and the like are narrower than twice that
SCALP_MM, BRAIN_MM = 15.0, 90.0  # skin and skull; how far a brain reaches from its middle


def brighter_inside(image: sitk.Image, grey: Intensities) -> float:
    """The median grey value of a body's inner layer, divided by that of the layer around it.

    White matter lies below grey matter: it is brighter in T1, and darker in T2, FLAIR and proton
    density. The layers lie at `NEAR` and `FAR`. NaN: the image shows nothing to measure.
    """
    bright = grey.low + BRIGHT * (grey.high - grey.low)
    share = float((sitk.GetArrayViewFromImage(image)[::2, ::2, ::2] > bright).mean())
    litres = 1e-6 * share * image.GetNumberOfPixels() * float(np.prod(image.GetSpacing()))
    step = LOOK_MM * (litres / LITRES) ** (1 / 3)
    small = _small(image, grey, step)
    body = sitk.BinaryFillhole(small > bright)
    inside = sitk.GetArrayViewFromImage(body)
    if not inside.any():
        return float("nan")
    deep = _depths(body)
    radius = (0.75 / np.pi * inside.sum() * np.prod(small.GetSpacing())) ** (1 / 3)
    values = sitk.GetArrayViewFromImage(small) - grey.low
    layers = [values[(deep > low * radius) & (deep <= high * radius)] for low, high in (NEAR, FAR)]
    if not all(layer.size for layer in layers):
        return float("nan")
    outer, inner = (float(np.median(layer)) for layer in layers)
    return inner / outer if outer > 0 else float("nan")


def middle(image: sitk.Image) -> sitk.Image | None:
    """A mask of about the brain in a whole head, on the grid of the head; None: it shows nothing.

    It is what lies deeper than `SCALP_MM`, and within `BRAIN_MM` of the deepest points: necks are
    thinner than the head is at its brain. No grey value within counts, so all contrasts will do.
    """
    grey = read_intensities(image)
    small = _small(image, grey, HEAD_MM)
    body = small > grey.low + BRIGHT * (grey.high - grey.low)
    body = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(body, [CLOSED] * 3))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(body))
    deep = _depths(parts == 1)
    if not (deep > SCALP_MM).any():
        return None
    places = Grid.of(small).points(np.argwhere(deep > SCALP_MM)[:, ::-1].astype(float))
    centre = places[deep[deep > SCALP_MM] > deep.max() - HEAD_MM].mean(0)
    inside = np.zeros(deep.shape, np.uint8)
    inside[deep > SCALP_MM] = np.linalg.norm(places - centre, axis=1) < BRAIN_MM
    mask = Grid.of(small).stamp(sitk.GetImageFromArray(inside))
    return sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)


def _small(image: sitk.Image, grey: Intensities, mm: float) -> sitk.Image:
    """`image` on voxels of about `mm`, with a dark border."""
    factors = [max(1, round(mm / s)) for s in image.GetSpacing()]
    small = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    return sitk.ConstantPad(small, [1] * 3, [1] * 3, float(grey.low))


def _depths(body: sitk.Image) -> NDArray[np.float32]:
    """(Z, Y, X): the distance in mm to what is not the body; negative outside it."""
    deep = sitk.SignedMaurerDistanceMap(
        body, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(sitk.GetArrayFromImage(deep))
