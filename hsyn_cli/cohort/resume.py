"""Which pairs of a cohort have to run, by their status files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.status import Status
from hsyn_cli.errors import (
    DeviceError,
    FailedError,
    HsynError,
    MemoryLimitError,
    OutputError,
    UsageError,
    WeightsError,
)

MOST_ATTEMPTS = 2
BY_THE_METHOD = (FailedError.exit_code, HsynError.exit_code)  # another search may help
TIMED_OUT = 124  # exit code of a pair that took too long, as of the program `timeout`
OF_A_COMPUTER = tuple(
    error.exit_code for error in (UsageError, OutputError, WeightsError, DeviceError)
)
DIED = 128  # exit codes above tell of a worker that died, of the signal that killed it


@dataclass(frozen=True)
class Decision:
    """What to do with a pair.

    Attributes:
        what: "run" it, or leave it: it is "done", or it "failed" for good.
        attempts: which attempt it is. search: for it.
    """

    what: Literal["run", "done", "failed"]
    attempts: int = 1
    search: str = "near"


def decide(
    job: Job, key: str, status: Status | None, study: Path, limits: Limits, *, again: bool = False
) -> Decision:
    """Decide by the status that a pair has.

    `limits`: of this run. `again`: also run what failed for good.
    """
    own = search_of(job)
    anew = Decision("run", 1, own)
    if status is None or status.key != key:
        return anew
    if status.state == "running":  # in a driver that died
        return Decision("run", status.attempts, status.search)
    if status.state == "done":
        there = all((study / file).is_file() for file in status.files)
        return Decision("done") if there else anew
    if again or _relaxed(status, limits):
        return anew
    second = second_search(status.exit_code, status.search)
    if status.attempts < MOST_ATTEMPTS and second is not None:
        return Decision("run", status.attempts + 1, second)
    return anew if by_others(status.exit_code) else Decision("failed")


def _relaxed(status: Status, limits: Limits) -> bool:
    """Whether a limit ended the pair that is higher by now, or gone."""
    if status.limit is None:
        return False
    now = limits.seconds if status.exit_code == TIMED_OUT else limits.memory_mb
    return now is None or now > status.limit


def by_others(exit_code: int) -> bool:
    """Whether a failure need not be the pair's.

    The computer may have a full disk, no GPU, another checkpoint or torch, and someone may have
    killed the process.
    """
    return exit_code in OF_A_COMPUTER or exit_code > DIED


def second_search(exit_code: int, search: str) -> str | None:
    """The search of a second attempt; None: it would end as the first one.

    A full search may help where the method failed. A worker that was killed, or used too much
    memory, tells nothing of the search, and gets the same once more.
    """
    if exit_code in BY_THE_METHOD:
        return "full" if search != "full" else None
    if exit_code > DIED or exit_code in (TIMED_OUT, MemoryLimitError.exit_code):
        return search
    return None


def search_of(job: Job) -> str:
    """The search that a job asks for."""
    return str(job.options.get("search", "near"))


def settled(status: Status) -> bool:
    """Whether the driver of a pair is over with it: it does not run, nor wait for an attempt."""
    if status.state != "failed":
        return status.state == "done"
    last = status.attempts >= MOST_ATTEMPTS
    return last or second_search(status.exit_code, status.search) is None
