"""The training loop: phases of steps, in one process or several, with resumption on the same curve.

A phase trains the tissue net, a stage of SN-Net or, at the end, DI-Net. (phase, step, item) seeds
the data of a step, so the whole state is the weights, the optimiser and the number of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hsyn_cli.config.training import Training
from hsyn_cli.devices import wait_for
from hsyn_cli.errors import UsageError
from hsyn_cli.training.objective import Parts
from hsyn_cli.training.phases import Networks, Phase
from hsyn_cli.training.processes import rank_and_world

Record = dict[str, float | int | str]


@dataclass
class State:
    """The progress of a run. `optimiser`: from Adam's state_dict, None at the start of a phase."""

    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    optimiser: dict[int, dict[str, Tensor]] | None = None


def run(
    todo: list[Phase],
    networks: Networks,
    state: State,
    training: Training,
    keep: Callable[[State], None],
    save_every: float,
    deadline: float = math.inf,
) -> Iterator[Record]:
    """Train from `state` on and update it; call `keep(state)` every `save_every` seconds.

    Also calls `keep` after each phase. Yields a record every `log_every` steps with the means since
    the last record. It adds validation scores every `validate_every` steps and at the end of a
    phase. Past the `deadline` (time.monotonic) it keeps the state and ends.
    """
    saved = time.monotonic()
    while state.phase < len(todo) and time.monotonic() <= deadline:
        phase = todo[state.phase]
        _free(phase, networks)
        optimiser = torch.optim.Adam(phase.parameters, lr=phase.rate)
        if state.optimiser is not None:
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state.optimiser})
        for record in _descend(phase, optimiser, networks, state, training):
            yield {"phase": state.phase, "name": phase.name, **record}
            late = time.monotonic() > deadline
            if (late or time.monotonic() - saved > save_every) and state.step < phase.steps:
                state.optimiser = optimiser.state_dict()["state"]
                keep(state)
                saved = time.monotonic()
                if late:
                    return
        if networks.best:
            networks.sn.load_state_dict(networks.best)
        networks.best = {}
        state.phase, state.step, state.best_score, state.optimiser = state.phase + 1, 0, None, None
        keep(state)


def _descend(
    phase: Phase, optimiser: torch.optim.Adam, networks: Networks, state: State, training: Training
) -> Iterator[Record]:
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    started = time.monotonic()
    while state.step < phase.steps:
        rise = min(1.0, (state.step + 1) / training.warm_up)
        fall = 1 - (1 - training.last_rate) * state.step / phase.steps
        optimiser.param_groups[0]["lr"] = phase.rate * rise * fall
        for key, value in step(phase, optimiser, state.step, training.batch).items():
            sums[key] = sums.get(key, 0) + value
            counts[key] = counts.get(key, 0) + 1
        state.step += 1
        ended = state.step == phase.steps
        if state.step % training.log_every and not ended:
            continue
        means = {key: float(value) / counts[key] for key, value in sums.items()}
        if means["skipped"] == 1 or not math.isfinite(means["loss"]):
            raise UsageError(
                f"training diverged in {phase.name} before step {state.step}",
                'lower its "rate" in --config, or set "precision" to "float32"',
            )
        seconds = time.monotonic() - started
        record: Record = {
            "step": state.step,
            "steps": phase.steps,
            "steps_per_second": counts["loss"] / seconds,
            **means,
        }
        if state.step % training.validate_every == 0 or ended:
            scores = phase.validate()
            if scores:
                _keep_best(networks, state, sum(scores.values()))
            record |= scores
        state.seconds += time.monotonic() - started
        yield {**record, "seconds": round(state.seconds, 2)}
        sums, counts, started = {}, {}, time.monotonic()


def step(phase: Phase, optimiser: torch.optim.Adam | None, number: int, batch: int) -> Parts:
    """Take one step over `batch` pairs, shared among the processes, and return the mean terms.

    Without an optimiser, compute only the gradients.
    """
    rank, world = rank_and_world()
    for parameter in phase.parameters:
        parameter.grad = None
    parts: Parts = {}
    for item in range(rank, batch, world):
        loss, terms = phase.loss(number, item)
        (loss / batch).backward()
        for key, value in terms.items():
            parts[key] = parts.get(key, 0) + value.detach() * (world / batch)
    if world > 1:
        flat = torch.cat(
            [
                p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten()
                for p in phase.parameters
            ]
        )
        dist.all_reduce(flat)
        for parameter, grad in zip(
            phase.parameters, flat.split([p.numel() for p in phase.parameters]), strict=True
        ):
            parameter.grad = grad.view_as(parameter)
        mean = parts["loss"] / world
        dist.all_reduce(mean)
        parts["loss"] = mean
    # bfloat16 gives a NaN now and then.
    sound = torch.isfinite(nn.utils.clip_grad_norm_(phase.parameters, 1.0))
    for parameter in phase.parameters:
        if parameter.grad is not None:
            parameter.grad = torch.where(sound, parameter.grad, 0.0)
    parts["skipped"] = 1.0 - sound.float()
    if optimiser is not None:
        optimiser.step()
    return parts


def _free(phase: Phase, networks: Networks) -> None:
    """Freeze all parameters except those of the phase."""
    for net in (networks.sn, networks.di):
        net.requires_grad_(False)
    for parameter in phase.parameters:
        parameter.requires_grad_(True)


def _keep_best(networks: Networks, state: State, score: float) -> None:
    if state.best_score is None or score >= state.best_score:
        state.best_score = score
        networks.best = {name: v.detach().clone() for name, v in networks.sn.state_dict().items()}


def seconds_per_step(
    phase: Phase, networks: Networks, batch: int, device: torch.device, steps: int = 2
) -> float:
    """Time steps of the phase after one step to warm up; the weights do not change."""
    _free(phase, networks)
    step(phase, None, 0, batch)
    wait_for(device)
    begun = time.monotonic()
    for number in range(1, steps + 1):
        step(phase, None, number, batch)
    wait_for(device)
    return (time.monotonic() - begun) / steps
