"""NaN as background: programs mark what lies outside a brain or a scan with NaN."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.io.checks import not_finite
from hsyn_cli.space import Grid


def as_background(image: sitk.Image, name: str) -> tuple[sitk.Image, tuple[str, ...]]:
    """Replace NaN that is connected to the border of a scalar image, with a line that says so.

    It becomes 0, or the darkest value if that is less. An image without NaN is returned as it is.
    Raises InputError for NaN inside the image and for infinite values.
    """
    view = sitk.GetArrayViewFromImage(image)
    if view.dtype.kind != "f" or np.isfinite((view.min(), view.max())).all():
        return image, ()
    values = sitk.GetArrayFromImage(image)
    missing = np.isnan(values)
    outside = _touching_border(missing)
    inside = int((missing & ~outside).sum()) + int(np.isinf(values).sum())
    if inside or missing.all():
        raise not_finite(name, inside or missing.size)
    fill = min(0.0, float(values[~missing].min()))
    values[missing] = fill
    share = f"{100 * float(missing.mean()):.2g} % of the voxels"
    note = f"{name}: NaN at the border, {share}, counts as background ({fill:g})"
    return Grid.of(image).stamp(sitk.GetImageFromArray(values)), (note,)


def _touching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask, (Z, Y, X), that reach the border."""
    parts = sitk.GetArrayFromImage(
        sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), False)
    )
    wide = [axis for axis in range(3) if mask.shape[axis] > 1]
    faces = [parts.take(end, axis) for axis in wide for end in (0, -1)]
    touching = np.unique(np.concatenate([face.ravel() for face in faces]))
    found: NDArray[np.bool_] = mask & np.isin(parts, touching[touching > 0])
    return found
