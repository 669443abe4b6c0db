"""Temporary folders that tell whether the run that made them still lives."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hsyn_cli.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".hsyn-"
LOCK, NEW, JOURNAL = "lock", "new", "journal"
MINUTE, DAY = 60.0, 86400.0
TRIES = 100
PROBE = 4096  # bytes, a block of most disks
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux
PATIENCE = 2.0  # seconds to wait for other runs that look at the same folder
FREE_HINT = "free some disk space or choose another folder"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def output_error(path: Path, error: OSError | ValueError) -> OutputError:
    """Return the OutputError for an error of the system while writing `path`."""
    number, hint = getattr(error, "errno", None), "choose a folder you may write to"
    if number in NO_SPACE:
        return OutputError(f"{path}: no space left to write it", FREE_HINT)
    if number == errno.ENAMETOOLONG:
        hint = "choose a shorter name"
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: cannot be written: {reason}", hint)


class StagingFolder:
    """A folder `.hsyn-XXXXXXXX` in `base`, for files under `new` that are not in place yet.

    This process holds the lock of its lock file until `close`. Where nothing can be locked, the
    folder has the file all the same. Should a signal's error jump over `close`, the folder goes
    with this object, at the latest at the end of the process.
    """

    def __init__(self, base: Path) -> None:
        for _ in range(TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            locks: list[int] = []
            self.close = weakref.finalize(self, remove, self.path, locks)
            try:
                lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                locks.append(lock)
                if _lock_new(lock, self.path / LOCK):
                    self.new.mkdir()
                    return
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    self.close()
                    raise
            self.close()  # a run that clears leftovers took it for one
        raise OSError(errno.EAGAIN, "other runs clear every new folder", str(base))

    @property
    def new(self) -> Path:
        """The folder of the staged files."""
        return self.path / NEW

    def check_room(self) -> None:
        """Raise OSError if the disk is full. Some libraries that write do not say so."""
        probe = self.path / "room"
        probe.write_bytes(os.urandom(PROBE))
        probe.unlink()


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder without waiting.

    False: another process or thread holds the lock. None: nothing can be locked here.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock_new(lock: int, path: Path) -> bool:
    """Lock a new lock file, and write into it which computer did. False if it was cleared."""
    if try_lock(lock) is False or not os.path.samestat(os.fstat(lock), os.stat(path)):
        return False
    os.write(lock, b"\n".join(_computer()))
    return True


@contextlib.contextmanager
def alone(folders: Iterable[Path]) -> Iterator[None]:
    """Keep other runs from claiming or committing in these folders meanwhile, by their locks.

    Goes on without a lock that another program keeps for longer than `PATIENCE`.
    """
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders) if fcntl is not None else ():
            with contextlib.suppress(OSError):  # a folder that may be written to, but not listed
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                end = time.monotonic() + PATIENCE
                while try_lock(descriptor) is False and time.monotonic() < end:
                    time.sleep(0.002)
        yield


def in_folder(base: Path) -> list[Path]:
    """The staging folders in a folder; none if it cannot be listed."""
    return [base / name for name in _listed(base) if name.startswith(PREFIX)]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


@contextlib.contextmanager
def leftover(path: Path) -> Iterator[bool | None]:
    """Tell whether the run that made a staging folder is over, and keep the folder locked then.

    False: it lives, its lock is held. None: nobody knows. That is so where another user made the
    folder, or where nothing can be locked, or with another computer, whose locks a shared disk may
    not pass on; in the last two cases until the folder has aged. Raises OSError if it is gone.
    """
    about = path.lstat()
    user = os.geteuid() if hasattr(os, "geteuid") else about.st_uid
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != user:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(path / LOCK, os.O_RDWR)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                path.rmdir()  # an empty one goes at once: a run that is just making it tries again
            yield _age(path) > MINUTE or None
        else:
            stack.callback(os.close, lock)
            yield _is_over(path, lock)


def _is_over(path: Path, lock: int) -> bool | None:
    free = try_lock(lock)
    if free is False:
        return False
    made_by = set(os.read(lock, 512).splitlines())
    if free and (not made_by or made_by & _computer()):
        return True
    return _age(path) > (MINUTE if free and (path / JOURNAL).exists() else DAY) or None


def _computer() -> set[bytes]:
    """The name of this computer, which containers change, and the number of its start."""
    with contextlib.suppress(OSError):
        return {platform.node().encode(), BOOT.read_bytes().strip()}
    return {platform.node().encode()}


def _age(path: Path) -> float:
    """Seconds since anything changed in a folder."""
    files = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
    return time.time() - max(os.lstat(file).st_mtime for file in (str(path), *files))


def remove(path: Path, locks: Sequence[int] = ()) -> None:
    """Remove a staging folder as far as possible, and close its lock file if it is open.

    That file goes last: should this process be killed meanwhile, the next run can judge the rest.
    """
    for name in _listed(path):
        if os.path.isdir(path / name) and not os.path.islink(path / name):
            shutil.rmtree(path / name, ignore_errors=True)
        elif name != LOCK:
            with contextlib.suppress(OSError):
                os.unlink(path / name)
    for lock in locks:
        os.close(lock)
    with contextlib.suppress(OSError):
        os.unlink(path / LOCK)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def write_whole(path: Path, data: bytes, *, lasting: bool = False) -> None:
    """Write a note in a staging folder, whole before it has its name; `lasting`: on the disk."""
    part = path.with_name("part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())
    os.replace(part, path)
