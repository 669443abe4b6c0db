"""The workers of a Dask scheduler. Each thread of a Dask worker keeps a warm worker of ours.

Dask can neither end a task that hangs nor watch its memory. So the pair runs in a process beside
the Dask worker, under the same limits as on this computer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.cohort.drivers import DEAD
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.sources.local import KILLED, LocalWorkers
from hsyn_cli.cohort.tasks import Event, Outcome, Task
from hsyn_cli.errors import BatchError, HsynError, InputError, UsageError

CONNECT = 20.0  # seconds to find the scheduler
RECONNECT = 60.0  # seconds to find it again
COUNT_EVERY = 2.0  # seconds between two counts of the workers
LOOK = 1.0  # seconds between two looks whether the driver lives
VERSION = "version"  # of hsyn, in the answer of a worker that has another one
GPU = "GPU"  # the resource of a Dask worker that `--device cuda` needs
_own = threading.local()  # the warm worker of a thread of a Dask worker


class Cluster:
    """All workers of a scheduler.

    Args:
        scheduler: its address, or the file that it writes.
        sign: the driver's file. Pairs that run end when it is gone or gives no sign of life.
    """

    def __init__(self, scheduler: str, limits: Limits, sign: Path) -> None:
        self._name, self.limits, self._sign = scheduler, limits, str(sign.absolute())
        self._client = _connect(scheduler)
        self._running: dict[str, tuple[Task, Any]] = {}
        self._ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._lost: list[Task] = []
        self._slots, self._counted, self._away = 0, -COUNT_EVERY, 0.0
        time.sleep(2 * LOOK)  # pairs of a driver that was killed end meanwhile

    def free(self) -> int:
        """How many more tasks can start now."""
        if self._connected() and time.monotonic() - self._counted >= COUNT_EVERY:
            with contextlib.suppress(OSError):
                self._slots, self._counted = sum(self._threads()), time.monotonic()
        return 0 if self._lost else self._slots - len(self._running)

    def start(self, task: Task) -> None:
        """Submit a task."""
        needs = {GPU: 1} if task.options.get("device") == "cuda" else None
        future = self._client.submit(
            carry_out, task.plain(), dataclasses.asdict(self.limits), self._sign, __version__,
            key=f"hsyn-{task.id}-{uuid.uuid4().hex}", pure=False, resources=needs,
        )  # fmt: skip
        self._running[task.id] = task, future
        future.add_done_callback(lambda done: self._ended.put((task.id, done)))

    def events(self, patience: float) -> list[Event]:
        """What happened since the last call; waits up to `patience` seconds for the first."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            found += self._heard(*self._ended.get(timeout=max(patience, 0.001)))
            while True:
                found += self._heard(*self._ended.get_nowait())
        if self._connected():
            while self._lost:
                self.start(self._lost.pop())
        return found

    def close(self) -> None:
        """Cancel all tasks. Those that run end when the driver's file is gone."""
        with contextlib.suppress(Exception):
            self._client.cancel([future for _, future in self._running.values()], force=True)
        with contextlib.suppress(Exception):
            self._client.close(timeout=2)

    def _heard(self, name: str, future: Any) -> list[Event]:
        """The outcome of a task that is over; none if the scheduler forgot it.

        Raises BatchError if the worker cannot work for this driver.
        """
        task, current = self._running.get(name, (None, None))
        if task is None or current is not future or future is None:
            return []
        del self._running[name]
        if future.status in ("cancelled", "lost"):
            self._lost.append(task)
            return []
        error = future.exception() if future.status == "error" else None
        if error is not None:
            killed = type(error).__name__ == "KilledWorker"
            text = "Dask workers died with it" if killed else f"{type(error).__name__}: {error}"
            code = KILLED if killed else HsynError.exit_code
            return [Event(name, outcome=Outcome(code, " ".join(text.split())))]
        told = future.result()
        if VERSION in told:
            text = f"a Dask worker has hsyn {told[VERSION]}, and hsyn batch is {__version__}"
            raise BatchError(text, "install one version everywhere, and start the workers again")
        return [Event(name, outcome=Outcome.from_plain(told))]

    def _connected(self) -> bool:
        """Whether the scheduler is there. Raises BatchError if it is gone for long."""
        if self._client.status == "running":
            self._away = 0.0
            return True
        self._away = self._away or time.monotonic()
        if self._client.status == "closed" or time.monotonic() - self._away > RECONNECT:
            text = f"the scheduler {self._name} is gone; the pairs that ran are lost"
            raise BatchError(text, "start it, and the same command again, which goes on from there")
        return False

    def _threads(self) -> list[int]:
        """The threads of each Dask worker."""
        return list(self._client.nthreads().values())


def carry_out(
    plain: Mapping[str, Any], limits: Mapping[str, Any], sign: str, version: str
) -> dict[str, Any]:
    """Run a task beside this Dask worker; returns the outcome. Ends it when the driver is dead.

    Returns the version of hsyn here in its place if it is not that of the driver.
    """
    if version != __version__:  # may have other tasks
        return {VERSION: __version__}
    task = Task(**plain)
    warm = getattr(_own, "warm", None)
    if warm is None:
        warm = _own.warm = LocalWorkers(1, Limits())
    driver = _Sign(sign)
    warm.limits = Limits(**limits)
    warm.start(task)
    try:
        while True:
            for event in warm.events(LOOK):
                if event.outcome is not None:
                    return dataclasses.asdict(event.outcome)
            if not driver.lives():
                return dataclasses.asdict(Outcome(KILLED, "hsyn batch ended"))
    finally:
        if not warm.free():
            warm.close()


class _Sign:
    """The file that a driver touches while it lives. Clocks of two computers are not compared."""

    def __init__(self, path: str) -> None:
        self._path, self._seen, self._since = path, 0.0, time.monotonic()

    def lives(self) -> bool:
        """Whether it is there, and was touched not long ago."""
        try:
            touched = os.stat(self._path).st_mtime
        except FileNotFoundError:
            return False
        except OSError:  # a disk that is away for a moment
            return True
        if touched != self._seen:
            self._seen, self._since = touched, time.monotonic()
        return time.monotonic() - self._since < DEAD


def _connect(scheduler: str) -> Any:
    """Raises UsageError without Dask, and InputError if no scheduler answers."""
    try:
        from distributed import Client
    except ImportError:
        hint = "install it: pip install 'hsyn[cluster]'"
        raise UsageError("--scheduler needs Dask distributed, which is missing", hint) from None
    for name in [
        name for name in logging.root.manager.loggerDict if name.startswith("distributed")
    ]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are told in one line
    where = {"scheduler_file": scheduler} if Path(scheduler).exists() else {"address": scheduler}
    try:
        return Client(**where, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"the scheduler {scheduler} does not answer: {' '.join(str(error).split())[:200]}"
        raise InputError(
            text, "give the address or the file of a `dask scheduler` that runs"
        ) from error
