"""Files as bytes: fingerprints of inputs, tables, file names and fast gzip."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from isal import igzip, isal_zlib

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io.endings import WRITABLE, ends

CHUNK = 4 << 20  # bytes read at a time
PIECE = 1 << 20  # bytes compressed at a time
GZIP_MAGIC = b"\x1f\x8b"
MOST_DEFLATED = 1100  # deflate makes at most 1032 bytes of one
GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no flags, no time, no system
GZIP_END = b"\x03\0"  # an empty last block
Buffer = bytes | memoryview


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` of the file on disk; `length` of its gunzipped content in bytes."""

    sha256: str
    length: int


class Content:
    """The content of an open file, gunzipped if necessary, and the hash of what was read.

    The file is read once, so what is hashed is what is read. See `content`.
    """

    def __init__(self, file: IO[bytes], zipped: bool, size: int) -> None:
        self._raw = _Hashed(file)
        self._stream: Any = igzip.open(io.BufferedReader(self._raw, CHUNK)) if zipped else self._raw
        self.size, self.zipped = size, zipped
        self.length = 0  # bytes given out so far

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        out = bytearray(count)
        return bytes(out[: self.fill(memoryview(out))])

    def fill(self, view: memoryview) -> int:
        """Read into `view`, and return how many bytes there were."""
        done = 0
        while done < len(view):
            got = self._stream.readinto(view[done : done + CHUNK])
            if not got:
                break
            done += got
        self.length += done
        return done

    def may_hold(self, length: int) -> bool:
        """False if the file is too small for so many bytes, however well they are compressed."""
        return length <= (self.size * MOST_DEFLATED if self.zipped else self.size)

    def finish(self) -> Fingerprint:
        """Read and check the rest, and return the fingerprint of the file."""
        while self.read(CHUNK):
            pass
        while self._raw.read(CHUNK):  # what follows the gzip stream
            pass
        return Fingerprint(self._raw.digest.hexdigest(), self.length)


class _Hashed(io.RawIOBase):
    """A raw stream that hashes all that is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self.digest.update(view[:got])
        return got


@contextlib.contextmanager
def content(path: Path, what: str = "file", zipped: bool | None = None) -> Iterator[Content]:
    """Yield the content of a file; `zipped`: None finds out from its first bytes.

    Raises InputError if the file is missing, unreadable, empty or no regular file, or if its gzip
    stream is broken.
    """
    check_file(path, what)
    try:
        with path.open("rb", buffering=0) as file:
            magic = file.read(2)
            file.seek(0)
            if not magic:
                raise InputError(
                    f"{what} {path}: the file is empty", "copy or download the file again"
                )
            zipped = magic == GZIP_MAGIC if zipped is None else zipped
            yield Content(file, zipped, os.fstat(file.fileno()).st_size)
    except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
        state = "truncated" if isinstance(error, EOFError) else "damaged"
        raise InputError(
            f"{what} {path}: the gzip stream is {state}", "copy or download the file again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{what} {path}: {error.strerror or error}", "check the file, its permissions, its disk"
        ) from error


def fingerprint(
    path: Path, what: str = "file", look: Callable[[bytes], object] | None = None
) -> Fingerprint:
    """Read the whole file in chunks, and pass its gunzipped content to `look`, chunk by chunk.

    Raises the errors of `content`.
    """
    with content(path, what) as stream:
        while chunk := stream.read(CHUNK):
            if look is not None:
                look(chunk)
        return stream.finish()


def check_file(path: Path, what: str) -> None:
    """Raise InputError unless `path` is an existing regular file that may be asked about."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{what} {path}: no such file", "check the path") from None
        text = getattr(error, "strerror", None) or error
        hint = "check the path, and the permissions of its folders"
        raise InputError(f"{what} {path}: {text}", hint) from None
    if stat.S_ISDIR(mode):
        hint = "for a DICOM folder, make one NIfTI file first, e.g. with dcm2niix"
        raise InputError(f"{what} {path} is a folder, not a file", hint)
    if not stat.S_ISREG(mode):
        hint = "hsyn reads a file more than once: save it to a file first"
        raise InputError(f"{what} {path} is a pipe or a device, not a file", hint)


def read_table(path: Path, what: str = "table") -> list[dict[str, str]]:
    """The rows of a table by the column names in its first line; see `read_rows`."""
    return [row for _, row in read_rows(path, what)]


def read_rows(path: Path, what: str = "table") -> list[tuple[int, dict[str, str]]]:
    """The rows of a table, each with its line in the file, without blanks around cells.

    Commas, semicolons or tabs part the cells, whichever the first line has most of. Cells without
    a column are one under the name "". Raises InputError if the file is missing, no CSV, or has two
    columns of one name.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, restval="", delimiter=max(",;\t", key=head.count))
            rows = [(reader.line_num, _trimmed(row)) for row in reader]
            names = [name.strip() for name in reader.fieldnames or () if name.strip()]
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file or folder", "check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        text = getattr(error, "strerror", None) or error
        raise InputError(
            f"{what} {path} is no CSV: {text}", "give a CSV with column names"
        ) from error
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{what} {path}: two columns are named {name}", "remove one")
    return rows


def _trimmed(row: dict[str | Any, str | Any]) -> dict[str, str]:
    """The cells of a row without blanks around them; DictReader lists those beyond as None's."""
    beyond = " ".join([*row.pop(None, ()), row.pop("", "")]).strip()
    cells = {key.strip(): cell.strip() for key, cell in row.items()}
    return cells | ({"": beyond} if beyond else {})


def check_image_names(paths: Iterable[Path]) -> None:
    """Raise UsageError unless hsyn can write image files with all these names."""
    for path in paths:
        if not ends(path, WRITABLE):
            text = f"{path} does not end as an image file that hsyn writes"
            raise UsageError(text, f"end it in {', '.join(WRITABLE)}")


def beside(path: Path, ending: str) -> Path:
    """A path beside `path`, with `ending` in place of its extension (.nii.gz is one extension)."""
    name = path.name[:-3] if ends(path, [".gz"]) else path.name
    return path.with_name(Path(name).stem + ending)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[Buffer], object]]:
    """Yield `write`, which appends to a new file, and compresses it if its name ends in .gz.

    Two threads compress at isal's level 1. The gzip stream holds no name and no time, so equal
    content in equal calls gives equal bytes. The stream is one member: its pieces are compressed
    separately, and each ends at a whole byte.
    """
    with path.open("wb") as file:
        if path.suffix.lower() not in (".gz", ".mgz"):
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
