"""A training session from data to checkpoint: cache, plan, run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hsyn_cli.config.training import Training
from hsyn_cli.devices import (
    choose_device,
    convolution_type,
    peak_memory_mb,
    use_threads,
    use_torch_threads,
)
from hsyn_cli.errors import OutputError, UsageError, WeightsError
from hsyn_cli.io import checkpoints
from hsyn_cli.method.networks import architecture
from hsyn_cli.training import curves, loop, phases, processes, runs
from hsyn_cli.training.cache import Cache, load_cache, settings
from hsyn_cli.training.loop import Record, State
from hsyn_cli.training.pairs import PairSource

SAVE_EVERY = 60.0  # seconds between states on disk
ENOUGH = 0.5  # share of the default plan's steps below which its finest level is left out
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class PlannedPhase:
    """One phase: its name, steps and measured seconds per step."""

    name: str
    steps: int
    seconds_per_step: float


@dataclass(frozen=True)
class Plan:
    """The plan of a run. `memory_mb`: peak memory of this process while it tried all phases."""

    phases: tuple[PlannedPhase, ...]
    training: Training
    memory_mb: float | None
    finest_left_out: bool = False

    @property
    def seconds(self) -> float:
        return sum(phase.steps * phase.seconds_per_step for phase in self.phases)


class Session:
    """A run folder with its data, networks and plan.

    Use it as a context manager. It keeps other trainings out of the folder, and leaves the process
    group of torchrun.
    """

    def __init__(self, out: Path, device: str, threads: int | None = None) -> None:
        use_torch_threads(threads)
        self._threads = threads
        self.run = runs.RunFolder(out)
        self._stopping = False
        self.rank, self.world = processes.join(choose_device(device))
        self.device = processes.own_device(choose_device(device))

    def __enter__(self) -> Session:
        """Claim the folder. Raises OutputError, also if another training runs in it."""
        with contextlib.ExitStack() as stack:
            stack.callback(processes.leave)
            if self.rank == 0:
                self._claim = stack.enter_context(runs.claimed(self.run))
            processes.barrier()
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._exits.__exit__(*details)

    def configure(
        self, given: Path | None, start: str | None, resume: bool, seed: int | None
    ) -> None:
        """Make the training config.

        Raises OutputError if the run exists without `resume`, or does not exist with it.
        """
        self.resumed, self.start = resume, None if resume else start
        self.may_drop_level = given is None and start is None
        if self.run.config.exists() and not resume:
            raise OutputError(
                f"{self.run.folder} holds a training run already",
                "continue it with --resume, or choose another folder",
            )
        if resume:
            if not self.run.config.exists():
                raise OutputError(
                    f"{self.run.folder} holds no training run", "omit --resume to start one"
                )
            if not self.run.state.exists():
                raise OutputError(
                    f"{self.run.folder} holds no state to resume from",
                    f"remove {self.run.config} and begin anew",
                )
            self.training = runs.read_config(self.run.config)
            return
        self.training = runs.read_config(given) if given else Training()
        if start is not None:
            self.training = _for_checkpoint(self.training, start, given is not None)
        else:
            self.training.check_trained()
        if seed is not None:
            self.training = dataclasses.replace(self.training, seed=seed)
        if self.training.batch % self.world:
            raise UsageError(
                f"{self.world} processes cannot share a batch of {self.training.batch}",
                'set "batch" in --config',
            )

    def load_data(self, data: Path | None, progress: Progress) -> Cache:
        """Load the cache of the run, or make it from `data`, and set up networks and pairs."""
        lacking = not (self.run.cache / "cache.json").exists()
        if lacking and data is None:
            raise UsageError(
                "--data is missing", "give the images; this run has no cache of them yet"
            )
        if lacking and data is not None and self.rank == 0:
            from hsyn_cli.training.data import build_cache, collect

            use_threads(self._threads)
            build_cache(collect(data), self.training, self.run.cache, progress)
        processes.barrier()
        self.cache = load_cache(self.run.cache)
        if self.cache.made_with != settings(self.training):
            raise UsageError(
                f"{self.run.cache} was made by another version, or with another spacing, size, "
                "labels, intensities or surroundings than the config has",
                "remove the folder; hsyn then makes it again",
            )
        if self.training.split and not self.cache.splits:
            raise UsageError(
                f"{self.run.cache} does not say which subjects are for training and validation",
                "remove the folder, and give --data a CSV with a column split",
            )
        if self.training.precision == "auto":
            slow = float(convolution_type(self.device) == torch.float32)
            precision = "float32" if processes.agreed([slow], self.device)[0] else "bfloat16"
            self.training = dataclasses.replace(self.training, precision=precision)
        self._build()
        if self.start is not None:
            runs.load_start(self.start, self.training, self.networks)
        return self.cache

    def _build(self) -> None:
        bf16 = self.training.precision == "bfloat16"
        self.networks = phases.build(self.training, self.device, bf16)
        self.source = PairSource(self.cache, self.training, self.device)

    def plan(self, minutes: float | None = None) -> Plan:
        """Time two steps of each phase and, with `minutes`, scale all steps to that time.

        Every phase keeps at least one step. If the default plan would get less than the share
        `ENOUGH` of its steps, it loses its finest level first: few steps of all levels are worth
        less than more steps of the coarser levels.
        """
        plan = self._measured()
        if minutes is None:
            return plan
        depth = len(self.training.sn_net.levels)
        if self.may_drop_level and 60 * minutes < ENOUGH * plan.seconds and depth > 1:
            self.training = self.training.without_finest()
            self._build()
            plan = self._measured()
        self.training = self.training.scaled(60 * minutes / plan.seconds)
        todo = phases.phases(self.training, self.networks, self.source)
        scaled = tuple(
            dataclasses.replace(p, steps=t.steps) for p, t in zip(plan.phases, todo, strict=True)
        )
        left_out = len(self.training.sn_net.levels) < depth
        return Plan(scaled, self.training, peak_memory_mb(), left_out)

    def _measured(self) -> Plan:
        todo = phases.phases(self.training, self.networks, self.source)
        pace = [
            loop.seconds_per_step(phase, self.networks, self.training.batch, self.device)
            for phase in todo
        ]
        pace = processes.agreed(pace, self.device)
        planned = [PlannedPhase(p.name, p.steps, s) for p, s in zip(todo, pace, strict=True)]
        return Plan(tuple(planned), self.training, peak_memory_mb())

    def train(self, stop_after: float | None = None) -> Iterator[Record]:
        """Train from the saved state to the end; yield log records.

        After `stop_after` minutes, or after `stop`, it saves the state and ends.
        """
        run, training, networks = self.run, self.training, self.networks
        first, state = self.rank == 0, State()
        if self.resumed:
            state = runs.load_state(run, training, networks)
            if first:
                run.cut_log(state)
        elif first:
            runs.begin(run, self._claim, training, networks)
        end = math.inf if stop_after is None else time.monotonic() + 60 * stop_after
        saved = time.monotonic()

        def keep(state: State) -> None:
            nonlocal saved
            late = float(self._stopping or time.monotonic() > end)
            over = bool(processes.agreed([late], self.device)[0])
            phase_ended = state.optimiser is None
            if first and (over or phase_ended or time.monotonic() - saved > SAVE_EVERY):
                self._save(state)
                saved = time.monotonic()
            if over:
                raise _Stopped

        todo = phases.phases(training, networks, self.source)
        with contextlib.suppress(_Stopped):
            for record in loop.run(todo, networks, state, training, keep, save_every=0.0):
                if first:
                    run.append(record)
                yield record
        self.finished = state.phase == len(todo)

    def stop(self) -> None:
        """Let `train` save its state at the next record, and end."""
        self._stopping = True

    def _save(self, state: State) -> None:
        """Write checkpoint, state and curves. The checkpoint is never older than the state."""
        runs.save_checkpoint(self.run, self.training, self.networks, state)
        runs.save_state(self.run, self.training, self.networks, state)
        curves.draw(self.run.records(), self.run.curves)


class _Stopped(Exception):
    """The training ends before its last step, with its state saved."""


def _for_checkpoint(training: Training, start: str, given: bool) -> Training:
    """`training` with the architecture of a checkpoint, and short stages unless it has its own."""
    checkpoint = checkpoints.load(start)
    sn, di = architecture(checkpoint)
    default, own = Training(), training.sn_net
    if given and (own, training.di_net) != (default.sn_net, default.di_net):
        own = own.completed(sn)
        sn = own if own.learned == sn.learned else sn
    if given and (own, training.di_net) not in ((sn, di), (default.sn_net, default.di_net)):
        raise WeightsError(
            f"checkpoint {checkpoint.path} has another architecture than the training config",
            "omit sn_net and di_net from the config, to take those of the checkpoint",
        )
    stages = training.stages
    training = dataclasses.replace(training, sn_net=sn, di_net=di)
    if stages == Training().stages:  # the config has none
        return training.fine_tuning()
    if max((stage.depth for stage in stages), default=0) > len(sn.levels):
        raise WeightsError(
            f"checkpoint {checkpoint.path} has {len(sn.levels)} levels, the config has stages for "
            "more",
            'omit the "stages" that train a level which the checkpoint lacks',
        )
    return training
