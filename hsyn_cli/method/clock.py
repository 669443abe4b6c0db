"""Seconds per step of a registration, and its progress. Not part of the paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hsyn_cli.devices import return_memory, wait_for

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, float], None]  # the step's name and the share of the work done

# Seconds measured on two cores. Only the progress bar uses them.
SECONDS = {
    "load networks": 0.1, "affine": 3.0, "networks": 4.5, "fold repair": 0.5, "exact inverse": 3.0,
    "composition": 1.0, "total fields": 5.5, "checks": 0.1, "warping": 0.6,
}  # fmt: skip
SECONDS_PER_WORK = 1.9  # of the refinement, see `Preset.work`


@dataclass
class Clock:
    """Times the steps and passes on progress. A step that runs again adds to its seconds.

    A step ends when its device has done all of it. After each step, the memory that it freed goes
    back to the system.

    Attributes:
        device: that computes; None: the CPU alone.
    """

    progress: Progress
    work: float
    seconds: dict[str, float] = field(default_factory=dict)
    done: float = 0.0
    device: torch.device | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[float], None]]:
        """Yields a function to call with the share of this step that is done."""
        shares = SECONDS | {"refinement": max(SECONDS_PER_WORK * self.work, 0.01)}
        total = sum(shares.values())
        share = shares.get(name, 0.0) if name not in self.seconds else 0.0
        self.progress(name, self.done / total)
        begun = time.monotonic()
        try:
            yield lambda part: self.progress(name, (self.done + part * share) / total)
            if self.device is not None:
                wait_for(self.device)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
            self.done += share
        return_memory()
