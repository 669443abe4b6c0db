"""Files of points in mm, LPS: CSV with ANTs' header (x,y,z,t,...) and legacy VTK.

Only the coordinates of a file change: other columns, polygons and scalars keep their bytes.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io import files
from hsyn_cli.space import Array

HEADER = "x,y,z,t"
AXES = ("x", "y", "z")
NUMBERS = "coordinates must be numbers in mm, LPS"
VTK_POINTS = re.compile(rb"^POINTS[ \t]+(\d+)[ \t]+(\w+)[ \t]*\r?\n", re.IGNORECASE | re.MULTILINE)
VTK_TYPES = {b"float": ">f4", b"double": ">f8"}  # of a BINARY file


@dataclass(frozen=True)
class PointFile:
    """`points`: (N, 3), LPS mm. `rewritten`: makes the content of the file with N other points."""

    points: Array
    rewritten: Callable[[Array], bytes]
    sha256: str


def read(path: Path, what: str = "points", dimension: int = 3) -> PointFile:
    """Read a .csv or .vtk file. `dimension`: in 2-D, a .csv may lack the column z; z is then 0.

    Raises InputError if the file is unreadable, lacks a column, has text for a number or no points.
    """
    content: list[bytes] = []
    sha256 = files.fingerprint(path, what, content.append).sha256
    data, name = b"".join(content), f"{what} {path}"
    points, rewritten = (
        _vtk(data, name) if data.startswith(b"# vtk") else _csv(data, name, dimension == 2)
    )
    if not len(points):
        raise InputError(f"{name} holds no points", "give a file with at least one")
    return PointFile(points, rewritten, sha256)


Parsed = tuple[Array, Callable[[Array], bytes]]


def _csv(data: bytes, name: str, flat: bool) -> Parsed:
    text = data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise InputError(f"{name} is not a text file", "give a .csv or a legacy .vtk file")
    reader = csv.reader(io.StringIO(text, newline=""))
    rows, lines = [], []
    for row in reader:
        rows.append(row)
        lines.append(reader.line_num)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    axes = AXES[:2] if flat and "z" not in header else AXES
    missing = [axis for axis in axes if axis not in header]
    if missing:
        hint = f"the first line must name the columns, e.g. {HEADER}; coordinates in mm, LPS"
        raise InputError(f"{name} has no column {', '.join(missing)}", hint)
    columns = [header.index(axis) for axis in axes]
    filled = [k for k, row in enumerate(rows) if k and any(cell.strip() for cell in row)]
    points = np.zeros((len(filled), 3))
    for point, k in zip(points, filled, strict=True):
        point[: len(columns)] = _row(rows[k], columns, f"{name} line {lines[k]}")

    def rewritten(moved: Array) -> bytes:
        for k, point in zip(filled, moved, strict=True):
            for column, value in zip(columns, point, strict=False):
                rows[k][column] = f"{value:.6f}"
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue().encode("utf-8", "surrogateescape")

    return points, rewritten


def _row(row: list[str], columns: list[int], line: str) -> list[float]:
    if len(row) <= max(columns):
        raise InputError(f"{line} has only {len(row)} column(s)", "complete the line or remove it")
    return [
        _number(row[k], f"{line}, column {axis}") for axis, k in zip(AXES, columns, strict=False)
    ]


def _number(text: str, place: str) -> float:
    value = _float(text)
    if not math.isfinite(value):
        raise InputError(f"{place}: {text.strip()[:40]!r} is not a number", NUMBERS)
    return value


def _float(text: str | bytes) -> float:
    """Parse a number; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _vtk(data: bytes, name: str) -> Parsed:
    lines = data.split(b"\n", 3)
    kind = lines[2].strip().upper() if len(lines) > 3 else b""
    if kind not in (b"ASCII", b"BINARY"):
        raise InputError(
            f"{name} is not a legacy VTK file", "its third line must be ASCII or BINARY"
        )
    if b"SPACE=RAS" in lines[1]:
        raise InputError(
            f"{name} says that its points are RAS", "save it as LPS, which the transforms need"
        )
    match = VTK_POINTS.search(data)
    if match is None:
        raise InputError(f"{name} has no POINTS", "give a PolyData file with POINTS n float")
    count, start = int(match[1]), match.end()
    if kind == b"ASCII":
        return _vtk_ascii(data, start, count, name)
    dtype = VTK_TYPES.get(match[2].lower())
    if dtype is None:
        raise InputError(
            f"{name} holds points of type {match[2].decode()!r}", "save them as float or double"
        )
    end = start + 3 * count * np.dtype(dtype).itemsize
    if len(data) < end:
        raise InputError(f"{name} is truncated ({len(data)} of {end} bytes)", "copy the file again")
    points = np.frombuffer(data[start:end], dtype).astype(np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise InputError(f"{name} holds NaN or infinite coordinates", "remove those points")
    return points, lambda moved: data[:start] + moved.astype(dtype).tobytes() + data[end:]


def _vtk_ascii(data: bytes, start: int, count: int, name: str) -> Parsed:
    cells = data[start:].split(None, 3 * count)
    rest = cells.pop() if len(cells) > 3 * count else b""
    values = np.array([_float(cell) for cell in cells])
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        token = next(itertools.islice(re.finditer(rb"\S+", data[start:]), int(bad[0]), None))
        line = data.count(b"\n", 0, start + token.start()) + 1
        raise InputError(
            f"{name} line {line}: {token[0][:40].decode('latin-1')!r} is not a number", NUMBERS
        )
    if len(values) < 3 * count:
        text = f"{name} is truncated ({len(values)} of {3 * count} coordinates)"
        raise InputError(text, "copy the file again")
    end = len(data[: len(data) - len(rest)].rstrip())

    def rewritten(moved: Array) -> bytes:
        text = "\n".join(f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in moved)
        return data[:start] + text.encode() + data[end:]

    return values.reshape(-1, 3), rewritten
