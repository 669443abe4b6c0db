"""Files as bytes: fingerprints of inputs, tables, file names and fast gzip."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from isal import igzip, isal_zlib

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io.endings import WRITABLE, ends

CHUNK = 4 << 20  # bytes read at a time
PIECE = 1 << 20  # bytes compressed at a time
GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no flags, no time, no system
GZIP_END = b"\x03\0"  # an empty last block
Buffer = bytes | memoryview


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` of the file on disk; `length` of its gunzipped content in bytes."""

    sha256: str
    length: int


@contextlib.contextmanager
def gunzipped(path: Path, what: str = "file") -> Iterator[IO[bytes]]:
    """Yield the content of a file as a stream, gunzipped if necessary.

    Raises InputError if the file is missing, unreadable or empty, or if its gzip stream is broken.
    """
    check_file(path, what)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"{what} {path}: {error.strerror}", "check the file's permissions"
        ) from error
    with file:
        magic = file.read(2)
        if not magic:
            raise InputError(f"{what} {path}: the file is empty", "copy or download the file again")
        file.seek(0)
        try:
            yield igzip.open(file) if magic == b"\x1f\x8b" else file
        except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
            state = "truncated" if isinstance(error, EOFError) else "damaged"
            raise InputError(
                f"{what} {path}: the gzip stream is {state}", "copy or download the file again"
            ) from error


def fingerprint(
    path: Path, what: str = "file", look: Callable[[bytes], None] | None = None
) -> Fingerprint:
    """Read the whole file in chunks, and pass its gunzipped content to `look`, chunk by chunk.

    Raises InputError if the file is missing or unreadable, or if its gzip stream is broken. This
    checks the stream because ITK reads a truncated .nii.gz silently and fills it up with zeros.
    """
    digest, length = hashlib.sha256(), 0
    try:
        with gunzipped(path, what) as stream:
            while chunk := stream.read(CHUNK):
                length += len(chunk)
                if look is not None:
                    look(chunk)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(
            f"{what} {path}: {error.strerror}", "check the file and its disk"
        ) from error
    return Fingerprint(digest.hexdigest(), length)


def check_file(path: Path, what: str) -> None:
    """Raise InputError unless `path` is an existing file."""
    if path.is_dir():
        hint = "for a DICOM folder, make one NIfTI file first, e.g. with dcm2niix"
        raise InputError(f"{what} {path} is a folder, not a file", hint)
    if not path.exists():
        raise InputError(f"{what} {path}: no such file", "check the path")


def read_table(path: Path, what: str = "table") -> list[dict[str, str]]:
    """The rows of a CSV by the column names in its first line, without blanks around cells.

    Raises InputError if the file is missing or no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file or folder", "check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{what} {path} is no CSV: {error}", "give a CSV with column names"
        ) from error
    return [
        {key.strip(): value.strip() for key, value in row.items() if isinstance(value, str)}
        for row in rows
    ]


def check_image_names(paths: Iterable[Path]) -> None:
    """Raise UsageError unless hsyn can write image files with all these names."""
    for path in paths:
        if not ends(path, WRITABLE):
            raise UsageError(
                f"{path} is no name of an image file", f"end it in {', '.join(WRITABLE)}"
            )


def beside(path: Path, ending: str) -> Path:
    """A path beside `path`, with `ending` in place of its extension (.nii.gz is one extension)."""
    name = path.name.removesuffix(".gz")
    return path.with_name(Path(name).stem + ending)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[Buffer], object]]:
    """Yield `write`, which appends to a new file, and compresses it if its name ends in .gz.

    Two threads compress at isal's level 1. The gzip stream holds no name and no time, so equal
    content in equal calls gives equal bytes. The stream is one member: its pieces are compressed
    separately, and each ends at a whole byte.
    """
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file.write
            return
        file.write(GZIP_HEAD)
        check, length = 0, 0
        with ThreadPoolExecutor(2) as pool:

            def write(data: Buffer) -> None:
                nonlocal check, length
                view = memoryview(data).cast("B")
                check, length = isal_zlib.crc32(view, check), length + len(view)
                pieces = (view[start : start + PIECE] for start in range(0, len(view), PIECE))
                for piece in pool.map(_deflated, pieces):
                    file.write(piece)

            yield write
        file.write(GZIP_END + struct.pack("<2I", check, length & 0xFFFFFFFF))


def _deflated(piece: memoryview) -> bytes:
    """Compress a piece as part of a deflate stream that continues."""
    stream = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    return bytes(stream.compress(piece) + stream.flush(isal_zlib.Z_FULL_FLUSH))
