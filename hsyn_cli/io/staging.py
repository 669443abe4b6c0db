"""The outputs of one run, written aside and put in place together."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from hsyn_cli.errors import OutputError
from hsyn_cli.io import moves
from hsyn_cli.io.moves import Move
from hsyn_cli.io.staging_folders import (
    JOURNAL,
    NEW,
    PREFIX,
    StagingFolder,
    alone,
    in_folder,
    leftover,
    output_error,
    remove,
    write_whole,
)
from hsyn_cli.io.undisturbed import undisturbed

TARGETS = "targets"
FORCE_HINT = "use --force to replace, or choose another folder"


class Staging:
    """The outputs of one run, written aside until `commit` puts all in place. See `atomic.claim`.

    Each has its path under `new` in a staging folder, which lies in the nearest folder above the
    target that exists. So a folder that does not exist yet comes into place whole.
    """

    committed: ClassVar[int] = 0  # commits of this process

    def __init__(self, targets: Iterable[Path], *, force: bool) -> None:
        self.targets = list(targets)
        self._force = force
        self._places = {target: _place(target) for target in self.targets}
        self._folders: dict[Path, StagingFolder] = {}  # by the folders they lie in
        self._old: list[Path] = []
        self._changing = threading.Lock()

    def path(self, target: Path) -> Path:
        """The path to write `target` to for now; it has the same name and extension."""
        base, below = self._places[target]
        return self._folders[base].new / below

    def remove(self, paths: Iterable[Path]) -> None:
        """Let `commit` remove these files too, if they are there, from the targets' folders."""
        self._old += paths

    def commit(self) -> None:
        """Move all outputs into place, in the order claimed. If one move fails, undo the others.

        No signal interrupts it. Raises OutputError.
        """
        undisturbed(self._commit)

    def open(self) -> None:
        """Make the staging folders, unless a target exists or another run claims it.

        What killed runs left in the folders is finished or cleared before. Raises OutputError.
        """
        bases = list(dict.fromkeys(base for base, _ in self._places.values()))
        with alone(bases):
            near = dict.fromkeys(folder for base in bases for folder in (base, base.parent))
            claimed = {key for folder in near for key in _survey(folder)}
            for target, (base, below) in self._places.items():
                if _key(base / below) in claimed:
                    raise OutputError(
                        f"another run is writing {target} right now",
                        "wait for it, or choose another folder",
                    )
            if not self._force:
                self._refuse_present()
            for base in bases:
                try:
                    self._folders[base] = StagingFolder(base)
                    self._write_claim(base)
                except OSError as error:
                    raise output_error(base, error) from error
        for target in self.targets:
            _try_out(target, self.path(target))

    def close(self) -> None:
        """Remove all that was not committed."""
        with self._changing:
            for folder in self._folders.values():
                folder.close()

    def _refuse_present(self) -> None:
        present = [target for target in self.targets if os.path.lexists(target)]
        if present:
            rest = f" and {len(present) - 1} more exist" if len(present) > 1 else " exists"
            raise OutputError(f"{present[0]}{rest} already", FORCE_HINT)

    def _write_claim(self, base: Path) -> None:
        """Tell other runs the targets below `base`, and where the journal of a commit will be."""
        folder, leader = self._folders[base].path, self._leader.path
        own = [str(below) for place, below in self._places.values() if place == base]
        write_whole(folder / TARGETS, json.dumps(own).encode())
        if folder != leader:
            moves.write_leader(folder, leader)

    @property
    def _leader(self) -> StagingFolder:
        return next(iter(self._folders.values()))

    def _commit(self) -> None:
        if not self.targets:
            return
        with self._changing, alone(self._folders):
            work = self._moves()
            self._refuse_met(work)
            journal = self._leader.path / JOURNAL
            try:
                if len(work) > 1:
                    moves.write_journal(journal.parent, work)
                moves.carry_out(work)
                Staging.committed += 1
            except OSError as error:
                raise output_error(self.targets[-1], error) from error
            finally:
                with contextlib.suppress(OSError):
                    journal.unlink(missing_ok=True)

    def _moves(self) -> list[Move]:
        """The files that have to move, and as a whole the folders that do not exist yet.

        A folder comes when its last file is due.
        """
        sources: dict[Path, tuple[Path, Path | None]] = {}
        for target, (base, below) in self._places.items():
            if not os.path.lexists(self.path(target)):
                raise output_error(target, FileNotFoundError(errno.ENOENT, "nothing was staged"))
            tops = [*reversed(below.parents), below][1:]
            moved = next((top for top in tops if not os.path.lexists(base / top)), below)
            sources.pop(base / moved, None)
            sources[base / moved] = base, self._folders[base].new / moved
        for path in filter(os.path.lexists, self._old):
            place = Path(os.path.realpath(path.parent), path.name)
            above = (base for base in self._folders if base in place.parents)
            sources[place] = max(above, key=lambda base: len(base.parts)), None
        return [
            Move(source, target, self._folders[base].path / f"old-{k}")
            for k, (target, (base, source)) in enumerate(sources.items())
        ]

    def _refuse_met(self, work: Iterable[Move]) -> None:
        """Refuse what has appeared since the targets were claimed."""
        for move in work:
            if move.target.is_dir() and not move.target.is_symlink():
                raise OutputError(f"{move.target} is a folder by now", "choose another folder")
            if move.source is not None and not self._force and os.path.lexists(move.target):
                text = f"{move.target} exists by now: another program has made it"
                raise OutputError(text, FORCE_HINT)


def clear(folder: Path) -> None:
    """Finish or clear what killed runs left of outputs in a folder, which need not exist."""
    with contextlib.suppress(OSError, OutputError):
        base = nearest(Path(os.path.realpath(folder)))
        for place in dict.fromkeys((base, base.parent)):
            _survey(place)


def nearest(folder: Path) -> Path:
    """The nearest of a real path and the folders above it that exists. Raises OSError."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(place.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, f"{place} is no folder")
            return place
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _place(target: Path) -> tuple[Path, Path]:
    """The nearest real folder above `target`, and the way from there. Raises OutputError."""
    try:
        folder = Path(os.path.realpath(target.parent))
        base = nearest(folder)
        with contextlib.suppress(FileNotFoundError):
            mode = target.stat().st_mode if target.name not in ("", "..") else stat.S_IFDIR
            if stat.S_ISDIR(mode):
                raise OutputError(f"{target} is a folder", "choose another output folder")
            if not stat.S_ISREG(mode):
                raise OutputError(f"{target} is a device or a pipe", "choose another name")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise output_error(target, error) from error
    return base, (folder / target.name).relative_to(base)


def _survey(folder: Path) -> set[str]:
    """Finish or clear what killed runs left in a folder; return what live runs claim there."""
    claimed: set[str] = set()
    for path in in_folder(folder):
        with contextlib.suppress(OSError), leftover(path) as over:
            if over and moves.roll_forward(path):
                remove(path)
            elif over is not None:
                claimed |= {_key(folder / below) for below in moves.read(path / TARGETS) or ()}
    return claimed


def _key(path: Path) -> str:
    """Equal for paths that are one file on some disks."""
    return str(path).casefold()


def _try_out(target: Path, staged: Path) -> None:
    """Raise OutputError unless the disk takes the name, and a staging folder beside it."""
    try:
        staged.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (staged.parent / f"{PREFIX}12345678" / NEW / staged.name).lstat()
        staged.touch(exist_ok=False)
        staged.unlink()
    except OSError as error:
        raise output_error(target, error) from error
