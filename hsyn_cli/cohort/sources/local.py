"""Warm worker processes on this computer; one that dies, hangs or eats the memory is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.resume import DIED, TIMED_OUT
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.tasks import Event, Outcome, Task, free_log
from hsyn_cli.errors import MemoryLimitError

COMMAND = (sys.executable, "-m", "hsyn_cli.cohort.worker")
KILLED = DIED + 9  # exit code of what SIGKILL ended
STARTING = 300.0  # seconds for a new worker to load its libraries
LOOK = 0.2  # seconds between two looks at the memory


class LocalWorkers:
    """`count` workers. Each starts with its first task."""

    def __init__(self, count: int, limits: Limits, command: Sequence[str] | None = None) -> None:
        self.limits = limits
        self._count, self._command = count, COMMAND if command is None else command
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._news: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()

    def free(self) -> int:
        """How many more tasks can start now."""
        return self._count - len(self._busy)

    def start(self, task: Task) -> None:
        """Give a task to an idle worker, or to a new one."""
        while self._idle and not self._idle[-1].lives():
            self._idle.pop().kill()
        worker = self._idle.pop() if self._idle else _Worker(self._command, task, self._news)
        self._busy.append(worker)
        worker.give(task, self.limits.seconds)

    def events(self, patience: float) -> list[Event]:
        """What happened since the last call; waits up to `patience` seconds for the first."""
        end, found = time.monotonic() + patience, self._overdue()
        while not found and self._busy:
            left = end - time.monotonic()
            with contextlib.suppress(queue.Empty):
                found += self._heard(*self._news.get(timeout=max(0.0, min(LOOK, left))))
            found += self._overdue()
            if left <= 0:
                break
        with contextlib.suppress(queue.Empty):
            while True:
                found += self._heard(*self._news.get_nowait())
        return found

    def close(self) -> None:
        """Kill all workers."""
        for worker in (*self._busy, *self._idle):
            worker.kill()
        self._busy, self._idle = [], []

    def _heard(self, worker: _Worker, line: dict[str, Any] | None) -> list[Event]:
        """The news in a line of a worker; None: its pipe is closed."""
        if worker not in self._busy:  # killed since, or dead between two tasks
            if line is None and worker in self._idle:
                self._idle.remove(worker)
                worker.kill()
            return []
        if line is None:
            return [self._end(worker, worker.death())]
        if "outcome" in line:
            self._busy.remove(worker)
            self._idle.append(worker)
            return [Event(worker.task.id, outcome=Outcome.from_plain(line["outcome"]))]
        worker.begun(self.limits.seconds)
        return [Event(worker.task.id, line["step"], line["fraction"])]

    def _overdue(self) -> list[Event]:
        """Kill the workers that are beyond the limits."""
        ended, limits = [], self.limits
        for worker in list(self._busy):
            used = worker.memory_mb() if limits.memory_mb is not None else None
            if used is not None and limits.memory_mb is not None and used > limits.memory_mb:
                text = f"used {used:.0f} MB, more than --memory {limits.memory_mb:g}"
                code, limit = MemoryLimitError.exit_code, limits.memory_mb
                outcome = Outcome(code, text, peak_memory_mb=used, limit=limit)
                ended.append(self._end(worker, outcome))
            elif time.monotonic() > worker.deadline:
                text = f"its worker did not start within {STARTING:g} s"
                outcome = Outcome(TIMED_OUT, text)
                if worker.started and limits.seconds is not None:
                    text = f"killed after {limits.seconds:g} s (--timeout)"
                    outcome = Outcome(TIMED_OUT, text, limit=limits.seconds)
                ended.append(self._end(worker, outcome))
        return ended

    def _end(self, worker: _Worker, outcome: Outcome) -> Event:
        """End a worker, and its task with this outcome."""
        self._busy.remove(worker)
        worker.kill()
        timed = dataclasses.replace(outcome, seconds=time.monotonic() - worker.since)
        return Event(worker.task.id, outcome=timed)


class _Worker:
    """A worker process and the task that it has, or had."""

    def __init__(self, command: Sequence[str], task: Task, news: Any) -> None:
        self.task, self.started = task, False
        log = Path(task.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 (this program, or a test's)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(news,), daemon=True).start()

    def give(self, task: Task, seconds: float | None) -> None:
        """Give it a task. One that is dead is found out by its closed pipe."""
        self.task, self.since = task, time.monotonic()
        self.deadline = float("inf") if seconds is None else self.since + seconds
        if not self.started:
            self.deadline = self.since + STARTING + (seconds or 0.0)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(task.plain()).encode() + b"\n")
            self._process.stdin.flush()

    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def begun(self, seconds: float | None) -> None:
        """The worker told that it runs: its first task counts from now on."""
        if not self.started:
            self.started, self.since = True, time.monotonic()
            self.deadline = float("inf") if seconds is None else self.since + seconds

    def memory_mb(self) -> float | None:
        """Memory that it uses; None: the system does not tell."""
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as stream:
                pages = int(stream.read().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def death(self) -> Outcome:
        """What became of the task of a worker that died."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return Outcome(KILLED, "worker closed its pipe")
        if code < 0:
            return Outcome(DIED - code, f"worker died by signal {-code}")
        return Outcome(1, f"worker ended with exit code {code}")

    def kill(self) -> None:
        """Kill it and all its processes, and wait for their end."""
        with contextlib.suppress(OSError):
            if os.name == "posix" and self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        free_log(Path(self.task.log))

    def _read(self, news: Any) -> None:
        """Pass on its lines, and None when its pipe closes."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # no line of the worker's
                    told = json.loads(line)
                    if isinstance(told, dict):
                        news.put((self, told))
        news.put((self, None))
