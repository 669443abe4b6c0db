"""Strategies for NRRD and MetaImage: valid, then their text headers key by key."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from fuzzing.model import Volume

Draw = Callable[[st.SearchStrategy[Any]], Any]
UNITS = {"mm": 1.0, "um": 0.001, "m": 1000.0, "cm": 10.0}  # mm
GEOMETRY = {
    *("space directions", "space origin", "spacings", "Offset", "Position", "Origin"),
    *("TransformMatrix", "Orientation", "Rotation", "ElementSpacing"),
}
# A valid header may lack these, or say something else that fits the voxels.
LAYOUT = {
    *("endian", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "kinds"),
    *("ElementNumberOfChannels", "space units", "DistanceUnits", "byte skip", "HeaderSize"),
    *("space", "space dimension", "BinaryData"),
}
NUMBERS = ("nan", "inf", "-inf", "1e400", "x", "-5", "0", "1e30", "2", "1,5", "0x10", "ä", "9" * 40)
GARBAGE = (
    "", " ", "x", "-1", "0", "1e30", "nan", "9" * 400, "ä€" * 9, "\0", "none", "(", "%s%n", '"',
    "True", "3", "(nan,0,0) (0,1,0) (0,0,1)", "() () ()", "1 " * 3000, "y" * 100_000,
)  # fmt: skip
NEUTRAL = {
    "nrrd": ("# ä comment", "foo:=bar", "number: 7", "old min: 0", "# " + "x" * 5000),
    "meta": ("Comment = a b", "Modality = MET_MOD_MR", "Name = ä", "AnatomicalOrientation = RAI"),
}  # fmt: skip


@dataclass
class Text:
    """A header of `lines`, pairs of a key and a value, and the voxels after it or beside it.

    Attributes:
        data: the voxels, behind `lead` other bytes.
        end: what stands between header and voxels of one file.
        unit: of the lengths, mm.
        oriented: whether the header tells the orientation.
        says_lps: whether vectors are along LPS.
        order: of the bytes of a voxel.
    """

    first: str
    lines: list[list[str]]
    separator: str
    data: bytes
    end: str = ""
    line_end: str = "\n"
    lead: int = 0
    unit: float = 1.0
    oriented: bool = True
    says_lps: bool = True
    order: Literal["<", ">"] = "<"

    def header(self, extra: str = "") -> bytes:
        """The text. `extra`: a whole line before the last key."""
        rows = [f"{key}{self.separator}{value}" for key, value in self.lines]
        if extra:
            rows.insert(len(rows) - 1, extra)
        text = self.line_end.join(filter(None, [self.first, *rows])) + self.line_end
        return (text + (self.line_end if self.end else "")).encode()

    def value(self, key: str) -> str:
        """The value of a key; "" if there is none."""
        return next((value for name, value in self.lines if name == key), "")


def numbers(values: Iterable[float]) -> str:
    """Numbers as text, without loss."""
    return " ".join(repr(float(value)) for value in values)


def vectors(columns: Any) -> str:
    """Columns as NRRD writes vectors."""
    return " ".join(f"({','.join(repr(float(v)) for v in column)})" for column in columns)


def encoded(values: Any, encoding: str) -> bytes:
    """Voxels (x fastest) as raw, gzip, zlib or ascii."""
    raw = bytes(values.tobytes(order="F"))
    if encoding == "gzip":
        return gzip.compress(raw, 1, mtime=0)
    if encoding == "zlib":
        return zlib.compress(raw, 1)
    if encoding == "ascii":
        return (" ".join(str(v) for v in values.ravel(order="F")) + "\n").encode()
    return raw


@st.composite
def changed_text(draw: Draw, text: Text, form: str) -> tuple[str, str, str]:
    """Change one key of `text` in place.

    Returns what was done, a line to add, and what that does to the meaning: "none"; "itk", where
    ITK's reading of the geometry holds; "any" where a reader may guess; "" where only the original
    or a refusal will do.
    """
    how = draw(
        st.sampled_from(
            ("neutral", "drop", "twice", "garbage", "garbage", "number", "number", "ends", "case")
        )
    )
    place = draw(st.integers(0, len(text.lines) - 1))
    key, value = text.lines[place]
    if how == "neutral":
        line = draw(st.sampled_from(NEUTRAL[form]))
        return f"line added={line[:40]}", line, "none"
    lost = "itk" if key in GEOMETRY else "any" if key in LAYOUT else ""
    if how == "drop":
        del text.lines[place]
        return f"{key} dropped", "", lost
    if how == "twice":
        text.lines.insert(place, [key, value])
        # The voxels of MetaImage begin behind the first of these.
        return f"{key} twice", "", "any" if key == "ElementDataFile" else ""
    if how == "garbage":
        text.lines[place][1] = new = draw(st.sampled_from(GARBAGE))
        sure = key in GEOMETRY and new not in ("none", "")
        return f"{key}={new[:30]!r}", "", "" if sure else lost
    if how == "ends":
        text.line_end = draw(st.sampled_from(("\r\n", "\r")))
        return f"lines end in={text.line_end!r}", "", ""
    if how == "case":
        text.lines[place][0] = key.upper()
        return f"{key} in capitals", "", lost
    return _one_number(draw, text, place)


def _one_number(draw: Draw, text: Text, place: int) -> tuple[str, str, str]:
    """Replace one word of a value."""
    key, value = text.lines[place]
    words = value.replace("(", "( ").replace(")", " )").replace(",", " , ").split(" ")
    usable = [k for k, word in enumerate(words) if word not in "(),"]
    at = draw(st.sampled_from(usable)) if usable else 0
    new = draw(st.sampled_from(NUMBERS))
    words[at] = new
    text.lines[place][1] = " ".join(words).replace("( ", "(").replace(" )", ")").replace(" , ", ",")
    legal = key in GEOMETRY and new in ("-5", "0", "1e30", "2", "0x10", "9" * 40)
    smaller = new == "2" and key in ("sizes", "DimSize", *LAYOUT)
    vague = smaller or key in ("space units", "DistanceUnits")
    return f"{key} word={new[:20]}", "", "itk" if legal else "any" if vague else ""


def reread(volume: Volume, text: Text, data: bytes) -> Any:
    """The stored values of raw voxels whose bytes became `data`; None if there are too few."""
    several = volume.kind in ("field", "rgb") and not text.value("kinds").startswith("domain")
    stored = np.moveaxis(volume.stored, -1, 0) if several else volume.stored
    from_end = "-1" in (text.value("byte skip"), text.value("HeaderSize"))
    start = len(data) - stored.nbytes if from_end else text.lead
    if start < 0 or len(data) < start + stored.nbytes:
        return None
    kind = stored.dtype.newbyteorder(text.order)
    new = np.frombuffer(data, kind, stored.size, start).reshape(stored.shape, order="F")
    return np.moveaxis(new, 0, -1) if several else new
