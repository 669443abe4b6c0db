"""The registrations of a stage: a cohort of pairs, each a scan to the mean so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.cohort import batch
from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.drivers import Others, driving
from hsyn_cli.cohort.jobs import PAIRS, Job
from hsyn_cli.cohort.keys import key
from hsyn_cli.cohort.resume import settled
from hsyn_cli.cohort.rows import WROTE
from hsyn_cli.cohort.status import Status
from hsyn_cli.errors import BatchError
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.template.run import Run
from hsyn_cli.template.stages import MASK, Stage

LOOK = 1.0  # seconds between two looks at what other shards did
PATIENCE = 60.0  # seconds without a sign of life of any other shard


@dataclass(frozen=True)
class Registered:
    """What became of the pairs of a stage.

    Attributes:
        done: {id: status} of those with files. failed: of those without.
    """

    done: Mapping[str, Status]
    failed: Mapping[str, Status]

    def left_out(self, run: Run, stage: str) -> list[dict[str, Any]]:
        """The entries of those that failed."""
        return [
            {
                "id": subject.id,
                "scans": [str(scan) for scan in subject.scans],
                "stage": stage,
                "exit_code": self.failed[subject.id].exit_code,
                "error": self.failed[subject.id].error,
            }
            for subject in run.subjects
            if subject.id in self.failed
        ]


def jobs_of(run: Run, before: Stage, options: Mapping[str, Any], *, started: bool) -> list[Job]:
    """A job for each subject: its scan, moving, to the mean of the stage `before`, fixed.

    `started`: from the affine maps of that stage.
    """
    jobs = []
    for subject in run.subjects:
        others = [(scan, before.mean(k)) for k, scan in enumerate(subject.scans[1:], 2)]
        inputs = Inputs(
            subject.scans[0],
            before.mean(),
            fixed_mask=before.folder / MASK if run.masked else None,
            moving_mask=subject.mask,
            initial_transform=before.affine(subject.id) if started else None,
            others=tuple(others),
        )
        plain = {**run.settings.method, **options, "rounded": True}
        jobs.append(Job(subject.id, inputs, f"{PAIRS}/{subject.id}", plain))
    return jobs


def keys_of(run: Run, jobs: Sequence[Job]) -> dict[str, str]:
    """{id: key of the pair}. Raises InputError, WeightsError."""
    return {job.id: key(job, run.work.threads_each, run.hashes) for job in jobs}


def register(run: Run, folder: Path, jobs: Sequence[Job]) -> Registered:
    """Run what has to run of the pairs, and wait for those of other shards.

    Raises BatchError if a pair failed and is not to be left out, or if too few are left; or if no
    other shard runs what is missing.
    """
    with run.tell.pairs() as start:
        batch.run(folder, jobs, run.work, start)
    wait(run, folder, lambda: all(map(_over, _statuses(folder, jobs))))
    found = {status.id: status for status in _statuses(folder, jobs) if status is not None}
    done = {name: status for name, status in found.items() if status.exit_code in WROTE}
    failed = {name: status for name, status in found.items() if name not in done}
    if failed and (not run.settings.leave_out or len(done) < 2):
        first = next(iter(failed.values()))
        text = f"{folder.name}: {len(failed)} of {len(jobs)} scans failed, {first.id}: "
        hint = "mend it or take it off the list; --leave-out goes on without, --retry-failed again"
        raise BatchError(text + first.error, hint)
    return Registered(done, failed)


def _statuses(folder: Path, jobs: Sequence[Job]) -> list[Status | None]:
    return [statuses.read(job.status(folder)) for job in jobs]


def _over(status: Status | None) -> bool:
    return status is not None and settled(status)


def wait(run: Run, folder: Path, over: Callable[[], bool]) -> None:
    """Wait until something is over that other shards do in a stage.

    Raises BatchError if none of them lives for a while.
    """
    if over():
        return
    with driving(folder, run.work.shard) as (_, others):
        wait_beside(others, folder.name, over)


def wait_beside(others: Others, name: str, over: Callable[[], bool]) -> None:
    """The same for a driver of the stage `name` that knows the others already."""
    quiet = time.monotonic()
    while not over():
        if others.living():
            quiet = time.monotonic()
        if time.monotonic() - quiet > PATIENCE:
            text = f"{name} waits for the other shards, and none of them runs"
            raise BatchError(text, "start them; the same command goes on from there")
        time.sleep(LOOK)
