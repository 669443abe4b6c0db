"""How programs write displacement fields: what the header says, and what the vectors mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuzzing.model import LPS, Array


@dataclass(frozen=True)
class Style:
    """One way. `option`: as someone names it; "": nobody can.

    `intent`, `name`, `parameter`: of the header; `speaks`: whether they say all. `absolute`: the
    vectors are positions. `stacked`: the file may be (X, Y, Z, 3).
    """

    option: str
    intent: int = 1007
    name: bytes = b""
    parameter: float = 0.0
    speaks: bool = True
    absolute: bool = False
    stacked: bool = False


STYLES: Mapping[str, Style] = {
    "itk": Style("itk"),
    "ras": Style("ras", 1006),
    "fsl": Style("fsl", 2006, stacked=True),
    "voxel": Style("voxel", 0, speaks=False, stacked=True),
    "positions": Style("positions", 1007, speaks=False, absolute=True),
    "spm": Style("spm", 1007, b"Mapping", absolute=True),
    "niftyreg": Style("niftyreg", 1007, b"NREG_TRANS", 1.0),
    "niftyreg positions": Style("niftyreg", 1007, b"NREG_TRANS", 0.0, absolute=True),
}
RAS_STYLES = ("ras", "spm", "niftyreg", "niftyreg positions")


def points(shape: tuple[int, ...], lps: Array) -> Array:
    """(X, Y, Z, 3): the centres of the voxels, mm LPS; `lps`: index -> LPS."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape[:3]], indexing="ij"), -1)
    return np.asarray(index @ lps[:3, :3].T + lps[:3, 3])


def to_lps(values: Array, lps: Array, style: str) -> Array:
    """Vectors (X, Y, Z, 3) of a style as displacements, mm LPS; both images have one grid."""
    linear = lps[:3, :3]
    if style == "fsl":
        linear = linear / np.linalg.norm(linear, axis=0)
        if np.linalg.det(linear) > 0:
            linear = linear * (-1.0, 1.0, 1.0)
    elif style in RAS_STYLES:
        linear = LPS[:3, :3]
    elif style != "voxel":
        linear = np.eye(3)
    moved = np.asarray(values @ linear.T)
    return moved - points(values.shape, lps) if STYLES[style].absolute else moved


def positions(values: Array, lps: Array, style: str) -> Array:
    """Displacements (X, Y, Z, 3) in the axes of a style as its positions."""
    turn = LPS[:3, :3] if style in RAS_STYLES else np.eye(3)
    return np.asarray(values + points(values.shape, lps) @ turn.T)


def said(found: Mapping[str, Any], option: str | None) -> str | None:
    """The style of a field by its header and by what someone named; None: no field can be read."""
    name = bytes(found.get("intent_name", b"")).split(b"\0")[0].strip()
    intent, parameter = found.get("intent_code", 0), found.get("intent_p1", 0.0)
    by_name = {b"Mapping": "spm", b"NREG_TRANS": "niftyreg"}.get(name)
    if option == "niftyreg" or (option is None and by_name == "niftyreg"):
        return {0.0: "niftyreg positions", 1.0: "niftyreg"}.get(parameter)
    if option is not None:
        return option
    return {1006: "ras", 2006: "fsl"}.get(intent) or by_name or ("itk" if intent == 1007 else None)
