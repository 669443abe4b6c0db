"""A progress bar on stderr of a terminal: the step, the share done, the time left."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from hsyn_cli.cli.streams import LEAST_COLUMNS, one_line

TOO_EARLY = 0.05  # share of the work below which no estimate is shown


class Progress:
    """Called with the step and the share of the whole in [0, 1]. `say` prints a line meanwhile."""

    def __init__(self, show: Callable[[str, float], None], say: Callable[[str], None]) -> None:
        self._show, self.say = show, say

    def __call__(self, step: str, fraction: float) -> None:
        self._show(step, fraction)


class TimeLeft(ProgressColumn):
    """Time left at the pace up to the last finished step; it counts down in between."""

    def __init__(self) -> None:
        super().__init__()
        self._paces: dict[TaskID, tuple[float, float]] = {}  # share done, seconds of the whole

    def render(self, task: Task) -> Text:
        done, elapsed = task.completed, task.elapsed or 0.0
        before, whole = self._paces.get(task.id, (0.0, 0.0))
        if done > before:
            whole = elapsed / done
            self._paces[task.id] = done, whole
        if done < TOO_EARLY:
            return Text(f"{elapsed:.0f} s")
        return Text(time_left(whole - elapsed))


def time_left(seconds: float) -> str:
    """A time in words, in the unit that suits it."""
    if seconds >= 100 * 60:
        return f"about {seconds / 3600:.0f} h left"
    if seconds >= 100:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds:.0f} s left" if seconds >= 1 else "a moment left"


@contextlib.contextmanager
def progress_bar(quiet: bool, width: int = 24) -> Iterator[Progress]:
    """Yield `progress(step, fraction)`, with the fraction of the whole in [0, 1].

    It shows nothing if `quiet`; only the lines if stderr is no terminal, or a narrow one.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal or narrow():
        yield Progress(lambda step, fraction: None, (lambda line: None) if quiet else _line)
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=width),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeLeft(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        yield Progress(
            lambda step, fraction: bar.update(task, description=step, completed=fraction),
            lambda line: bar.console.print(one_line(line), markup=False, highlight=False),
        )


def _line(text: str) -> None:
    click.echo(one_line(text), err=True)


def narrow() -> bool:
    """Whether the terminal has no room for a bar."""
    try:
        return 0 < os.get_terminal_size(sys.stderr.fileno()).columns < LEAST_COLUMNS
    except (OSError, ValueError):  # no terminal of the system
        return False
