"""What the stages of a template have in common: they stand, or are registered and then averaged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.drivers import driving
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.space import Grid
from hsyn_cli.template import averages, scans
from hsyn_cli.template.averages import Means
from hsyn_cli.template.pairs import Registered, keys_of, register, wait
from hsyn_cli.template.run import Progress, Run
from hsyn_cli.template.stages import Stage, find, key_of
from hsyn_cli.template.subjects import Subject


@dataclass(frozen=True)
class Making:
    """A stage in the making.

    Attributes:
        run: with the subjects whose registrations did not fail. done: these registrations.
    """

    run: Run
    folder: Path
    key: str
    step: Progress
    done: Registered = field(default_factory=lambda: Registered({}, {}))
    left_out: Sequence[Mapping[str, Any]] = ()
    start: float = field(default_factory=time.monotonic)

    def entry(self, means: Means, grid: Grid) -> dict[str, Any]:
        """What every stage.json holds."""
        problems = {name: status.problems for name, status in self.done.done.items()}
        return {
            "key": self.key,
            "stage": self.folder.name,
            "subjects": len(self.run.subjects),
            "left_out": list(self.left_out),
            "doubtful": {name: list(why) for name, why in problems.items() if why},
            "seconds": time.monotonic() - self.start,
            "sharpness": averages.sharpness(means.images[0], means.mask, grid),
        }


def stage(
    run: Run,
    folder: Path,
    told: str,
    decides: Mapping[str, Any],
    jobs: Sequence[Job],
    make: Callable[[Making], Stage],
) -> Stage:
    """The stage in a folder as it stands; or else its pairs run, and the first shard makes it.

    `decides`: what decides its files beside the pairs. Raises BatchError and the errors of `make`.
    """
    key = key_of({**decides, "pairs": keys_of(run, jobs)})
    whole = not run.settings.leave_out

    def stands() -> Stage | None:
        return find(folder, key, run.hashes, whole=whole)

    found = stands()
    retried = run.leads and run.work.again and found is not None and found.left_out
    if found is not None and not retried:
        return found
    run.tell.stage(told)
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    done = register(run, folder, jobs) if jobs else Registered({}, {})
    if run.leads:
        left = run.without(list(done.failed))
        out = done.left_out(run, folder.name)
        with driving(folder, run.work.shard), run.tell.steps() as step:
            return make(Making(left, folder, key, step, done, out, start))
    wait(run, folder, lambda: stands() is not None)
    made = stands()
    assert made is not None
    return made


class Loader:
    """Reads the scans of subjects, and checks that all have grey values of one kind."""

    def __init__(self) -> None:
        self._first: tuple[scans.Scans, Subject] | None = None

    def __call__(self, subject: Subject) -> scans.Scans:
        """Raises InputError, GeometryError."""
        found = scans.load(subject)
        if self._first is None:
            self._first = found, subject
        scans.check_scale(found, self._first[0], subject, self._first[1])
        return found
