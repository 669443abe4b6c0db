"""Strategies that change files byte by byte, and gzip streams, whatever they hold."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from fuzzing.model import Damaged

Draw = Callable[[st.SearchStrategy[Any]], Any]
RUBBISH = (
    b"\0",
    b"\xff" * 7,
    b"\n",
    b"nan ",
    b"-1 ",
    b"9" * 400,
    b"%s%n",
    b"\xc3\x28",
    b"\0" * 5000,
)


def gzipped(data: bytes, level: int = 1) -> bytes:
    """One gzip member without a time."""
    return gzip.compress(data, level, mtime=0)


@st.composite
def damaged(draw: Draw, data: bytes, appendable: bool = False) -> tuple[bytes, Damaged]:
    """`data` with some bytes flipped, replaced, cut out, inserted, appended or truncated.

    `appendable`: bytes after the end mean nothing in this format.
    """
    how = draw(st.sampled_from(("flip", "truncate", "cut", "insert", "append", "replace", "zero")))
    place = draw(st.integers(0, max(len(data) - 1, 0)) | st.integers(0, min(len(data), 400)))
    place = min(place, max(len(data) - 1, 0))
    rubbish = draw(st.sampled_from(RUBBISH) | st.binary(min_size=1, max_size=12))
    out = bytearray(data)
    if how == "flip" and data:
        bit = draw(st.integers(0, 7))
        out[place] ^= 1 << bit
        return bytes(out), Damaged(f"bit flipped at {place}={bit}")
    if how == "truncate":
        return data[:place], Damaged(f"truncated at {place} of {len(data)}")
    if how == "cut":
        length = draw(st.sampled_from((1, 2, 4, 80, 4096)))
        return data[:place] + data[place + length :], Damaged(f"cut out at {place}={length} bytes")
    if how == "insert":
        out[place:place] = rubbish
        return bytes(out), Damaged(f"inserted at {place}={rubbish[:12]!r}")
    if how == "append":
        return data + rubbish, Damaged(f"appended at end={rubbish[:12]!r}", appendable)
    if how == "replace":
        out[place : place + len(rubbish)] = rubbish[: len(data) - place]
        return bytes(out), Damaged(f"replaced at {place}={rubbish[:12]!r}")
    length = draw(st.sampled_from((1, 4, 64, 4096)))
    length = min(length, len(data) - place)
    out[place : place + length] = bytes(length)
    return bytes(out), Damaged(f"zeroed at {place}={length} bytes")


@st.composite
def odd_gzip(draw: Draw, data: bytes) -> tuple[bytes, Damaged]:
    """A gzip file of `data` that is unusual (neutral) or broken."""
    how = draw(
        st.sampled_from(("members", "named", "stored", "bytes", "bytes", "tail", "sum", "length"))
    )
    if how == "members":
        at = draw(st.integers(0, len(data)))
        empty = gzipped(b"") if draw(st.booleans()) else b""
        members = gzipped(data[:at]) + empty + gzipped(data[at:])
        return members, Damaged("gzip of several members", True)
    if how == "named":
        extra = struct.pack("<H", 6) + b"AB\2\0xy"
        body = gzipped(data)[10:]
        head = b"\x1f\x8b\x08\x1c\1\2\3\4\0\xff" + extra + b"a name.nii\0" + b"a comment\0"
        return head + body, Damaged("gzip with name, comment and extra field", True)
    if how == "stored":
        return gzipped(data, 0), Damaged("gzip without compression", True)
    if how == "bytes":
        zipped, done = draw(damaged(gzipped(data)))
        return zipped, Damaged(f"gzip stream {done.change}")
    if how == "tail":
        rubbish = draw(
            st.sampled_from((bytes(512), b"rubbish" * 9, b"\x1f\x8b", b"\x1f\x8b\x08\0"))
        )
        return gzipped(data) + rubbish, Damaged(f"gzip with a tail={rubbish[:9]!r}")
    whole = gzipped(data)
    if how == "sum":
        return whole[:-8] + struct.pack("<I", zlib.crc32(data) ^ 1) + whole[-4:], Damaged(
            "gzip with a wrong checksum"
        )
    return whole[:-4] + struct.pack("<I", len(data) + 9), Damaged("gzip with a wrong length")
