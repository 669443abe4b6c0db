"""NRRD and MetaImage: text headers, before the voxels or in a file of their own.

What ITK makes of a damaged header ranges from other voxels to a crash, so hsyn parses them itself,
and refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsyn_cli.errors import InputError
from hsyn_cli.io import files
from hsyn_cli.io.endings import ends
from hsyn_cli.io.headers import Header

LONGEST = 1 << 20  # bytes of a header
META = (".mha", ".mhd")
MM = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometers": 1e-3, "micrometre": 1e-3, "micrometres": 1e-3, "nm": 1e-6, "cm": 10.0,
    "centimeter": 10.0, "centimeters": 10.0, "m": 1e3, "meter": 1e3, "meters": 1e3, "metre": 1e3,
}  # fmt: skip
NO_ORIENTATION = "the header gives no orientation; hsyn assumes LPS axes"


def claims(head: bytes, path: Path) -> bool:
    """True for a file that is, or by its name should be, NRRD or MetaImage."""
    return head.startswith(b"NRRD") or ends(path, (".nrrd", ".nhdr", *META))


def parse(path: Path, what: str) -> Header:
    """The header of a file. Raises InputError, GeometryError."""
    from hsyn_cli.io import metaimage, nrrd

    name = f"{what} {path}"
    with files.content(path, what, zipped=False) as stream:
        data = stream.read(LONGEST)
    try:
        if ends(path, META):
            return metaimage.parse(data, path, name)
        return nrrd.parse(data, path, name)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{name}: its header is damaged ({text[:80]})", "copy or convert the file again"
        ) from error


def spelt(key: str, known: Iterable[str]) -> str:
    """A key in lower case.

    Raises ValueError for one that programs would overlook for its capitals or blanks.
    """
    plain = "".join(key.split()).lower()
    alike = [name for name in known if "".join(name.split()).lower() == plain]
    if alike and key not in alike:
        raise ValueError(f"{key} should be {alike[0]}")
    return key.lower()


def unit_of(text: str) -> tuple[float, str]:
    """The unit of all axes in mm, and its name; unknown ones count as mm."""
    units = sorted({word.lower() for word in text.split() if word.lower() in MM})
    if len({MM[unit] for unit in units}) > 1:
        raise ValueError(f"units {' and '.join(units)}")
    return (MM[units[0]], units[0]) if units else (1.0, "mm")


def unit_note(mm: float, unit: str) -> tuple[str, ...]:
    """A note if the unit is not mm."""
    if mm == 1:
        return ()
    return (f"its space is in {unit}; ANTs, ITK and others take it for mm and see another size",)


def whole(text: str, least: int = 0) -> int:
    """A whole number. Raises ValueError."""
    value = int(text)
    if value < least:
        raise ValueError(f"{value} is too small")
    return value


def beside(path: Path, file: str, name: str) -> Path:
    """The file of the voxels, whose name is relative to the header's folder."""
    if "%" in file or file.upper().startswith("LIST") or not file:
        raise InputError(f"{name} is spread over several files", "save it as one file first")
    found = path.parent / file
    try:
        missing = not found.exists()
    except (OSError, ValueError):
        missing = True
    if missing:
        raise InputError(
            f"{name}: the file of its voxels, {file[:80]}, is missing", "copy both files"
        )
    return found
