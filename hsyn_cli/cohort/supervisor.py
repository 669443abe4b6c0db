"""Run the pairs of a cohort: what is done is left, what fails never stops the rest."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.drivers import Others
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.keys import Hashes, key
from hsyn_cli.cohort.resume import Decision, decide, search_of, second_search, settled
from hsyn_cli.cohort.sources import Source
from hsyn_cli.cohort.status import Status
from hsyn_cli.cohort.tasks import LOGS, Event, Outcome, Task
from hsyn_cli.errors import HsynError
from hsyn_cli.io import atomic

PATIENCE = 0.5  # seconds to wait for news at a time


@dataclass(frozen=True)
class News:
    """What the supervisor tells: a pair began, is so far, or ended.

    Attributes:
        kind: "found": no need to run it, see `status`. "retry": it failed and gets another attempt.
    """

    kind: Literal["found", "began", "progress", "retry", "ended"]
    status: Status
    step: str = ""
    fraction: float = 0.0


@dataclass
class Tally:
    """How many pairs are done by this run, and were before; those that failed; those elsewhere.

    Attributes:
        anew: pairs that were done, and run again because something changed or files are missing.
        moved: pairs that left their device for the CPU in this run, for lack of memory there.
    """

    total: int
    done: int = 0
    before: int = 0
    busy: int = 0
    anew: int = 0
    moved: int = 0
    failed: list[Status] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Pairs of which nothing is known yet."""
        return self.total - self.done - self.before - self.busy - len(self.failed)


@dataclass(frozen=True)
class Attempt:
    """A pair that waits or runs."""

    job: Job
    status: Status


class Supervisor:
    """Gives the pairs to a source of work and writes their status files.

    Args:
        threads: of each pair. again: also run what failed for good in an earlier run.
        others: drivers of other shards. The pairs that they run are left alone.
        tell: gets the news. Called often.
    """

    def __init__(
        self,
        study: Path,
        jobs: Sequence[Job],
        source: Source,
        *,
        threads: int,
        again: bool = False,
        others: Others | None = None,
        tell: Callable[[News], None] = lambda news: None,
    ) -> None:
        self.tally = Tally(len(jobs))
        self._study, self._source, self.tell = study, source, tell
        self._threads, self._again, self._hashes = threads, again, Hashes()
        self._others = others
        self._waiting = deque(jobs)
        self._second: deque[Attempt] = deque()  # attempts, after all first ones
        self._running: dict[str, Attempt] = {}

    def run(self) -> Tally:
        """Run until every pair is done or failed. All workers end, whatever ends this.

        Raises OutputError if another driver took over.
        """
        try:
            while self._waiting or self._second or self._running:
                if self._source.free() > 0 and (self._waiting or self._second):
                    self._next()
                more = self._source.free() > 0 and (self._waiting or self._second)
                events = self._source.events(0.0 if more else PATIENCE)
                self._check()
                for event in events:
                    self._heard(event)
        finally:
            self._source.close()
            for attempt in self._running.values():
                atomic.clear(self._study / attempt.job.folder)
            with contextlib.suppress(OSError):
                (self._study / LOGS).rmdir()  # stays if a log is in it
        return self.tally

    def _check(self) -> None:
        """Raise OutputError if another driver took over."""
        if self._others is not None:
            self._others.check()

    def _write(self, job: Job, status: Status) -> None:
        """Write the status of a pair, unless it is another driver's by now."""
        self._check()
        statuses.write(job.status(self._study), status)

    def _next(self) -> None:
        """Look at the next pair, and start it if it has to run."""
        if not self._waiting:
            self._start(self._second.popleft())
            return
        job = self._waiting.popleft()
        found, busy = self._found(job)
        if found is not None and busy:
            self.tally.busy += 1
            self.tell(News("found", found))
            return
        try:
            own_key, decision = self._decide(job, found)
        except HsynError as error:
            files = found.files if found is not None else ()  # stay: the input may come back
            status = self._status(job, Decision("run", 1, search_of(job)), "", files)
            self._end(job, status, Outcome(error.exit_code, error.message, files=files))
            return
        if decision.what == "run":
            if found is not None and found.state == "running":
                atomic.clear(self._study / job.folder)  # what its driver left
            self.tally.anew += found is not None and found.state == "done"
            files = found.files if found is not None else ()
            self._start(Attempt(job, self._status(job, decision, own_key, files)))
            return
        if found is None:  # it is not due without a status
            return
        self.tally.before += decision.what == "done"
        if decision.what == "failed":
            self.tally.failed.append(found)
        self.tell(News("found", found))

    def _found(self, job: Job) -> tuple[Status | None, bool]:
        """The status of a pair, and whether another driver runs it, or will try again."""
        path = job.status(self._study)
        found = statuses.read(path)
        if self._others is None or found is None or settled(found):
            return found, False
        if (found.host, found.pid) in {(o.host, o.pid) for o in self._others.living()}:
            return found, True
        return statuses.read(path), False  # that driver may have ended with the pair since

    def _decide(self, job: Job, found: Status | None) -> tuple[str, Decision]:
        """The key of a pair and what to do. Raises InputError, WeightsError if it has no key."""
        own_key = key(job, self._threads, self._hashes)
        limits = self._source.limits
        return own_key, decide(job, own_key, found, self._study, limits, again=self._again)

    def _status(self, job: Job, decision: Decision, own_key: str, files: Sequence[str]) -> Status:
        """The status of a pair that begins. `files`: of an earlier attempt."""
        return Status(
            id=job.id,
            key=own_key,
            state="running",
            folder=job.folder,
            attempts=decision.attempts,
            search=decision.search,
            host=platform.node(),
            pid=os.getpid(),
            started=time.time(),
            files=tuple(files),
        )

    def _start(self, attempt: Attempt) -> None:
        job, status = attempt.job, replace(attempt.status, started=time.time())
        self._write(job, status)
        self._running[job.id] = Attempt(job, status)
        settings = {"search": status.search, "threads": self._threads}
        self._source.start(Task.of(job, self._study, **settings))
        self.tell(News("began", status))

    def _heard(self, event: Event) -> None:
        attempt = self._running.get(event.id)
        if attempt is None:
            return
        if event.outcome is None:
            self.tell(News("progress", attempt.status, event.step, event.fraction))
            return
        del self._running[event.id]
        outcome = event.outcome
        if not outcome.files:
            atomic.clear(self._study / attempt.job.folder)
            outcome = replace(outcome, files=_remove(self._study, attempt.status.files))
        self._end(attempt.job, attempt.status, outcome)

    def _end(self, job: Job, status: Status, outcome: Outcome) -> None:
        """Write down the end of an attempt, and let the pair wait for another if it gets one."""
        ended = replace(
            status,
            state="failed" if outcome.exit_code else "done",
            exit_code=outcome.exit_code,
            error=outcome.error,
            problems=outcome.problems,
            files=outcome.files,
            seconds=outcome.seconds,
            peak_memory_mb=outcome.peak_memory_mb,
            limit=outcome.limit,
            left=outcome.left,
            finished=time.time(),
        )
        self._write(job, ended)
        self.tally.moved += bool(ended.left)
        if not settled(ended):
            second = second_search(outcome.exit_code, status.search) or status.search
            decision = Decision("run", status.attempts + 1, second)
            self._second.append(Attempt(job, self._status(job, decision, status.key, ended.files)))
            self.tell(News("retry", ended))
            return
        if ended.state == "done":
            self.tally.done += 1
        else:
            self.tally.failed.append(ended)
        self.tell(News("ended", ended))


def _remove(study: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Remove the files of an earlier attempt; returns those that stay.

    Its status says "running" meanwhile, so that a kill leaves no pair that counts as done.
    """
    left = []
    for file in files:
        path = study / file
        if Path(file).is_absolute() or ".." in Path(file).parts:
            continue  # not in the study folder
        try:
            path.unlink(missing_ok=True)
        except OSError:
            left.append(file)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # stays if a file is in it
    return tuple(left)
