"""Every signal that ends a process ends a run cleanly, and none comes too late to be ignored."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hsyn_cli
from hsyn_cli import cli
from hsyn_cli.cli import endings
from hsyn_cli.cli.signals import LEFT_ALONE, Watch
from hsyn_cli.io import checkpoints

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
USUAL = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGALRM", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])}


@pytest.fixture
def watch() -> Iterator[Watch]:
    """The watch of a run; all handlers are as before afterwards."""
    before = {n: signal.getsignal(n) for n in signal.valid_signals()}
    try:
        yield Watch()
    finally:
        for number, handler in before.items():
            if number not in (signal.SIGKILL, signal.SIGSTOP) and handler is not None:
                signal.signal(number, handler)


@pytest.fixture
def while_working(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Sets what happens in the midst of `hsyn weights list`."""
    return lambda work: monkeypatch.setattr(checkpoints, "available", work)


def ending() -> list[int]:
    """The signals to try; Python itself ignores SIGPIPE and SIGXFSZ."""
    names = {n: getattr(n, "name", "") for n in signal.valid_signals()}
    left = {*LEFT_ALONE, "SIGPIPE", "SIGXFSZ"}
    return [int(n) for n, name in names.items() if name not in left]


@pytest.mark.parametrize("number", ending())
def test_each_becomes_one_line_and_a_code(
    number: int,
    watch: Watch,
    while_working: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    while_working(lambda: signal.raise_signal(number))
    assert cli.run(["weights", "list"], watch) == 128 + number
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}.get(number, "stopped by")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words}")
    assert line.endswith("; nothing was written")


def test_the_usual_ones_are_among_them() -> None:
    assert {getattr(signal, name) for name in USUAL} < set(ending())
    assert sys.platform != "linux" or {signal.SIGRTMIN, signal.SIGRTMAX} < set(ending())


def test_what_was_ignored_at_the_start_stays_ignored(
    watch: Watch, while_working: Callable[[Callable[[], object]], None]
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    watch = Watch()
    while_working(lambda: [signal.raise_signal(signal.SIGHUP)] * 0)
    assert cli.run(["weights", "list"], watch) == 0
    assert watch.caught is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_more_signals_do_not_disturb_the_clean_up(
    watch: Watch,
    while_working: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.raise_signal(number)
                cleaned.append(number)

    while_working(work)
    assert cli.run(["weights", "list"], watch) == 143
    assert len(cleaned) == 3
    assert capsys.readouterr().err == "error: terminated; nothing was written\n"


def test_a_signal_that_something_swallowed_does_not_make_the_run_deaf(
    watch: Watch, while_working: Callable[[Callable[[], object]], None]
) -> None:
    def work() -> None:
        with contextlib.suppress(Exception):  # as libraries do
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)

    while_working(work)
    assert cli.run(["weights", "list"], watch) == 128 + signal.SIGHUP


def test_it_tells_when_all_files_were_written(
    watch: Watch,
    while_working: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(endings, "commits", lambda: 10**6)
    while_working(lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.run(["weights", "list"], watch) == 143
    assert capsys.readouterr().err == "error: terminated; all files were written\n"


LATE = """
import atexit, os, sys
class Last:
    def __del__(self, kill=os.kill, me=os.getpid()):
        for number in (15, 2, 1, 10):
            kill(me, number)
atexit.register(Last().__del__)
sys.late = Last()  # Python deletes it when it has put its own signal handlers away
from hsyn_cli.cli import main
main()
"""


def test_none_changes_the_end_of_a_run_that_is_over() -> None:
    command = [sys.executable, "-c", LATE, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"hsyn {hsyn_cli.__version__}\n"


RUN = """
import signal, sys, time
from types import ModuleType
module = ModuleType("hsyn_cli.method.register")
def register(*images, **options):
    print("working", flush=True)
    time.sleep(60)
module.register = register
sys.modules["hsyn_cli.method.register"] = module
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
from hsyn_cli.cli import main
main()
"""


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGXCPU"])
def test_a_registration_leaves_nothing_behind(here: Path, name: str) -> None:
    arguments = ["register", "-m", "m.nii.gz", "-f", "f.nii.gz", "-o", "new/out"]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert err == f"error: stopped by {name}; nothing was written\n"
    assert sorted(os.listdir(here)) == ["f.nii.gz", "m.nii.gz"]
