"""A cohort from its list of pairs to its page."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsyn_cli.cohort import page
from hsyn_cli.cohort.drivers import driving
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.cohort.sources import Limits, Source
from hsyn_cli.cohort.supervisor import News, Supervisor, Tally
from hsyn_cli.devices import available_cores
from hsyn_cli.errors import HsynError

PAGE_EVERY = 30.0  # seconds; more where the page takes long
PAGE_SHARE = 0.05  # of the time at most goes into the page


@dataclass(frozen=True)
class Work:
    """Where and how the pairs run.

    Attributes:
        workers: on this computer. scheduler: address or file of Dask's, in place of workers here.
        threads: of each pair; None: the cores of this computer shared out, or 1 with a scheduler.
        again: also run what failed for good in an earlier run.
    """

    workers: int = 1
    scheduler: str | None = None
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    shard: Shard = field(default_factory=Shard)
    again: bool = False

    @property
    def threads_each(self) -> int:
        """The threads of a pair."""
        if self.threads is not None:
            return self.threads
        return 1 if self.scheduler else max(1, available_cores() // self.workers)

    def source(self, sign: Path) -> Source:
        """The workers, which work while the file `sign` of this driver is there.

        Raises UsageError, InputError for a scheduler that cannot be used.
        """
        if self.scheduler is not None:
            from hsyn_cli.cohort.sources.cluster import Cluster

            return Cluster(self.scheduler, self.limits, sign)
        from hsyn_cli.cohort.sources.local import LocalWorkers

        return LocalWorkers(self.workers, self.limits)


def run(
    study: Path,
    jobs: Sequence[Job],
    work: Work,
    start: Callable[[Tally], Callable[[News], None]],
) -> Tally:
    """Run what has to run of a shard, and write the page of the whole cohort.

    `start` gets the tally, which counts on, and returns what takes the news. What ends the run
    early leaves a page, too. Raises OutputError if another driver works on the same pairs, or if
    files that are not hsyn's stand where the page goes.
    """
    page.check(study)
    with driving(study, work.shard) as (sign, others):
        supervisor = Supervisor(
            study,
            work.shard.of(jobs),
            work.source(sign),
            threads=work.threads_each,
            again=work.again,
            others=others,
        )
        supervisor.tell = start(supervisor.tally)
        try:
            with _pages(study, jobs):
                supervisor.run()
        except HsynError:
            with contextlib.suppress(HsynError):  # the first error tells
                page.write(study, jobs)
            raise
        page.write(study, jobs)
    return supervisor.tally


@contextlib.contextmanager
def _pages(study: Path, jobs: Sequence[Job]) -> Iterator[None]:
    """Write the page now and then meanwhile."""
    over = threading.Event()

    def write() -> None:
        pause = PAGE_EVERY
        while not over.wait(pause):
            start = time.monotonic()
            with contextlib.suppress(HsynError):  # the last one tells
                page.write(study, jobs)
            pause = max(PAGE_EVERY, (time.monotonic() - start) / PAGE_SHARE)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # two must not write at a time
