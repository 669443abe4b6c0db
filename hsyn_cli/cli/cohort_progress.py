"""The progress of a cohort on stderr: bars on a terminal, elsewhere a line for each pair."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from hsyn_cli.cli.progress import TimeLeft, narrow, time_left
from hsyn_cli.cli.streams import one_line
from hsyn_cli.cohort.page.words import DOUBTFUL
from hsyn_cli.cohort.rows import WROTE

if TYPE_CHECKING:
    from hsyn_cli.cohort.status import Status
    from hsyn_cli.cohort.supervisor import News, Tally

Start: TypeAlias = "Callable[[Tally], Callable[[News], None]]"


@contextlib.contextmanager
def cohort_progress(quiet: bool) -> Iterator[Start]:
    """Yield what takes the tally, and returns what takes the news. It shows nothing if `quiet`."""
    console = Console(stderr=True)
    if quiet:
        yield lambda tally: lambda news: None
    elif console.is_terminal and not narrow():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeLeft(),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            yield lambda tally: Live(bars, tally)
    else:
        yield Lines


def told(news: News) -> str:
    """A line about a pair that ended, or failed and gets another attempt."""
    status = news.status
    if status.state == "done":
        where = f", on the CPU: {status.left}" if status.left else ""
        return one_line(f"{status.id} done in {status.seconds:.0f} s{where}")
    word = DOUBTFUL if doubtful(status) else "failed"
    again = {"retry": "; it gets another attempt", "found": " (in an earlier run)"}
    line = f"{status.id} {word}, exit code {status.exit_code}: {status.error}"
    return one_line(line + again.get(news.kind, ""))


def doubtful(status: Status) -> bool:
    """Whether a pair that failed wrote its files, as the page tells it."""
    return status.exit_code in WROTE


def count(tally: Tally) -> str:
    """How many pairs are known, failed and doubtful."""
    return ", ".join((f"{tally.total - tally.left} of {tally.total} pairs", *faults(tally)))


def faults(tally: Tally) -> list[str]:
    """How many pairs failed, and how many are doubtful, as far as there are any."""
    odd = sum(map(doubtful, tally.failed))
    counts = {"failed": len(tally.failed) - odd, DOUBTFUL: odd}
    return [f"{n} {word}" for word, n in counts.items() if n]


class Lines:
    """A line for each pair that ended."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._start, self._ended = tally, time.monotonic(), 0

    def __call__(self, news: News) -> None:
        failed_before = news.kind == "found" and news.status.state == "failed"
        if news.kind not in ("ended", "retry") and not failed_before:
            return
        self._ended += news.kind == "ended" and news.status.seconds > 0
        tally, left = self._tally, ""
        if self._ended and tally.left:
            each = (time.monotonic() - self._start) / self._ended
            left = f", {time_left(each * tally.left)}"
        click.echo(f"[{tally.total - tally.left}/{tally.total}{left}] {told(news)}", err=True)


class Live:
    """A bar for the cohort and one for each pair that runs; failures stay as lines above."""

    def __init__(self, bars: Bars, tally: Tally) -> None:
        self._bars, self._tally = bars, tally
        self._whole = bars.add_task("pairs", total=1.0)
        self._pairs: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}
        self._ended = 0

    def __call__(self, news: News) -> None:
        name, bars = news.status.id, self._bars
        if news.kind == "began":
            self._pairs[name] = bars.add_task(escape(name), total=1.0)
        elif news.kind == "progress" and name in self._pairs:
            self._shares[name] = news.fraction
            line = escape(f"{name}: {news.step}")
            bars.update(self._pairs[name], description=line, completed=news.fraction)
        else:
            self._ended += news.kind == "ended"
            self._shares.pop(name, None)
            if name in self._pairs:
                bars.remove_task(self._pairs.pop(name))
            if news.status.state == "failed" or news.status.left:
                bars.console.print(escape(told(news)), highlight=False)
        tally = self._tally
        whole = self._ended + tally.left  # of this run, as far as is known
        share = (self._ended + sum(self._shares.values())) / max(1, whole)
        bars.update(self._whole, description=count(tally), completed=min(1.0, share))
