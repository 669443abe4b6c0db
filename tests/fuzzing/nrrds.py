"""Strategies for valid NRRD files: http://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.model import LPS, Volume
from fuzzing.texts import UNITS, Text, encoded, vectors

Draw = Callable[[st.SearchStrategy[Any]], Any]
TYPES = {
    "i1": ("int8", "signed char"),
    "u1": ("uchar", "unsigned char", "uint8"),
    "i2": ("short", "int16", "signed short int"),
    "u2": ("unsigned short", "ushort", "uint16_t"),
    "i4": ("int", "int32", "signed int"),
    "u4": ("uint32", "unsigned int"),
    "i8": ("int64", "long long int"),
    "u8": ("uint64", "unsigned long long"),
    "f4": ("float",),
    "f8": ("double",),
}
SPACES = {
    "left-posterior-superior": LPS, "LPS": LPS, "right-anterior-superior": np.eye(4),
    "RAS": np.eye(4), "left-anterior-superior": np.diag([-1.0, 1, 1, 1]), "": LPS,
}  # fmt: skip
SAYS_LPS = ("left-posterior-superior", "LPS")
ENCODINGS = {"raw": ("raw",), "gzip": ("gzip", "gz"), "ascii": ("ascii", "text", "txt")}


@st.composite
def nrrds(draw: Draw, volume: Volume, encoding: str, name: str) -> Text:
    """A NRRD file. `name`: of the file of its voxels; "": it holds them itself."""
    order = draw(st.sampled_from("<>"))
    several = volume.kind in ("field", "rgb")
    last = volume.kind == "series" or (several and draw(st.integers(0, 4)) == 0)
    stored = volume.stored if last or not several else np.moveaxis(volume.stored, -1, 0)
    data = stored.astype(stored.dtype.newbyteorder(order))
    oriented = draw(st.integers(0, 7)) > 0
    space = draw(st.sampled_from(tuple(SPACES)))
    unit = draw(st.sampled_from(("", "", "mm", "um", "m", "cm"))) if oriented else ""
    affine = SPACES[space] @ volume.affine
    affine[:3] /= UNITS.get(unit, 1.0)
    kind = draw(st.sampled_from(("vector", "3-vector", "covariant-vector", "list", "")))
    kind = str({"rgb": "RGB-color", "series": "time"}.get(volume.kind, kind))
    none: list[str] = [] if data.ndim == 3 else ["none"]
    places = [f"({','.join(repr(float(v)) for v in column)})" for column in affine[:3, :3].T]
    lines = [
        ["type", draw(st.sampled_from(TYPES[volume.stored.dtype.str[1:]]))],
        ["dimension", str(data.ndim)],
        ["sizes", " ".join(map(str, data.shape))],
        ["endian", "little" if order == "<" else "big"],
        ["encoding", draw(st.sampled_from(ENCODINGS[encoding]))],
    ]
    if oriented:
        lines[2:2] = [["space", space]] if space else [["space dimension", "3"]]
        lines.append(["space directions", " ".join(places + none if last else none + places)])
        lines.append(["space origin", vectors([affine[:3, 3]])])
    else:
        sizes = [repr(v) for v in volume.spacing.tolist()]
        nan = ["nan"] * len(none)
        lines.append(["spacings", " ".join(sizes + nan if last else nan + sizes)])
    kinds = [kind] * len(none)
    if kind and (none or not oriented or draw(st.booleans())):
        domains = ["domain"] * 3
        lines.append(["kinds", " ".join(domains + kinds if last else kinds + domains)])
    if unit:
        lines.append(["space units", " ".join([f'"{unit}"'] * 3)])
    lines += draw(_more(data.ndim))
    lead, skip = draw(_skip(encoding))
    lines += [["byte skip", str(skip)]] * bool(skip)
    lines += [["data file", name]] * bool(name)
    return Text(
        f"NRRD000{draw(st.sampled_from((4, 5)))}",
        lines,
        ": ",
        lead + encoded(data, encoding),
        "" if name else "\n",
        lead=len(lead),
        unit=UNITS.get(unit, 1.0),
        oriented=oriented,
        says_lps=space in SAYS_LPS and kind not in ("list", "") and oriented,
        order=order,
    )


@st.composite
def _more(draw: Draw, dimension: int) -> list[list[str]]:
    """Fields that change nothing."""
    every = [
        ["centerings", " ".join(["cell"] * dimension)],
        ["labels", " ".join(['"ä"'] * dimension)],
        ["content", "a: name"],
        ["sample units", '"HU"'],
    ]
    return [pair for pair in every if draw(st.integers(0, 5)) == 0]


@st.composite
def _skip(draw: Draw, encoding: str) -> tuple[bytes, int]:
    """Bytes before the voxels, and how the header tells; -1: the voxels end the file."""
    if encoding != "raw" or draw(st.integers(0, 3)):
        return b"", 0
    lead = draw(st.binary(min_size=1, max_size=40))
    return lead, draw(st.sampled_from((len(lead), -1)))
