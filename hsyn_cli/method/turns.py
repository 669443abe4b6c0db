"""Turns of several processes on one device, so that no pair takes the memory of another. Ours.

Pairs that run side by side read, align and write on the CPU most of their time. On the device they
are together as far as what each of them needs fits, and else one after the other. Who comes first
goes first. A process that dies gives its turn back, since the system then drops its lock.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.io.staging_folders import try_lock

if TYPE_CHECKING:
    import torch

PAUSE = 0.02  # seconds between two looks
ENDING = ".mb"


def folder_of(device: torch.device) -> Path:
    """Where the processes of this user on this computer meet for a device."""
    import torch

    name = device.type
    if name == "cuda":
        name += f"-{torch.cuda.get_device_properties(device).uuid}"
    return Path(tempfile.gettempdir()) / f"hsyn-{_user()}-{name}"


@contextlib.contextmanager
def turn(folder: Path, needed: float, free: Callable[[], float | None]) -> Iterator[float | None]:
    """Wait until `needed` MB fit beside what the others may still take, or nobody else is there.

    Yields what is free then, which may be less; None: it is not known. What the others have taken
    counts twice, as taken and as promised to them, so a device is never filled by more than they
    need. Where nothing can be locked, such as on Windows, nobody waits.

    Args:
        folder: see `folder_of`; made if missing. free: tells the free memory of the device, MB.
    """
    with contextlib.ExitStack() as stack:
        yield _entered(folder, needed, free, stack)


def _entered(
    folder: Path, needed: float, free: Callable[[], float | None], stack: contextlib.ExitStack
) -> float | None:
    """What is free when the turn begins; `stack` ends it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        gate = os.open(folder, os.O_RDONLY)  # closing it opens the gate for the next one
    except OSError:
        return free()
    try:
        while try_lock(gate) is False:
            time.sleep(PAUSE)
        while True:
            promised, now = sum(_others(folder)), free()
            if not promised or now is None or needed <= now - promised:
                break
            time.sleep(PAUSE)
        with contextlib.suppress(OSError):
            own = folder / f"{needed:.0f}-{uuid.uuid4().hex}{ENDING}"
            descriptor = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            stack.callback(os.close, descriptor)
            stack.callback(own.unlink, missing_ok=True)
            try_lock(descriptor)
        return now
    finally:
        os.close(gate)


def _others(folder: Path) -> Iterator[float]:
    """What each process with a turn was promised, MB. The files of dead ones go."""
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                if try_lock(descriptor) is False:
                    yield max(1.0, float(path.name.partition("-")[0]))
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
