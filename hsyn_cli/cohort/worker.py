"""A warm worker: a process that registers one pair after another.

`python -m hsyn_cli.cohort.worker` reads a task as a line of JSON from stdin, and writes lines of
JSON to what was its stdout: {"step", "fraction"} while it works, then {"outcome"}. All that is
printed meanwhile goes to the pair's log. The worker ends at once when its stdin closes, and so
when the process that started it dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hsyn_cli import devices
from hsyn_cli.cohort.jobs import THUMBNAIL
from hsyn_cli.cohort.tasks import Outcome, Task, free_log, wanted_of
from hsyn_cli.errors import FailedError, HsynError
from hsyn_cli.io import atomic
from hsyn_cli.results.faults import known
from hsyn_cli.results.register_files import register_files
from hsyn_cli.results.report import check_problems

if TYPE_CHECKING:
    import SimpleITK as sitk

PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
SHORTEST = 0.3  # seconds between two lines of progress

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Work until stdin closes."""
    _die_with_parent()
    devices.keep_freed_memory()
    gc.set_threshold(50_000)  # as in the command line
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, tasks), daemon=True).start()
    import hsyn_cli.method.register  # noqa: F401 (loads torch, once)

    while True:
        task = Task(**json.loads(tasks.get()))
        tell = _teller(answers)
        tell({"step": "starting", "fraction": 0.0})
        with _log(Path(task.log)):
            outcome = carry_out(task, tell)
        devices.return_memory(0)
        tell({"outcome": dataclasses.asdict(outcome)})


def carry_out(task: Task, tell: Tell) -> Outcome:
    """Register the pair of a task. Raises nothing: the outcome tells what went wrong."""
    start = time.monotonic()
    devices.forget_peak_memory()
    try:
        outcome = _register(task, tell)
    except Exception as error:  # noqa: BLE001 (told; the next pair goes on)
        traceback.print_exc()
        told = known(error) or HsynError(f"a bug: {type(error).__name__}: {error}")
        outcome = Outcome(told.exit_code, one_line(told.message))
    return dataclasses.replace(
        outcome,
        seconds=time.monotonic() - start,
        peak_memory_mb=devices.peak_memory_mb(),
    )


def _register(task: Task, tell: Tell) -> Outcome:
    """Raises every error of `register_files`."""
    inputs = task.register_inputs()
    wanted, method = wanted_of(Path(task.folder), inputs, task.options, task.names)
    pictures: list[bytes] = []
    report = register_files(
        inputs,
        wanted,
        **method,
        force=True,
        progress=lambda step, fraction: tell({"step": step, "fraction": fraction}),
        shown=lambda fixed, warped: pictures.extend(_drawn(fixed, warped)),
    )
    drawn = _put(pictures, wanted.folder / task.names.get("thumbnail", THUMBNAIL))
    paths = [*map(Path, report.outputs.values()), *drawn]
    files = tuple(Path(os.path.relpath(path, task.study)).as_posix() for path in paths)
    device = report.facts.device_memory
    left = f"{device.device} {device.left}" if device is not None and device.left else ""
    try:
        check_problems(report.facts.problems, "")
    except FailedError as error:
        return Outcome(error.exit_code, error.message, report.facts.problems, files, left=left)
    return Outcome(files=files, left=left)


def _drawn(fixed: sitk.Image, warped: sitk.Image) -> list[bytes]:
    """The picture of a pair; none where it cannot be drawn, of which the log tells."""
    from hsyn_cli.cohort.thumbnail import thumbnail

    try:
        return [thumbnail(fixed, warped)]
    except Exception:  # noqa: BLE001 (the files of the pair count)
        traceback.print_exc()
        return []


def _put(pictures: list[bytes], path: Path) -> list[Path]:
    """Write the picture if there is one, in place of an earlier one; the files written."""
    try:
        if pictures:
            atomic.write_bytes(path, pictures[0])
            return [path]
        path.unlink(missing_ok=True)
    except (HsynError, OSError):
        traceback.print_exc()
    return []


def one_line(text: str) -> str:
    """`text` in one line."""
    return " ".join(text.split())


def _teller(answers: IO[str]) -> Tell:
    """A function that writes a line; of lines of progress in fast succession the first."""
    last = -SHORTEST

    def tell(line: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if "outcome" in line or now - last >= SHORTEST:
            last = now
            answers.write(json.dumps(line) + "\n")
            answers.flush()

    return tell


@contextlib.contextmanager
def _log(path: Path) -> Any:
    """Send all that is printed to a new file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(before, 1)
        os.dup2(before, 2)
        os.close(before)
        free_log(path)


def _listen(source: IO[str], tasks: queue.SimpleQueue[str]) -> None:
    """Pass on the lines of stdin; end the process when there are no more."""
    for line in source:
        tasks.put(line)
    os._exit(0)  # in the midst of a pair, too: its files are staged, and nobody waits for them


def _die_with_parent() -> None:
    """Let Linux kill this process when the thread that started it ends, whatever it is at."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
