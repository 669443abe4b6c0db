"""Headers of MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io.headers import Header, dimensions, placed
from hsyn_cli.io.text_headers import NO_ORIENTATION, beside, spelt, unit_note, unit_of, whole
from hsyn_cli.space import RAS, Array

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "long": "i4", "ulong": "u4", "long_long": "i8", "ulong_long": "u8", "float": "f4",
    "double": "f8",
}  # fmt: skip
KEYS = (
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
    "CompressedData", "CompressedDataSize", "TransformMatrix", "Rotation", "Orientation", "Offset",
    "Position", "Origin", "ElementSpacing", "ElementSize", "DimSize", "HeaderSize", "ElementType",
    "ElementNumberOfChannels", "ElementDataFile", "DistanceUnits",
    "ElementToIntensityFunctionSlope",
)  # fmt: skip


def parse(data: bytes, path: Path, name: str) -> Header:
    """The header of the file at `path`, which begins with `data`.

    Raises ValueError, KeyError and such for a damaged header, InputError, GeometryError.
    """
    fields: dict[str, str] = {}
    end = 0
    for raw in data.split(b"\n"):
        end += len(raw) + 1
        key, equals, value = raw.decode("utf-8", "surrogateescape").partition("=")
        key = spelt(key.strip(), KEYS)
        if not equals:
            raise ValueError(f"line {raw[:20].decode('latin-1')!r}")
        if key in fields:
            raise ValueError(f"{key} stands twice")
        fields[key] = value.strip()
        if key == "elementdatafile":
            break
    sizes = [whole(n) for n in fields["dimsize"].split()]
    if len(sizes) != whole(fields["ndims"]):
        raise ValueError("NDims and DimSize disagree")
    if float(fields.get("elementtointensityfunctionslope", "1")) != 1:
        raise InputError(f"{name} scales its values, which ITK ignores", "save it without")
    n, dim = len(sizes), dimensions(sizes, name)
    mm, unit = unit_of(fields.get("distanceunits", "mm"))
    matrix, notes = _meta_matrix(fields, n, mm)
    grid, more = placed(matrix, dim[:3], name)
    file = fields["elementdatafile"]
    local = file.lower() == "local"
    big = _true(fields, "elementbyteordermsb", _true(fields, "binarydatabyteordermsb", False))
    kind = fields["elementtype"].lower().removeprefix("met_").removesuffix("_array")
    return Header(
        path=path,
        parts=(path,) if local else (path, beside(path, file, name)),
        kind="MetaImage",
        dim=dim,
        grid=grid,
        dtype=np.dtype((">" if big else "<") + TYPES[kind]),
        colours=whole(fields.get("elementnumberofchannels", "1"), least=1),
        offset=end if local else whole(fields.get("headersize", "0"), least=-1),
        encoding=_encoding(fields),
        notes=notes + more + unit_note(mm, unit),
        axes=n,
        mm=mm,
    )


def _meta_matrix(fields: dict[str, str], n: int, mm: float) -> tuple[Array, tuple[str, ...]]:
    """(4, 4): index -> mm RAS. A row of TransformMatrix is the direction of an axis, in LPS."""

    def numbers(names: tuple[str, ...], count: int, default: Array) -> Array:
        text = next((fields[key] for key in names if key in fields), None)
        values = default if text is None else np.array([float(v) for v in text.split()])
        if values.shape != (count,):
            raise ValueError(f"{names[0]} has {values.size} numbers")
        return values

    axes = numbers(("transformmatrix", "rotation", "orientation"), n * n, np.eye(n).ravel())
    spacing = numbers(("elementspacing", "elementsize"), n, np.ones(n))
    origin = numbers(("offset", "position", "origin"), n, np.zeros(n))
    if (spacing <= 0).any():
        raise ValueError("a voxel size is not positive")
    m, matrix = min(n, 3), np.eye(4)
    matrix[:m, :m] = axes.reshape(n, n).T[:m, :m] * spacing[:m] * mm
    matrix[:m, 3] = origin[:m] * mm
    told = {"transformmatrix", "rotation", "orientation"} & fields.keys()
    return RAS @ matrix, () if told else (NO_ORIENTATION,)


def _encoding(fields: dict[str, str]) -> str:
    if not _true(fields, "binarydata", True):
        return "text"
    return "zlib" if _true(fields, "compresseddata", False) else "raw"


def _true(fields: dict[str, str], key: str, default: bool) -> bool:
    text = fields.get(key, str(default)).lower()
    if text not in ("true", "false", "1", "0", "t", "f"):
        raise ValueError(f"{key} is {text[:20]}")
    return text in ("true", "1", "t")
