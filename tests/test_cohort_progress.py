"""What a cohort shows while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from hsyn_cli.cli.cohort_progress import Lines, Live, cohort_progress, told
from hsyn_cli.cli.progress import TimeLeft, time_left
from hsyn_cli.cohort.status import Status
from hsyn_cli.cohort.supervisor import News, Tally

DONE = Status("a", "k", "done", "pairs/a", seconds=61.4)
FAILED = Status("b[1]", "k", "failed", "pairs/b", exit_code=3, error="no\x1b such file")
POOR = Status("d", "k", "failed", "pairs/d", exit_code=10, error="unlike")
RUNS = Status("c", "k", "running", "pairs/c")


def test_a_pair_in_a_line() -> None:
    assert told(News("ended", DONE)) == "a done in 61 s"
    line = "b[1] failed, exit code 3: no\\x1b such file"
    assert told(News("ended", FAILED)) == line
    assert told(News("retry", FAILED)) == f"{line}; it gets another attempt"
    assert told(News("found", FAILED)) == f"{line} (in an earlier run)"
    assert told(News("ended", POOR)) == "d doubtful, exit code 10: unlike"


def test_lines_tell_what_ended(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(4, before=1)
    lines = Lines(tally)
    lines(News("found", DONE))
    lines(News("began", RUNS))
    lines(News("progress", RUNS, "affine", 0.3))
    assert capsys.readouterr().err == ""
    tally.failed.append(FAILED)
    lines(News("found", FAILED))
    assert capsys.readouterr().err.startswith("[2/4] b[1] failed")
    tally.done += 1
    lines(News("ended", DONE))
    assert capsys.readouterr().err == "[3/4, a moment left] a done in 61 s\n"


def test_bars_of_the_cohort_and_of_each_pair() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=90)
    tally = Tally(4)
    with Progress(console=console, auto_refresh=False) as bars:
        live = Live(bars, tally)
        live(News("began", RUNS))
        live(News("progress", RUNS, "affine", 0.5))
        shown = {task.description: task.completed for task in bars.tasks}
        assert shown == {"0 of 4 pairs": 0.125, "c: affine": 0.5}
        tally.failed.append(FAILED)
        live(News("ended", FAILED))
        tally.done += 1
        live(News("ended", RUNS))
        assert [task.description for task in bars.tasks] == ["2 of 4 pairs, 1 failed"]
        assert bars.tasks[0].completed == 0.5
        tally.failed.append(POOR)
        live(News("ended", POOR))
        assert bars.tasks[0].description == "3 of 4 pairs, 1 failed, 1 doubtful"
    assert "b[1] failed, exit code 3" in text.getvalue()


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with cohort_progress(quiet=True) as start:
        start(Tally(1))(News("ended", DONE))
    with cohort_progress(quiet=False) as start:
        start(Tally(1, done=1))(News("ended", DONE))
    assert capsys.readouterr() == ("", "[1/1] a done in 61 s\n")


def test_times_in_the_unit_that_suits() -> None:
    times = [time_left(seconds) for seconds in (0.2, 40, 150, 90000)]
    assert times == [
        "a moment left",
        "about 40 s left",
        "about 2 min left",
        "about 25 h left",
    ]


def test_each_bar_has_its_own_time_left() -> None:
    clock = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True)
    with Progress(console=console, auto_refresh=False, get_time=lambda: clock[0]) as bars:
        slow, fast = bars.add_task("slow", total=1.0), bars.add_task("fast", total=1.0)
        column = TimeLeft()
        clock[0] = 10.0
        bars.update(slow, completed=0.1)
        bars.update(fast, completed=0.5)
        told = [column.render(task).plain for task in bars.tasks]
        clock[0] = 15.0
        told += [column.render(task).plain for task in reversed(bars.tasks)]
    assert told == ["about 90 s left", "about 10 s left", "about 5 s left", "about 85 s left"]
