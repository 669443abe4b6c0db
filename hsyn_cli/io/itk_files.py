"""Image files that ITK reads: NRRD, MetaImage, and the formats that nothing else here knows.

ITK fills up what is missing in a file, so the length of NRRD and MetaImage files is checked against
their header first.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.io import files, itk_calls
from hsyn_cli.io.checks import read_error
from hsyn_cli.io.endings import TEXT_HEADED, ends
from hsyn_cli.io.headers import Header, dimensions
from hsyn_cli.space import Grid

LONGEST_HEADER = 1 << 20  # bytes
NRRD_TYPES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: (
        "short", "short int", "signed short", "signed short int", "int16", "int16_t",
        "ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t",
    ),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t",
        "float"),
    8: (
        "longlong", "long long", "long long int", "signed long long", "signed long long int",
        "int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64",
        "uint64_t", "double",
    ),
}  # fmt: skip
META_TYPES = {
    "char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8,
    "long": 4, "ulong": 4, "long_long": 8, "ulong_long": 8,
}  # fmt: skip
# mm
UNITS = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometers": 1e-3, "micrometre": 1e-3, "micrometres": 1e-3, "nm": 1e-6, "cm": 10.0,
    "centimeter": 10.0, "centimeters": 10.0, "m": 1e3, "meter": 1e3, "meters": 1e3, "metre": 1e3,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """How a text header says that the voxels are stored: `length` bytes, or numbers in text."""

    parts: tuple[Path, ...]
    length: int
    offset: int  # in the last of `parts`; -1: they end the file
    encoding: str  # "raw", "gzip", "zlib" or "text"
    unit: str
    keys: tuple[tuple[str, str], ...]


def parse(head: bytes, path: Path, what: str) -> Header:
    """The header of the file at `path`, whose first bytes are `head`.

    Raises InputError (damaged, truncated), GeometryError.
    """
    name = f"{what} {path}"
    stored = _stored(head, path, what)
    reader = sitk.ImageFileReader()
    parts = stored.parts if stored else (path,)
    try:
        with itk_calls.readable(*parts) as readable, itk_calls.silent():
            reader.SetFileName(readable)
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise read_error(name, str(error), error) from error
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} holds complex numbers", "give the magnitude")
    dim = dimensions([int(n) for n in reader.GetSize()], name)
    header = Header(
        path=path,
        parts=parts,
        kind="NRRD or MetaImage" if stored else "another format",
        dim=dim,
        grid=_grid(reader),
        colours=reader.GetNumberOfComponents(),
        keys=stored.keys if stored else (),
        axes=reader.GetDimension(),
    )
    return header if stored is None else _in_mm(header, stored.unit, name)


def check_length(header: Header, what: str) -> None:
    """Raise InputError if a NRRD or MetaImage file holds less than its header says."""
    with files.content(header.path, what) as stream:
        stored = _stored(stream.read(540), header.path, what)
    if stored is None:
        return
    name = f"{what} {header.path}"
    found = _found(stored, what)
    if found < stored.length:
        unit = "numbers" if stored.encoding == "text" else "bytes"
        raise InputError(
            f"{name} is truncated ({found} of {stored.length} {unit})",
            "copy or download the file again",
        )


def load(header: Header, what: str, pixel: int | None) -> sitk.Image:
    """Read the first three axes of an image, in its own pixel type, or scalars in another one."""
    check_length(header, what)
    name = f"{what} {header.path}"
    reader = sitk.ImageFileReader()
    try:
        with itk_calls.readable(*header.parts) as readable, itk_calls.silent():
            reader.SetFileName(readable)
            reader.ReadImageInformation()
            size = reader.GetSize()
            reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
            if pixel is not None and header.colours == 1:
                reader.SetOutputPixelType(pixel)
            image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise read_error(name, str(error), error) from error
    return header.grid.stamp(image)


def _grid(reader: sitk.ImageFileReader) -> Grid:
    n = reader.GetDimension()
    axes = np.eye(3)
    m = min(n, 3)
    axes[:m, :m] = np.array(reader.GetDirection()).reshape(n, n)[:m, :m]
    size, spacing, origin = (
        ([*values, fill, fill])[:3]
        for values, fill in (
            (reader.GetSize(), 1),
            (reader.GetSpacing(), 1.0),
            (reader.GetOrigin(), 0.0),
        )
    )
    return Grid(
        (size[0], size[1], size[2]),
        (spacing[0], spacing[1], spacing[2]),
        (origin[0], origin[1], origin[2]),
        tuple(axes.ravel().tolist()),
    )


def _in_mm(header: Header, unit: str, name: str) -> Header:
    """ITK takes every number for mm."""
    mm = UNITS.get(unit.strip().lower(), 1.0)
    if mm == 1.0:
        return header
    if header.colours == 3 and header.colours != 1:
        raise GeometryError(
            f"{name} holds vectors on a grid in {unit}, not mm", "save it in mm first"
        )
    g = header.grid
    (sx, sy, sz), (x, y, z) = ([v * mm for v in values] for values in (g.spacing, g.origin))
    note = f"its space is in {unit}; ANTs, ITK and others take it for mm and see another size"
    return dataclasses.replace(
        header, grid=Grid(g.size, (sx, sy, sz), (x, y, z), g.direction), notes=(note,)
    )


def _stored(head: bytes, path: Path, what: str) -> Stored | None:
    """What the text header of a NRRD or MetaImage file says; None for other files."""
    name = f"{what} {path}"
    nrrd = head.startswith(b"NRRD00")
    meta = not nrrd and (b"NDims" in head or head.lstrip().startswith(b"ObjectType"))
    if not nrrd and not meta:
        if ends(path, TEXT_HEADED):
            raise InputError(
                f"{name}: its header is damaged, or it is no {path.suffix} file", "copy it again"
            )
        return None
    with files.content(path, what) as stream:
        data = stream.read(LONGEST_HEADER)
    try:
        return (_nrrd if nrrd else _meta)(data, path, name)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{name}: its header is damaged ({text[:80]})", "copy or convert the file again"
        ) from error


def _nrrd(data: bytes, path: Path, name: str) -> Stored:
    """Parse http://teem.sourceforge.net/nrrd/format.html."""
    lines: dict[str, str] = {}
    keys: dict[str, str] = {}
    end = 0
    for raw in data.split(b"\n"):
        end += len(raw) + 1
        line = raw.decode("utf-8", "surrogateescape").strip()
        if not line and lines:
            break
        if line.startswith(("#", "NRRD")):
            continue
        if ":=" in line:
            key, _, value = line.partition(":=")
            keys[key.strip().lower()] = value.strip()
        elif ":" in line:
            key, _, value = line.partition(":")
            lines[key.strip().lower()] = value.strip()
    sizes = [_whole(n) for n in lines["sizes"].split()]
    if len(sizes) != _whole(lines["dimension"]):
        raise ValueError("dimension and sizes disagree")
    each = next((k for k, names in NRRD_TYPES.items() if lines["type"].lower() in names), None)
    if each is None:
        raise ValueError(f"type {lines['type']}")
    encoding = lines["encoding"].lower()
    encoding = {"gz": "gzip", "txt": "text", "ascii": "text"}.get(encoding, encoding)
    if encoding not in ("raw", "gzip", "text"):
        raise InputError(
            f"{name} is stored as {encoding}", "save it with the encoding gzip or raw first"
        )
    file = lines.get("data file", lines.get("datafile"))
    skip = _whole(lines.get("byte skip", lines.get("byteskip", "0")), least=-1)
    if _whole(lines.get("line skip", lines.get("lineskip", "0"))) and file is not None:
        raise InputError(f"{name} skips lines of its data file", "save it as one .nrrd file first")
    count = math.prod(sizes)
    length = count if encoding == "text" else count * each
    units = lines.get("space units", lines.get("units", "")).replace('"', " ").split()
    return Stored(
        parts=(path,) if file is None else (path, _beside(path, file, name)),
        length=length,
        offset=skip if skip < 0 else skip + (end if file is None else 0),
        encoding=encoding,
        unit=units[0] if units and len(set(units)) == 1 else "",
        keys=tuple(keys.items()),
    )


def _meta(data: bytes, path: Path, name: str) -> Stored:
    """Parse https://itk.org/Wiki/ITK/MetaIO/Documentation."""
    fields: dict[str, str] = {}
    end = 0
    for raw in data.split(b"\n"):
        end += len(raw) + 1
        key, _, value = raw.decode("utf-8", "surrogateescape").partition("=")
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    sizes = [_whole(n) for n in fields["dimsize"].split()]
    if len(sizes) != _whole(fields["ndims"]):
        raise ValueError("NDims and DimSize disagree")
    kind = fields["elementtype"].lower().removeprefix("met_").removesuffix("_array")
    count = math.prod(sizes) * _whole(fields.get("elementnumberofchannels", "1"))
    file = fields["elementdatafile"]
    local = file.lower() == "local"
    compressed = fields.get("compresseddata", "").lower() in ("true", "1")
    text = fields.get("binarydata", "true").lower() in ("false", "0")
    skip = _whole(fields.get("headersize", "0"), least=-1)
    return Stored(
        parts=(path,) if local else (path, _beside(path, file, name)),
        length=count if text else count * META_TYPES[kind],
        offset=end if local else skip,
        encoding="text" if text else "zlib" if compressed else "raw",
        unit=fields.get("distanceunits", ""),
        keys=(),
    )


def _whole(text: str, least: int = 0) -> int:
    value = int(text)
    if value < least:
        raise ValueError(f"{value} is too small")
    return value


def _beside(path: Path, file: str, name: str) -> Path:
    """The file of the voxels, whose name is relative to the header's folder."""
    if "%" in file or file.upper().startswith("LIST") or not file:
        raise InputError(f"{name} is spread over several files", "save it as one file first")
    return path.parent / file


def _found(stored: Stored, what: str) -> int:
    """How many bytes, or numbers in text, the file holds; counting ends soon after `length`."""
    data = stored.parts[-1]
    name = f"{what} {stored.parts[0]}"
    with files.content(data, what) as stream:
        if stored.encoding == "raw" and not stream.zipped:
            return stream.size if stored.offset < 0 else stream.size - stored.offset
    with data.open("rb") as file:
        file.seek(max(stored.offset, 0))
        if stored.encoding == "text":
            return len(file.read().split())
        if stored.encoding == "raw":  # ITK reads no gzipped file of raw voxels
            raise InputError(f"{name}: {data.name} is gzipped", "unpack it first")
        try:
            return _inflated(file, 31 if stored.encoding == "gzip" else 15, stored.length)
        except zlib.error as error:
            raise InputError(
                f"{name}: the compressed voxels are damaged", "copy or download the file again"
            ) from error


def _inflated(file: IO[bytes], bits: int, enough: int) -> int:
    """How many bytes a compressed stream holds; counting ends soon after `enough`."""
    inflate, found = zlib.decompressobj(bits), 0
    while found < enough and (chunk := file.read(files.CHUNK)):
        while chunk and found < enough:
            found += len(inflate.decompress(chunk, files.CHUNK))
            chunk = inflate.unconsumed_tail
    return found
