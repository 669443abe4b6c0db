"""Files as bytes: fingerprints of inputs, fast gzip, outputs that appear whole and together or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from isal import igzip, isal_zlib

from hsyn_cli.errors import InputError, OutputError, UsageError

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
CHUNK = 4 << 20  # bytes read at a time
PIECE = 1 << 20  # bytes compressed at a time
GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no flags, time or system
GZIP_END = b"\x03\0"  # an empty last block
FREE_HINT = "free some disk space or choose another folder"
Buffer = bytes | memoryview
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` of the file as it lies on disk; `length` of its content once gunzipped."""

    sha256: str
    length: int


@contextlib.contextmanager
def gunzipped(path: Path, what: str = "file") -> Iterator[IO[bytes]]:
    """The content of a file as a stream, gunzipped if need be.

    Raises InputError if the file is missing, unreadable or empty, and when its gzip stream turns out broken.
    """
    check_file(path, what)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror}", "check the file's permissions") from error
    with file:
        magic = file.read(2)
        if not magic:
            raise InputError(f"{what} {path}: the file is empty", "it was perhaps not copied completely")
        file.seek(0)
        try:
            yield igzip.open(file) if magic == b"\x1f\x8b" else file
        except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
            state = "truncated" if isinstance(error, EOFError) else "damaged"
            raise InputError(
                f"{what} {path}: the gzip stream is {state}", "copy or download the file again"
            ) from error


def fingerprint(path: Path, what: str = "file", look: Callable[[bytes], None] | None = None) -> Fingerprint:
    """Read the whole file, piece after piece; `look` is shown its gunzipped content, chunk after chunk.

    Raises InputError if it is missing, unreadable, or its gzip stream is broken. ITK reads
    a truncated .nii.gz without a word and fills up with zeros, so the stream is checked here.
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
        raise InputError(f"{what} {path}: {error.strerror}", "check the file and its disk") from error
    return Fingerprint(digest.hexdigest(), length)


def check_file(path: Path, what: str) -> None:
    """Raise InputError unless there is a file at `path`."""
    if path.is_dir():
        hint = "for a DICOM folder, make one NIfTI file first, e.g. with dcm2niix"
        raise InputError(f"{what} {path} is a folder, not a file", hint)
    if not path.exists():
        raise InputError(f"{what} {path}: no such file", "check the path")


def read_table(path: Path, what: str = "table") -> list[dict[str, str]]:
    """The rows of a CSV by the names in its first line, without the blanks around them.

    Raises InputError if it is missing or no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file or folder", "check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{what} {path} is no CSV: {error}", "give a CSV with column names") from error
    return [
        {key.strip(): value.strip() for key, value in row.items() if isinstance(value, str)} for row in rows
    ]


def check_image_names(paths: Iterable[Path]) -> None:
    """Raise UsageError, before any work is done, unless all are names of image files that can be written here."""
    for path in paths:
        if not path.name.lower().endswith(IMAGE_ENDINGS):
            raise UsageError(f"{path} is no name of an image file", f"end it in {', '.join(IMAGE_ENDINGS)}")


def beside(path: Path, ending: str) -> Path:
    """A name beside `path`: its own without the extension (.nii.gz is one), and `ending`."""
    name = path.name.removesuffix(".gz")
    return path.with_name(Path(name).stem + ending)


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError if the disk of `folder` has not `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        amounts = f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise OutputError(f"{folder}: no space left to write to it ({amounts})", FREE_HINT)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[Buffer], object]]:
    """Yield `write`, which appends to a new file; what ends in .gz is compressed at isal's level 1, in two threads.

    No name and no time in the gzip stream, so equal content, cut alike, gives equal bytes. The stream is one member: its
    pieces are compressed apart and each ends at a whole byte.
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
    """As part of a deflate stream that goes on."""
    stream = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    return bytes(stream.compress(piece) + stream.flush(isal_zlib.Z_FULL_FLUSH))


def output_error(path: Path, error: OSError) -> OutputError:
    """The OutputError that tells of an OSError met while writing `path`."""
    if error.errno in NO_SPACE:
        return OutputError(
            f"{path}: no space left to write it", "free some disk space or choose another folder"
        )
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}", "choose a folder you may write to"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, same extension; it becomes `path` at the end, or goes on any failure.

    Raises OutputError for every OSError inside.
    """
    handle = None
    try:
        handle = tempfile.mkdtemp(prefix=".hsyn-", dir=path.parent)
        temporary = Path(handle) / path.name
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if handle is not None:
            shutil.rmtree(handle, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8, whole or not at all. Raises OutputError."""
    write_bytes(path, text.encode())


def copy(source: Path, target: Path) -> None:
    """The same bytes again, whole or not at all. Raises OutputError."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


class Staging:
    """The outputs of one run, written aside and shown together by `commit`. Made by `claim`."""

    def __init__(self, targets: Iterable[Path]) -> None:
        self.targets = list(targets)
        self._made: list[Path] = []  # folders that did not exist before, outermost first
        self._aside: dict[Path, Path] = {}  # folder of the targets -> staging folder in it

    def path(self, target: Path) -> Path:
        """Where to write what will become `target`; same name, so the same extension."""
        return self._aside[target.parent] / target.name

    def commit(self) -> None:
        """Move everything into place, in the order claimed. If one move fails, the others are taken back."""
        done: list[tuple[Path, Path | None]] = []
        try:
            for target in self.targets:
                kept = None
                if target.exists():
                    kept = self.path(target).with_name("old-" + target.name)
                    os.replace(target, kept)
                done.append((target, kept))
                os.replace(self.path(target), target)
        except BaseException as error:
            for target, kept in reversed(done):
                with contextlib.suppress(OSError):
                    os.replace(kept, target) if kept else target.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise output_error(target, error) from error
            raise

    def open(self) -> None:
        for folder in dict.fromkeys(target.parent for target in self.targets):
            try:
                for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
                    missing.mkdir()
                    self._made.append(missing)
                self._aside[folder] = Path(tempfile.mkdtemp(prefix=".hsyn-", dir=folder))
            except OSError as error:
                raise output_error(folder, error) from error

    def close(self) -> None:
        """Remove what was not committed, and the folders made for it."""
        for aside in self._aside.values():
            shutil.rmtree(aside, ignore_errors=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # not empty: it holds outputs
                folder.rmdir()


@contextlib.contextmanager
def claim(targets: Iterable[Path], *, force: bool = False, inputs: Iterable[Path] = ()) -> Iterator[Staging]:
    """Check that all `targets` can be written, before any work is done, and offer a place to write them.

    Raises OutputError if one exists (unless `force`), is one of the `inputs`, or two are one file where upper
    and lower case are alike; if a folder cannot be made or written to.
    Without `Staging.commit` nothing is left.
    """
    staging = Staging(targets)
    sources = {path.resolve() for path in inputs}
    seen: dict[str, Path] = {}
    for target in staging.targets:
        if target.resolve() in sources:
            raise OutputError(
                f"{target} is an input of this run and would be overwritten", "choose another folder"
            )
        twin = seen.setdefault(str(target.absolute()).casefold(), target)
        if twin is not target:
            raise OutputError(f"{twin} and {target} are one file on some disks", "give them different names")
        if target.is_dir():
            raise OutputError(f"{target} is a folder", "choose another output folder")
    present = [target for target in staging.targets if target.exists()]
    if present and not force:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise OutputError(
            f"{present[0]}{more} exists already", "use --force to replace, or choose another folder"
        )
    try:
        staging.open()
        yield staging
    finally:
        staging.close()
