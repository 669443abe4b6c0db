"""Write outputs whole and together, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hsyn_cli.errors import OutputError

FREE_HINT = "free some disk space or choose another folder"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the OutputError for an OSError raised while writing `path`."""
    if error.errno in NO_SPACE:
        return OutputError(f"{path}: no space left to write it", FREE_HINT)
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}", "choose a folder you may write to"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` with the same extension.

    It becomes `path` at the end, and vanishes on any failure. Raises OutputError for every OSError
    inside.
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
    """Copy a file, whole or not at all. Raises OutputError."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


class Staging:
    """The outputs of one run, written aside until `commit` puts all in place. See `claim`."""

    def __init__(self, targets: Iterable[Path]) -> None:
        self.targets = list(targets)
        self._created: list[Path] = []  # new folders, outermost first
        self._aside: dict[Path, Path] = {}  # folder of the targets -> staging folder in it

    def path(self, target: Path) -> Path:
        """The path to write `target` to for now; it has the same name and extension."""
        return self._aside[target.parent] / target.name

    def commit(self) -> None:
        """Move all outputs into place, in the order claimed. If one move fails, undo the others."""
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
                    self._created.append(missing)
                self._aside[folder] = Path(tempfile.mkdtemp(prefix=".hsyn-", dir=folder))
            except OSError as error:
                raise output_error(folder, error) from error

    def close(self) -> None:
        """Remove all that was not committed, and the folders created for it."""
        for aside in self._aside.values():
            shutil.rmtree(aside, ignore_errors=True)
        for folder in reversed(self._created):
            with contextlib.suppress(OSError):  # a folder that holds outputs stays
                folder.rmdir()


@contextlib.contextmanager
def claim(
    targets: Iterable[Path], *, force: bool = False, inputs: Iterable[Path] = ()
) -> Iterator[Staging]:
    """Check before any work that all `targets` can be written, and yield a place to write them.

    Raises OutputError if a target exists (unless `force`), is a folder or is one of the `inputs`;
    if two targets are one file when case does not count; if a folder cannot be created or written
    to. Without `Staging.commit` nothing remains.
    """
    staging = Staging(targets)
    sources = {path.resolve() for path in inputs}
    by_name: dict[str, Path] = {}
    for target in staging.targets:
        if target.resolve() in sources:
            raise OutputError(
                f"{target} is an input of this run and would be overwritten",
                "choose another folder",
            )
        twin = by_name.setdefault(str(target.absolute()).casefold(), target)
        if twin is not target:
            raise OutputError(
                f"{twin} and {target} are one file on some disks", "give them different names"
            )
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


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError if the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        amounts = f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise OutputError(f"{folder}: no space left to write to it ({amounts})", FREE_HINT)
