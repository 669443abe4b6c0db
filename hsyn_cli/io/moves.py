"""Put staged files in place together: all, or none, or what the next run finishes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.errors import OutputError
from hsyn_cli.io.staging_folders import JOURNAL, leftover, output_error, write_whole

LEADER = "leader"


@dataclass(frozen=True)
class Move:
    """One step of a commit: `source`, a file or a folder, comes to `target`.

    Without a `source`, what is at `target` goes. `aside`: where the old file is kept meanwhile.
    """

    source: Path | None
    target: Path
    aside: Path


def carry_out(moves: Sequence[Move]) -> None:
    """Make all moves in their order. If one fails, undo the others; raises OutputError.

    A file that is replaced is there at every moment, but on a disk without hard links.
    """
    undo: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            try:
                _make(move, undo)
            except OSError as error:
                raise output_error(move.target, error) from error
    except BaseException:
        for now, before in reversed(undo):
            with contextlib.suppress(OSError):
                os.replace(now, before)
        raise


def _make(move: Move, undo: list[tuple[Path, Path]]) -> None:
    if not os.path.lexists(move.target):
        if move.source is not None:
            os.replace(move.source, move.target)
            undo.append((move.target, move.source))
        return
    if move.source is None:
        os.replace(move.target, move.aside)
        undo.append((move.aside, move.target))
        return
    try:
        os.link(move.target, move.aside, follow_symlinks=False)
    except (OSError, NotImplementedError):
        os.replace(move.target, move.aside)
    undo.append((move.aside, move.target))
    os.replace(move.source, move.target)


def write_journal(folder: Path, moves: Sequence[Move]) -> None:
    """Note the moves in a staging folder, so that `roll_forward` can finish them."""
    base = folder.parent
    pairs = [
        [None if m.source is None else _seen_from(base, m.source), _seen_from(base, m.target)]
        for m in moves
    ]
    write_whole(folder / JOURNAL, json.dumps(pairs).encode(), lasting=True)


def write_leader(folder: Path, leader: Path) -> None:
    """Note in a staging folder which other one will hold the journal of their commit."""
    write_whole(folder / LEADER, json.dumps(_seen_from(folder.parent, leader)).encode())


def roll_forward(folder: Path) -> bool:
    """Finish the commit that a killed run began from a staging folder, if it had begun.

    What is still staged moves into place. Returns False if another run is at it. Raises
    OutputError.
    """
    leader = read(folder / LEADER)
    if isinstance(leader, str) and (folder.parent / leader / JOURNAL).exists():
        with leftover(folder.parent / leader) as over:
            return over is True and roll_forward(folder.parent / leader)
    for source, target in read(folder / JOURNAL) or ():
        path = folder.parent / target
        try:
            if source is None:
                path.unlink(missing_ok=True)
            elif os.path.lexists(folder.parent / source):
                _put(folder.parent / source, path)
        except FileNotFoundError:  # someone has removed the whole folder since
            continue
        except OSError as error:
            text = f"{path}: a killed run left it half done, and it cannot be written"
            hint = f"make it writable, or remove {folder}"
            raise OutputError(f"{text}: {error.strerror}", hint) from error
    (folder / JOURNAL).unlink(missing_ok=True)
    return True


def read(path: Path) -> Any:
    """The content of a note, or None if it is missing."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _put(source: Path, target: Path) -> None:
    """Move a file or a folder; into a folder that is there already, file by file."""
    if source.is_dir() and target.is_dir():
        for child in sorted(source.iterdir()):
            _put(child, target / child.name)
    else:
        os.replace(source, target)


def _seen_from(base: Path, path: Path) -> str:
    """`path` relative to `base`, if it can be: another computer may see both elsewhere."""
    try:
        return os.path.relpath(path, base)
    except ValueError:  # another drive of Windows
        return str(path)
