"""One driver a shard: a file in the study folder tells who works on it, and that it lives.

The file of a driver that died stays. Who takes over makes the one with the next number, which only
one can; no file is ever replaced, so that no two can win. Then it removes the files of the dead,
so that one that was only silent, on a computer that slept, learns of it and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hsyn_cli.cohort.jobs import STATUS
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.errors import OutputError
from hsyn_cli.io.atomic import making, output_error

ENDING = ".driver"
BEAT = 10.0  # seconds between two signs of life
DEAD = 120.0  # seconds without one, after which a driver on another computer counts as dead
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux


@dataclass(frozen=True)
class Driver:
    """A process that works on a shard.

    Attributes:
        place: computer, its start and the space of process numbers: where `pid` means something.
        born: when the process began, in ticks of the system; 0: unknown.
    """

    index: int
    count: int
    host: str
    pid: int
    place: str
    born: int

    @classmethod
    def here(cls, shard: Shard) -> Driver:
        """This process."""
        pid = os.getpid()
        born = _born(pid) if os.name == "posix" else 0
        return cls(shard.index, shard.count, platform.node(), pid, _place(), born or 0)

    @property
    def shard(self) -> Shard:
        """What it works on."""
        return Shard(self.index, self.count)

    def bars(self, other: Driver) -> bool:
        """Whether both would work on the same pairs. All shards of one count may run at once."""
        return self.count != other.count or self.index == other.index


class Others:
    """The other drivers of a study, as `me` with the file `path` sees them."""

    def __init__(self, me: Driver, path: Path) -> None:
        self._me, self._path = me, path
        self._over = threading.Event()

    def living(self) -> list[Driver]:
        """Those that live now. Raises OutputError."""
        try:
            return [driver for driver, _ in _living(self._path.parent, self._path)]
        except FileNotFoundError as error:
            raise self._taken_over() from error
        except OSError as error:
            raise output_error(self._path.parent, error) from error

    def check(self) -> None:
        """Raise OutputError if another driver took this one for dead and works on its pairs."""
        if self._over.is_set() or not self._own():
            raise self._taken_over()

    def beat(self, over: threading.Event) -> None:
        """Give signs of life until it is over."""
        while not over.wait(BEAT):
            if not self._own():
                self._over.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def leave(self) -> None:
        """Remove the own file."""
        with contextlib.suppress(OSError):
            if self._own():
                self._path.unlink()

    def _own(self) -> bool:
        """Whether the file is there, and not that of a later driver under the same number."""
        try:
            return _read(self._path) == self._me
        except FileNotFoundError:
            return False
        except OSError:  # a disk that is away for a moment
            return True

    def _taken_over(self) -> OutputError:
        text = f"{self._path} is gone: another hsyn batch took this one for dead, and goes on"
        hint = "give the same command again when that one is over"
        return OutputError(text, hint)


@contextlib.contextmanager
def driving(study: Path, shard: Shard) -> Iterator[tuple[Path, Others]]:
    """Be the driver of a shard meanwhile.

    Yields its file, which goes at the end, and the other drivers of the study.

    Raises OutputError if one of them works on the same pairs.
    """
    folder, me = study / STATUS, Driver.here(shard)
    with making(folder):
        try:
            path = _enter(folder, me)
        except OSError as error:
            raise output_error(folder, error) from error
        over, others = threading.Event(), Others(me, path)
        try:
            for other in others.living():
                if me.bars(other):
                    raise _refusal(study, other)
            for old in _dead(folder, me) - {path}:
                with contextlib.suppress(OSError):
                    old.unlink()
            threading.Thread(target=others.beat, args=(over,), daemon=True).start()
            yield path, others
        finally:
            over.set()
            others.leave()


def _enter(folder: Path, me: Driver) -> Path:
    """Make the driver's file under its first free number. Raises OSError, OutputError."""
    part = folder / f".{me.shard.name}-{me.host}-{me.pid}.part"
    try:
        part.write_text(json.dumps(asdict(me)), encoding="ascii")
        while True:
            living = _living(folder, part)
            for driver, _ in living:
                if me.bars(driver):
                    raise _refusal(folder.parent, driver)
            last = max(_files(folder, me.shard), default=0)
            path = folder / f"{me.shard.name}.{last + 1}{ENDING}"
            with contextlib.suppress(FileExistsError):
                _make(part, path)
                return path
    finally:
        part.unlink(missing_ok=True)


def _make(part: Path, path: Path) -> None:
    """Give `part` a second name that is new. Raises FileExistsError."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links
        with path.open("x", encoding="ascii") as stream:
            stream.write(part.read_text(encoding="ascii"))


def _living(folder: Path, own: Path) -> list[tuple[Driver, Path]]:
    """The drivers that live, but the one of the file `own`."""
    now = own.stat().st_mtime if own.suffix == ".part" else _touched(own)
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(OSError):
            silent = now - path.stat().st_mtime  # both by the clock of the disk
            driver = _read(path)
            if path != own and driver is not None and _lives(driver, silent):
                found.append((driver, path))
    return found


def _touched(path: Path) -> float:
    os.utime(path)
    return path.stat().st_mtime


def _lives(driver: Driver, silent: float) -> bool:
    """Whether a driver that gave no sign of life for so many seconds lives."""
    if driver.place == _place() and os.name == "posix":
        return _born(driver.pid) == driver.born
    return silent < DEAD


def _refusal(study: Path, driver: Driver) -> OutputError:
    what = "all pairs" if driver.count == 1 else f"shard {driver.index}/{driver.count}"
    text = f"{study}: another hsyn batch works on {what} (process {driver.pid} on {driver.host})"
    if driver.place == _place():
        return OutputError(text, "wait for it, or end it")
    return OutputError(text, f"wait for it; if it was killed, try again in {DEAD:.0f} seconds")


def _files(folder: Path, shard: Shard) -> dict[int, Path]:
    """{number: file} of the drivers that a shard has, or had."""
    pattern = re.compile(rf"{re.escape(shard.name)}\.(\d+){re.escape(ENDING)}")
    matches = ((path, pattern.fullmatch(path.name)) for path in folder.iterdir())
    return {int(match[1]): path for path, match in matches if match}


def _dead(folder: Path, me: Driver) -> set[Path]:
    """The files of drivers that `me` follows. None of them lives, or `me` were refused."""
    found = set(_files(folder, me.shard).values())
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(OSError):
            driver = _read(path)
            if driver is not None and me.bars(driver):
                found.add(path)
    return found


def _read(path: Path) -> Driver | None:
    """None for a file that is no driver's."""
    try:
        return Driver(**json.loads(path.read_text(encoding="ascii")))
    except (ValueError, TypeError):
        return None


def _place() -> str:
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(BOOT.read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the computer's start; 0: unknown; None: it is over."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *numbers = text.rpartition(")")[2].split()
        return None if state in "ZX" else int(numbers[18])
    except (OSError, ValueError, IndexError):  # no Linux
        return 0
