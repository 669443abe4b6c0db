"""What all stages of a template share: its settings, where it runs, and who is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.keys import Hashes
from hsyn_cli.cohort.supervisor import News, Tally
from hsyn_cli.template.subjects import Subject

Frame = Literal["affine", "rigid"]
Progress = Callable[[str, float], None]
Start = Callable[[Tally], Callable[[News], None]]
OF_THE_RUN = ("device", "leave_out", "keep_rounds", "rounds", "tolerance")  # decide no pair's files


@dataclass(frozen=True)
class Settings:
    """How a template is made.

    Attributes:
        frame: what the passes before the first round align by.
        rounds: at most. tolerance: a change of the template below which no further round follows.
        sharpen: how much detail is added to each mean, see `averages.sharpened`; 0: none.
        spacing: voxel of the template, mm; None: the median of the scans.
        preset: of all rounds but the first. first_preset: of that.
        leave_out: go on without subjects that fail. keep_rounds: keep the fields of all rounds.
        The others are as in `register_files`.
    """

    frame: Frame = "affine"
    rounds: int = 4
    tolerance: float = 0.02
    sharpen: float = 0.25
    spacing: float | None = None
    preset: str = "default"
    first_preset: str = "fast"
    model: str = "auto"
    similarity: str = "auto"
    search: str = "near"
    smoothness: float = 1.0
    seed: int = 0
    device: str = "auto"
    leave_out: bool = False
    keep_rounds: bool = False

    def preset_of(self, number: int) -> str:
        """The preset of a round, from 1."""
        return self.first_preset if number == 1 and self.rounds > 1 else self.preset

    @property
    def method(self) -> dict[str, Any]:
        """Options of every registration."""
        names = ("model", "similarity", "search", "smoothness", "seed", "device")
        return {name: getattr(self, name) for name in names}

    def plain(self) -> dict[str, Any]:
        """For template.json."""
        return asdict(self)


def _nobody(tally: Tally) -> Callable[[News], None]:
    return lambda news: None


@contextlib.contextmanager
def _silent_pairs() -> Iterator[Start]:
    yield _nobody


@contextlib.contextmanager
def _silent_steps() -> Iterator[Progress]:
    yield lambda step, fraction: None


@dataclass(frozen=True)
class Tell:
    """Who is told what: the name of a stage, its pairs, and the steps of its averages."""

    stage: Callable[[str], None] = lambda text: None
    pairs: Callable[[], AbstractContextManager[Start]] = _silent_pairs
    steps: Callable[[], AbstractContextManager[Progress]] = _silent_steps


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
