"""Processes share a device as far as their pairs fit, first come, first served."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsyn_cli.method import turns


def begin(folder: Path, needed: float, free: float, entered: list[float], until: Any) -> Any:
    def work() -> None:
        with turns.turn(folder, needed, lambda: free):
            entered.append(needed)
            until.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pairs_share_a_device_as_far_as_they_fit(tmp_path: Path) -> None:
    entered: list[float] = []
    first, rest = threading.Event(), threading.Event()
    threads = [begin(tmp_path, 60, 100, entered, first)]
    wait_for(lambda: entered == [60])
    threads.append(begin(tmp_path, 30, 100, entered, rest))
    wait_for(lambda: entered == [60, 30])  # both at a time
    threads.append(begin(tmp_path, 50, 100, entered, rest))
    time.sleep(0.1)
    threads.append(begin(tmp_path, 5, 100, entered, rest))  # fits, but comes after who waits
    time.sleep(0.2)
    assert entered == [60, 30]
    first.set()
    wait_for(lambda: entered == [60, 30, 50, 5])
    rest.set()
    for thread in threads:
        thread.join(10)
    assert not list(tmp_path.iterdir())


def test_who_finds_nobody_else_goes_on_at_once(tmp_path: Path) -> None:
    with turns.turn(tmp_path / "new", 60, lambda: 40.0) as free:
        assert free == 40
    with turns.turn(tmp_path / "no" / "such", 60, lambda: None) as free:
        assert free is None


def test_the_turn_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom hsyn_cli.method.turns import turn\n"
        "with turn(pathlib.Path(sys.argv[1]), 60, lambda: 100.0):\n    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(list(tmp_path.iterdir())) == 1
    with turns.turn(tmp_path, 60, lambda: 100.0) as free:
        assert free == 100
        assert len(list(tmp_path.iterdir())) == 1
