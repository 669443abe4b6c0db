"""What all stages of a template share: its settings, where it runs, and who is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.keys import Hashes
from hsyn_cli.cohort.supervisor import News, Tally
from hsyn_cli.config.template import Settings
from hsyn_cli.template.subjects import Subject

Progress = Callable[[str, float], None]
Start = Callable[[Tally], Callable[[News], None]]


def _nobody(tally: Tally) -> Callable[[News], None]:
    return lambda news: None


@contextlib.contextmanager
def _silent_pairs() -> Iterator[Start]:
    yield _nobody


@contextlib.contextmanager
def _silent_steps() -> Iterator[Progress]:
    yield lambda step, fraction: None


def _but_found(take: Callable[[News], None]) -> Callable[[News], None]:
    return lambda news: None if news.kind == "found" else take(news)


@dataclass(frozen=True)
class Tell:
    """Who is told what: the name of a stage, its pairs, and the steps of its averages."""

    stage: Callable[[str], None] = lambda text: None
    pairs: Callable[[], AbstractContextManager[Start]] = _silent_pairs
    steps: Callable[[], AbstractContextManager[Progress]] = _silent_steps

    def once_more(self) -> Tell:
        """The same for pairs that were told of: nothing of those that need not run."""

        @contextlib.contextmanager
        def pairs() -> Iterator[Start]:
            with self.pairs() as start:
                yield lambda tally: _but_found(start(tally))

        return replace(self, pairs=pairs)


@dataclass(frozen=True)
class Run:
    """One run of one template."""

    subjects: tuple[Subject, ...]
    out: Path
    settings: Settings
    work: Work
    tell: Tell = field(default_factory=Tell)
    hashes: Hashes = field(default_factory=Hashes)

    @property
    def leads(self) -> bool:
        """Whether this one of several shards makes the averages."""
        return self.work.shard.index == 1

    @property
    def channels(self) -> int:
        """How many each subject has."""
        return len(self.subjects[0].scans)

    @property
    def masked(self) -> bool:
        """Whether the user gave masks."""
        return self.subjects[0].mask is not None

    def without(self, names: Sequence[str]) -> Run:
        """The same run without some subjects."""
        left = tuple(subject for subject in self.subjects if subject.id not in names)
        return replace(self, subjects=left)
