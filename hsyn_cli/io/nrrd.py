"""Headers of NRRD: http://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io.headers import Header, dimensions, placed
from hsyn_cli.io.text_headers import NO_ORIENTATION, beside, spelt, unit_note, unit_of, whole
from hsyn_cli.space import RAS, SPACES, Array

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "ascii": "text", "text": "text",
             "txt": "text"}  # fmt: skip
DOMAINS = ("domain", "space", "time")
COLOURS = ("rgb-color", "rgba-color", "3-color", "4-color")
VECTORS = ("vector", "covariant-vector", "contravariant-vector", "list", "point", "normal",
           "3-vector", "3-gradient", "3-normal", "2-vector", "4-vector", *COLOURS)  # fmt: skip
KEYS = (
    "dimension", "type", "sizes", "encoding", "endian", "space", "space dimension",
    "space directions", "space origin", "space units", "units", "spacings", "kinds", "data file",
    "byte skip", "line skip", "axis mins", "axis maxs",
)  # fmt: skip


def parse(data: bytes, path: Path, name: str) -> Header:
    """The header of the file at `path`, which begins with `data`.

    Raises ValueError, KeyError and such for a damaged header, InputError, GeometryError.
    """
    if not data.startswith(b"NRRD000"):
        raise ValueError("no NRRD file")
    lines, keys, end = _nrrd_lines(data)
    sizes = [whole(n) for n in lines["sizes"].split()]
    if len(sizes) != whole(lines["dimension"]):
        raise ValueError("dimension and sizes disagree")
    encoding = ENCODINGS.get(lines["encoding"].lower())
    for key in ("line skip", "axis mins", "axis maxs"):
        if lines.get(key, "0").strip("0 "):
            raise InputError(f"{name} uses {key!r}, which hsyn does not read", "save it again")
    if encoding is None:
        raise InputError(
            f"{name} is stored as {lines['encoding'][:20]!r}",
            "save it with the encoding gzip or raw",
        )
    axis, colours = _components(lines, len(sizes))
    inner = sizes[:axis] + sizes[axis + 1 :] if axis is not None else sizes
    count = 1 if axis is None else sizes[axis]
    dim = dimensions(inner, name)
    if axis is not None and axis > 0:  # the numbers of a voxel lie apart
        if axis != len(sizes) - 1 or len(inner) > 3:
            raise ValueError(f"components along axis {axis}")
        dim = (*dimensions(inner, name)[:3], 1, count) if count > 1 else dim
    mm, unit = unit_of(lines.get("space units", lines.get("units", "")).replace('"', " "))
    matrix, notes = _nrrd_matrix(lines, axis, len(inner), mm)
    grid, more = placed(matrix, dim[:3], name)
    file = lines.get("data file")
    skip = whole(lines.get("byte skip", "0"), least=-1)
    dtype = _dtype(TYPES, lines["type"], lines.get("endian"))
    if skip < 0 and file is None and path.stat().st_size - math.prod(sizes) * dtype.itemsize < end:
        raise ValueError("its voxels reach into its header")
    return Header(
        path=path,
        parts=(path,) if file is None else (path, beside(path, file, name)),
        kind="NRRD",
        dim=dim,
        grid=grid,
        dtype=dtype,
        colours=count if axis == 0 else 1,
        coloured=colours,
        offset=skip if skip < 0 else skip + (end if file is None else 0),
        encoding=encoding,
        notes=notes + more + unit_note(mm, unit),
        keys=tuple(keys.items()),
        axes=len(inner),
        mm=mm,
    )


def _nrrd_lines(data: bytes) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, key/value pairs, and where the header ends."""
    lines: dict[str, str] = {}
    keys: dict[str, str] = {}
    end = 0
    for raw in data.split(b"\n"):
        end += len(raw) + 1
        line = raw.decode("utf-8", "surrogateescape").rstrip("\r")
        if not line:
            break
        if line.startswith(("#", "NRRD")):
            continue
        colon = line.index(":")
        key, value = line[:colon].strip(), line[colon + 1 :]
        if value.startswith("="):
            keys[key.lower()] = value[1:].strip()
            continue
        key = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip",
               "axismins": "axis mins", "axismaxs": "axis maxs"}.get(key, key)  # fmt: skip
        key = spelt(key, KEYS)
        if key in lines:
            raise ValueError(f"{key} stands twice")
        lines[key] = value.strip()
    return lines, keys, min(end, len(data))


def _components(lines: dict[str, str], count: int) -> tuple[int | None, bool]:
    """The axis along which the numbers of a voxel stand, None if there is one; if it is colour."""
    kinds = lines.get("kinds", "").lower().split()
    directions = _vectors(lines.get("space directions", ""))
    if kinds and len(kinds) != count:
        raise ValueError("dimension and kinds disagree")
    unknown = [kind for kind in kinds if kind not in (*DOMAINS, *VECTORS, "none", "???")]
    if unknown:
        raise ValueError(f"kind {unknown[0]}")
    found = [k for k, kind in enumerate(kinds) if kind in VECTORS]
    if not found and directions:
        found = [k for k, direction in enumerate(directions) if direction is None]
        found = [k for k in found if not kinds or kinds[k] != "time"]
    if len(found) > 1:
        raise ValueError("components along two axes")
    if not found:
        return None, False
    return found[0], bool(kinds) and kinds[found[0]] in COLOURS


def _vectors(text: str) -> list[Array | None]:
    """`(1,0,0) none (0,1,0)` -> vectors in space, None for none; time is left out."""
    found: list[Array | None] = []
    for part in text.replace("(", " (").replace(")", ") ").replace(", ", ",").split():
        if part.lower() == "none":
            found.append(None)
            continue
        if not (part.startswith("(") and part.endswith(")")):
            raise ValueError(f"vector {part}")
        numbers = [float(n) for n in part[1:-1].split(",")]
        if len(numbers) not in (2, 3, 4):
            raise ValueError(f"vector {part}")
        vector = np.array([*numbers, 0.0])[:3]
        found.append(vector)
    return found


def _nrrd_matrix(
    lines: dict[str, str], axis: int | None, inner: int, mm: float
) -> tuple[Array, tuple[str, ...]]:
    """(4, 4): index -> mm RAS."""
    matrix = np.eye(4)
    directions = _vectors(lines.get("space directions", ""))
    if not directions:
        if "space" in lines or "space origin" in lines:
            raise ValueError("space directions are missing")
        spacings = [float(n) for n in lines.get("spacings", "").split()]
        if axis is not None and spacings:
            del spacings[axis]
        if spacings and len(spacings) != inner:
            raise ValueError("dimension and spacings disagree")
        if any(spacing <= 0 for spacing in spacings[:3]):
            raise ValueError("a voxel size is not positive")
        for k, spacing in enumerate(spacings[:3]):
            matrix[k, k] = spacing * mm
        return RAS @ matrix, (NO_ORIENTATION,)
    if len(directions) != inner + (axis is not None):
        raise ValueError("dimension and space directions disagree")
    if axis is not None:
        del directions[axis]
    columns = [v for v in directions[:3] if v is not None]
    if len(columns) != min(inner, 3):
        raise ValueError("space directions are missing")
    if "space" not in lines and "space dimension" not in lines:
        raise ValueError("space is missing")
    space = lines.get("space", "left-posterior-superior").lower().removesuffix("-time")
    if space not in SPACES:
        raise ValueError(f"space {space}")
    if columns:
        matrix[:3, : len(columns)] = np.stack(columns, axis=1)
    origin = _vectors(lines.get("space origin", "(0,0,0)"))
    if len(origin) != 1 or origin[0] is None:
        raise ValueError("space origin")
    matrix[:3, 3] = origin[0]
    matrix[:3] = np.array(SPACES[space])[:, None] * matrix[:3] * mm
    return RAS @ matrix, ()


def _dtype(types: dict[str, tuple[str, ...]], text: str, endian: str | None) -> np.dtype[Any]:
    code = next((code for code, names in types.items() if text.lower() in names), None)
    if code is None:
        raise ValueError(f"type {text}")
    if code[1] == "1":
        return np.dtype(code)
    if (endian or "").lower() not in ("little", "big"):
        raise ValueError("endian is missing")
    return np.dtype(("<" if str(endian).lower() == "little" else ">") + code)
