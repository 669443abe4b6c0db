"""Examples by their seed, so that each can be made again alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import cases, commands, verdict
from fuzzing.verdict import Problem
from fuzzing.warm import HANG_SECONDS, Outcome, Warm

BYTES = 8192  # of random choices; the largest example takes a tenth of them
READER_MB = 1280  # address space above that of the warm process
COMMANDS_MB = 6144


@dataclass(frozen=True)
class Example:
    """One example, what became of it, and what is wrong with that. `step`: reader or commands."""

    step: str
    seed: int
    made: Any
    outcome: Outcome
    problem: Problem | None

    def __str__(self) -> str:
        said = f"{self.problem.kind} | {self.problem.detail}" if self.problem else "fine"
        return " ".join(f"{self.step} seed {self.seed}: {self.made!r}: {said}".split())


def maker(strategy: st.SearchStrategy[Any]) -> Callable[[int], Any]:
    """A function from a seed to an example; None for the few that run out of random bytes."""
    found: list[Any] = []

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def keep(example: Any) -> None:
        found.append(example)

    def make(seed: int) -> Any:
        found.clear()
        choices = random.Random(seed).randbytes(BYTES)  # noqa: S311
        keep.hypothesis.fuzz_one_input(choices)  # type: ignore[attr-defined]
        return found[0] if found else None

    return make


def reader(warm: Warm, seeds: Iterable[int]) -> Iterator[Example]:
    """Mutated files through the reader."""
    make = maker(cases.reader_cases())
    for seed in seeds:
        case = make(seed)
        if case is not None:
            outcome = warm(case, HANG_SECONDS, READER_MB)
            yield Example("reader", seed, case, outcome, verdict.judge(case, outcome))


def command_lines(warm: Warm, seeds: Iterable[int]) -> Iterator[Example]:
    """Mutated files through whole commands."""
    make = maker(commands.commands())
    for seed in seeds:
        command = make(seed)
        if command is not None:
            outcome = warm(command, commands.SECONDS, COMMANDS_MB)
            problem = commands.judge(command, outcome)
            yield Example("commands", seed, command, outcome, problem)
