"""What an image holds, as -e of antsApplyTransforms says it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.space import Array, Grid


@dataclass(frozen=True)
class Held:
    """`flag`: of -e. `parts`: numbers per voxel; None: more than one. `series`: many volumes."""

    flag: int
    parts: int | None
    series: bool = False


HOLDS = {
    "scalar": Held(0, 1),
    "vector": Held(1, 3),  # along the axes of the image
    "series": Held(3, 1, series=True),
    "channels": Held(4, None),
    "physical": Held(6, 3),  # along those of space
}


def check(name: str, holds: str, parts: int, volumes: int = 1) -> None:
    """Raise InputError unless the image holds what it should; "": anything will do."""
    if not holds:
        return
    held = HOLDS[holds]
    fits = held.series or volumes == 1
    if fits and (parts == held.parts or (held.parts is None and parts > 1)):
        return
    if volumes > 1:
        what, flag = f"{volumes} volumes", "3"
    else:
        what, flag = ("one number", "0") if parts == 1 else (f"{parts} numbers", "4")
        what += " per voxel"
    text = f"{name} holds {what}, which is not what -e {held.flag} says"
    raise InputError(text, f"give -e {flag}")


def turned(vectors: sitk.Image, turn: Array) -> sitk.Image:
    """Each vector v as `turn` @ v, in the pixel type of the image; integers are rounded."""
    values = sitk.GetArrayViewFromImage(vectors)
    out = values @ turn.T
    out = np.rint(out) if values.dtype.kind in "iu" else out
    image = sitk.GetImageFromArray(out.astype(values.dtype), isVector=True)
    return Grid.of(vectors).stamp(image)
