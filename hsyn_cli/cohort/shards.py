"""Shards: the parts of a cohort that several drivers work on at the same time."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hsyn_cli.cohort.jobs import Job
from hsyn_cli.errors import UsageError

SLURM = "SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1. The whole is part 1 of 1."""

    index: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        """Its name in file names."""
        return "all" if self.count == 1 else f"{self.index}-of-{self.count}"

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Every `count`-th of the jobs in the order of their ids, so that shards differ by one.

        A longer list moves pairs to other shards. Their status files go on to hold.
        """
        return sorted(jobs, key=lambda job: job.id)[self.index - 1 :: self.count]


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard "i/N", or "slurm/N" with the index of the array task. Raises UsageError."""
    match = re.fullmatch(r"(slurm|\d{1,9})/(\d{1,9})", text)
    if match is None:
        hint = "give --shard 2/8, or --shard slurm/8 in an array of 8 jobs"
        raise UsageError(f"{text!r} is no shard", hint)
    index, count = match.groups()
    if index == "slurm":
        index = environment.get(SLURM, "")
        if not re.fullmatch(r"\d{1,9}", index):
            state = f"is {index!r}" if index else "is not set"
            hint = f"start an array of jobs: sbatch --array=1-{count}"
            raise UsageError(f"--shard {text} needs {SLURM}, which {state}", hint)
    if not 1 <= int(index) <= int(count):
        hint = f"count from 1 to {count}, in SLURM: sbatch --array=1-{count}"
        raise UsageError(f"there is no shard {index} of {count}", hint)
    return Shard(int(index), int(count))
