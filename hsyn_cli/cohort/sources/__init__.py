"""Where the pairs of a cohort run. All sources answer to the same few calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hsyn_cli.cohort.tasks import Event, Task


@dataclass(frozen=True)
class Limits:
    """What ends an attempt at a pair. `seconds` it may take, `memory_mb` its worker may use."""

    seconds: float | None = None
    memory_mb: float | None = None


class Source(Protocol):
    """Runs tasks. `close` ends all that run."""

    limits: Limits

    def free(self) -> int:
        """How many more tasks can start now."""

    def start(self, task: Task) -> None:
        """Start a task. It ends with an event that has an outcome, whatever happens to it."""

    def events(self, patience: float) -> list[Event]:
        """What happened since the last call; waits up to `patience` seconds for the first."""

    def close(self) -> None:
        """End all tasks that run, at once, and all workers."""
