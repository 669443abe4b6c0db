"""How the grey values of a body change with depth, which tells T1 brains from others. Ours."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.intensity import BRIGHT, Intensities

LOOK_MM = 3.0  # voxels of the look, for 1.5 litres; as large a share of other bodies
LITRES = 1.5
NEAR, FAR = (0.1, 0.2), (0.2, 0.3)  # depths, as shares of the radius of a ball as large


def brighter_inside(image: sitk.Image, grey: Intensities) -> float:
    """The median grey value of a body's inner layer, divided by that of the layer around it.

    White matter lies below grey matter: it is brighter in T1, and darker in T2, FLAIR and proton
    density. The layers lie at `NEAR` and `FAR`. NaN: the image shows nothing to measure.
    """
    bright = grey.low + BRIGHT * (grey.high - grey.low)
    share = float((sitk.GetArrayViewFromImage(image)[::2, ::2, ::2] > bright).mean())
    litres = 1e-6 * share * image.GetNumberOfPixels() * float(np.prod(image.GetSpacing()))
    step = LOOK_MM * (litres / LITRES) ** (1 / 3)
    factors = [max(1, round(step / s)) for s in image.GetSpacing()]
    small = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    small = sitk.ConstantPad(small, [1] * 3, [1] * 3, float(grey.low))
    body = sitk.BinaryFillhole(small > bright)
    inside = sitk.GetArrayViewFromImage(body)
    if not inside.any():
        return float("nan")
    deep = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(body, insideIsPositive=True, squaredDistance=False,
                                     useImageSpacing=True)
    )  # fmt: skip
    radius = (0.75 / np.pi * inside.sum() * np.prod(small.GetSpacing())) ** (1 / 3)
    values = sitk.GetArrayViewFromImage(small) - grey.low
    layers = [values[(deep > low * radius) & (deep <= high * radius)] for low, high in (NEAR, FAR)]
    if not all(layer.size for layer in layers):
        return float("nan")
    outer, inner = (float(np.median(layer)) for layer in layers)
    return inner / outer if outer > 0 else float("nan")
