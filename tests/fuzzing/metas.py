"""Strategies for valid MetaImage files: https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.model import LPS, Volume
from fuzzing.texts import UNITS, Text, encoded, numbers

Draw = Callable[[st.SearchStrategy[Any]], Any]
TYPES = {
    "i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT",
    "i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE",
}  # fmt: skip


@st.composite
def metas(draw: Draw, volume: Volume, encoding: str, name: str) -> Text:
    """A MetaImage file. `name`: of the file of its voxels; "": it holds them itself."""
    order = draw(st.sampled_from("<>"))
    several = volume.kind in ("field", "rgb")
    stored = np.moveaxis(volume.stored, -1, 0) if several else volume.stored
    data = stored.astype(stored.dtype.newbyteorder(order))
    shape = data.shape[several:]
    n = len(shape)
    unit = draw(st.sampled_from(("", "", "", "mm", "um", "cm")))
    mm = UNITS.get(unit, 1.0)
    lps, spacing, matrix = LPS @ volume.affine, volume.spacing, np.eye(n)
    matrix[:3, :3] = (lps[:3, :3] / spacing).T
    body = encoded(data, encoding)
    true, false = draw(st.sampled_from((("True", "False"), ("true", "false"))))
    lead, skip = (b"", 0) if not name or encoding != "raw" else draw(_skip())
    msb, offset, axes = draw(
        st.sampled_from(
            (
                ("BinaryDataByteOrderMSB", "Offset", "TransformMatrix"),
                ("ElementByteOrderMSB", "Position", "Orientation"),
                ("BinaryDataByteOrderMSB", "Origin", "Rotation"),
            )
        )
    )
    kind = f"MET_{TYPES[volume.stored.dtype.str[1:]]}"
    lines = [
        ["ObjectType", "Image"],
        ["NDims", str(n)],
        ["BinaryData", false if encoding == "ascii" else true],
        [msb, true if order == ">" else false],
        ["CompressedData", true if encoding == "zlib" else false],
        *([["CompressedDataSize", str(len(body))]] if encoding == "zlib" else []),
        [axes, numbers(matrix.ravel())],
        [offset, numbers([*(lps[:3, 3] / mm), *[0.0] * (n - 3)])],
        ["CenterOfRotation", " ".join("0" * n)],
        ["ElementSpacing", numbers([*(spacing / mm), *[1.0] * (n - 3)])],
        ["DimSize", " ".join(map(str, shape))],
        *([["DistanceUnits", unit]] if unit else []),
        *([["HeaderSize", str(skip)]] if skip else []),
        *([["ElementNumberOfChannels", "3"]] if several else []),
        ["ElementType", kind + "_ARRAY" * (several and draw(st.booleans()))],
        ["ElementDataFile", name or "LOCAL"],
    ]
    return Text("", lines, " = ", lead + body, lead=len(lead), unit=mm, order=order)


@st.composite
def _skip(draw: Draw) -> tuple[bytes, int]:
    """Bytes before the voxels, and HeaderSize; -1: the voxels end the file."""
    if draw(st.integers(0, 3)):
        return b"", 0
    lead = draw(st.binary(min_size=1, max_size=40))
    return lead, draw(st.sampled_from((len(lead), -1)))
