"""What `hsyn batch` prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.cohort_progress import doubtful, faults
from hsyn_cli.errors import BatchError
from hsyn_cli.results.record import record

if TYPE_CHECKING:
    from hsyn_cli.cohort.supervisor import Tally


def tell(tally: Tally, study: Path, *, quiet: bool, as_json: bool) -> None:
    """Print what became of the pairs. Raises BatchError if some failed."""
    if as_json:
        click.echo(_as_json(study, tally), nl=False)
    elif not quiet:
        click.echo(_summary(tally, study))
    if tally.failed:
        hint = f"see {study / 'index.html'}; --retry-failed runs them again"
        text = " and ".join(faults(tally))
        raise BatchError(f"of {tally.total} pairs, {text}", hint)


def _summary(tally: Tally, study: Path) -> str:
    """What became of the pairs, in a few lines."""
    before = f" ({tally.before} of them before)" if tally.before else ""
    parts = [f"{tally.done + tally.before} of {tally.total} pairs are done{before}"]
    parts += faults(tally)
    parts += [f"{tally.anew} ran again because something changed"] if tally.anew else []
    parts += [f"{tally.moved} ran on the CPU, for lack of memory on the device"] * bool(tally.moved)
    parts += [f"{tally.busy} run in another hsyn batch"] if tally.busy else []
    return f"{', '.join(parts)}\n{study / 'index.html'}"


def _as_json(study: Path, tally: Tally) -> str:
    """The same for programs."""
    failed = [
        {
            "id": status.id,
            "exit_code": status.exit_code,
            "doubtful": doubtful(status),
            "error": status.error,
        }
        for status in tally.failed
    ]
    plain = {
        "study": str(study),
        "pairs": tally.total,
        "done": tally.done,
        "done_before": tally.before,
        "run_again": tally.anew,
        "elsewhere": tally.busy,
        "moved_to_cpu": tally.moved,
        "failed": failed,
    }
    return record(plain)
