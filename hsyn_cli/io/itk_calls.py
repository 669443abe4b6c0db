"""Calls of ITK's readers and writers that no name and no file can upset.

ITK takes only names that are UTF-8 and not too long, and some of its libraries write to stderr.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

LONGEST = 200  # bytes of a name


@contextlib.contextmanager
def readable(path: Path, *others: Path) -> Iterator[str]:
    """A name under which ITK can read a file; `others`: files that its header names."""
    if _takes(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="hsyn-") as folder:
        link = Path(folder) / f"input{_ending(path)}"
        link.symlink_to(path.absolute())
        for other in others:
            (Path(folder) / other.name).symlink_to(other.absolute())
        yield str(link)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[str]:
    """A name under which ITK can write a file, which becomes `path`."""
    if _takes(path) and path.suffix == path.suffix.lower():
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="hsyn-") as folder:
        link = Path(folder) / "folder"
        link.symlink_to(path.parent.absolute())
        name = f"output{_ending(path)}"
        yield str(link / name)
        os.replace(path.parent / name, path)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what C libraries write to stderr from the user."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _takes(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return len(os.fsencode(path.name)) <= LONGEST


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-1:]).lower()
