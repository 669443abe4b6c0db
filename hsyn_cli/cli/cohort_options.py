"""Where the pairs of a cohort run: the options of every command that runs one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import MACHINE, F, option, warn
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.cohort.batch import Work
    from hsyn_cli.cohort.forecast import Forecast

OPTIONS = (
    option(
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        heading=MACHINE,
        help="How many pairs run at the same time.",
    ),
    option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        heading=MACHINE,
        help="CPU threads of each pair.  [default: all cores shared out; 1 with --scheduler]",
    ),
    option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        heading=MACHINE,
        help="Kill a pair that takes longer.",
    ),
    option(
        "--memory",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MB",
        heading=MACHINE,
        help="Kill a pair whose process uses more (Linux).",
    ),
    option(
        "--shard",
        metavar="I/N",
        heading=MACHINE,
        help="Run every N-th pair only, from the I-th; slurm/N: I is the number of the array's "
        "task.",
    ),
    option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        heading=MACHINE,
        help="Run the pairs on the workers of this Dask scheduler.",
    ),
    option(
        "--retry-failed",
        is_flag=True,
        heading=MACHINE,
        help="Also run the pairs anew that failed in an earlier run.",
    ),
    option(
        "--dry-run",
        is_flag=True,
        heading=MACHINE,
        help="Forecast time, memory and disk on this computer, and run nothing.",
    ),
)


def cohort_options(command: F) -> F:
    """Add these options to a command, in their order."""
    for each in reversed(OPTIONS):
        command = each(command)
    return command


def work_of(
    jobs: int, threads: int | None, timeout: float | None, memory: float | None,
    shard: str | None, scheduler: str | None, retry_failed: bool,
) -> Work:  # fmt: skip
    """What the options say. Raises UsageError."""
    from hsyn_cli.cohort.batch import Work
    from hsyn_cli.cohort.shards import Shard, parse
    from hsyn_cli.cohort.sources import Limits

    if scheduler is not None and jobs > 1:
        raise UsageError("--jobs is for this computer, and --scheduler for others", "give one")
    if memory is not None and not Path("/proc/self/statm").exists():
        warn(["--memory is not watched on this system"])
    part = Shard() if shard is None else parse(shard)
    return Work(jobs, scheduler, threads, Limits(timeout, memory), part, retry_failed)


def show_forecast(found: Forecast, as_json: bool) -> None:
    """Print what the pairs will cost."""
    from rich.console import Console

    from hsyn_cli.results.record import record

    if as_json:
        click.echo(record(found.to_dict(), found.warnings), nl=False)
    else:
        Console().print(found.table())
