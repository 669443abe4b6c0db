"""The training loop: phases of steps, each resumable to the same curve, alone or spread over processes.

A phase is the tissue net, a stage of SN-Net or, at the end, DI-Net. What a step sees is seeded by (phase, step, item), so
weights, optimiser and the number of the step are all the state there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hsyn_cli.config import Stage, Training
from hsyn_cli.di_net import DINet
from hsyn_cli.errors import UsageError
from hsyn_cli.sn_net import SNNet
from hsyn_cli.training.objective import Parts, di_loss, look_scale, stage_loss, validate
from hsyn_cli.training.painting import TissueSource, tissue_loss, validate_tissue
from hsyn_cli.training.pairs import Draws, Pair, PairSource
from hsyn_cli.unet import use_precision

WARM_UP = 50  # steps over which the rate rises
LAST_RATE = 0.05  # of the first
DI_SCALE = 2  # DI-Net sees fields half as fine as the images, as in use
Record = dict[str, float | int | str]


@dataclass
class Networks:
    """Both networks on one device, with the best SN-Net seen in the phase so far."""

    sn: SNNet
    di: DINet
    best: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint has them."""
        return {
            f"{k}.{name}": v
            for k, net in (("sn", self.sn), ("di", self.di))
            for name, v in net.state_dict().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for key, net in (("sn", self.sn), ("di", self.di)):
            net.load_state_dict({k[3:]: v for k, v in tensors.items() if k.startswith(f"{key}.")})


@dataclass
class State:
    """How far a run has come. `optimiser` as Adam's state_dict has it, None at the start of a phase."""

    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    optimiser: dict[int, dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Phase:
    """`loss(step, item)` of `steps` steps of Adam on `parameters`; `validate` tells scores, the larger the better."""

    name: str
    steps: int
    rate: float
    parameters: list[nn.Parameter]
    loss: Callable[[int, int], tuple[Tensor, Parts]]
    validate: Callable[[], dict[str, float]]


def build(training: Training, device: torch.device, bf16: bool) -> Networks:
    """Fresh networks, the same for the same seed. bf16: convolutions in bfloat16."""
    torch.manual_seed(training.seed)
    networks = Networks(SNNet(training.sn_net).to(device), DINet(training.di_net).to(device))
    for net in (networks.sn, networks.di):
        use_precision(net, torch.bfloat16 if bf16 else torch.float32)
    return networks


def phases(training: Training, networks: Networks, source: PairSource) -> list[Phase]:
    """The tissue net where it has steps, the stages of SN-Net, then DI-Net."""
    out = []
    if training.tissue_steps:
        out.append(_tissue_phase(training, networks, source))
    for number, stage in enumerate(training.stages):
        name = f"SN-Net {'+'.join(str(k + 1) for k in range(stage.first, stage.depth))}"
        parameters = [
            p for level in networks.sn.levels[stage.first : stage.depth] for p in level.parameters()
        ]
        scale = look_scale(networks.sn, stage)
        held_out = partial(source.validation, scale)
        out.append(
            Phase(
                name, stage.steps, stage.rate, parameters,
                partial(_stage_step, networks.sn, source, stage, training, number),
                partial(_validated, networks.sn, held_out, stage, training),
            )
        )  # fmt: skip
    if training.di_steps:
        step = partial(_di_step, networks, source, training, len(training.stages))
        out.append(
            Phase("DI-Net", training.di_steps, training.di_rate, list(networks.di.parameters()), step, dict)
        )
    return out


def _tissue_phase(training: Training, networks: Networks, source: PairSource) -> Phase:
    net = networks.sn.tissue
    assert net is not None
    samples = TissueSource(source)
    key = len(training.stages) + 1  # of its draws

    def loss(step: int, item: int) -> tuple[Tensor, Parts]:
        return tissue_loss(net, samples.draw(key, step, item))

    return Phase(
        "tissue net", training.tissue_steps, training.tissue_rate, list(net.parameters()), loss,
        lambda: validate_tissue(net, samples.validation()),
    )  # fmt: skip


def _stage_step(
    net: SNNet, source: PairSource, stage: Stage, training: Training, number: int, step: int, item: int
) -> tuple[Tensor, Parts]:
    pair = source.draw(look_scale(net, stage), number, step, item)
    return stage_loss(net, pair, stage, training, Draws(source.device, training.seed, number, step, item, 1))


def _validated(
    net: SNNet, pairs: Callable[[], list[Pair]], stage: Stage, training: Training
) -> dict[str, float]:
    return validate(net, pairs(), stage, training)


def _di_step(
    networks: Networks, source: PairSource, training: Training, number: int, step: int, item: int
) -> tuple[Tensor, Parts]:
    pair = source.draw(DI_SCALE, number, step, item)
    draws = Draws(source.device, training.seed, number, step, item, 1)
    return di_loss(networks.di, networks.sn, pair.seen, DI_SCALE, draws)


def rank_and_world() -> tuple[int, int]:
    """This process and how many there are; (0, 1) outside torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def run(
    todo: list[Phase],
    networks: Networks,
    state: State,
    training: Training,
    keep: Callable[[State], None],
    save_every: float,
    deadline: float = math.inf,
) -> Iterator[Record]:
    """Train from `state` on, which is kept up to date; `keep(state)` every `save_every` seconds and after each phase.

    Yields a record every `log_every` steps with the means since the last, which holds validation scores every
    `validate_every` steps and at the end of a phase. Past the `deadline` (time.monotonic) it keeps the state and ends.
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
        rise = min(1.0, (state.step + 1) / WARM_UP)
        optimiser.param_groups[0]["lr"] = phase.rate * rise * (1 - (1 - LAST_RATE) * state.step / phase.steps)
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
    """One step over `batch` pairs shared among the processes; without an optimiser the gradients only. Returns mean terms."""
    rank, world = rank_and_world()
    for parameter in phase.parameters:
        parameter.grad = None
    parts: Parts = {}
    for item in range(rank, batch, world):
        loss, found = phase.loss(number, item)
        (loss / batch).backward()
        for key, value in found.items():
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
    sound = torch.isfinite(
        nn.utils.clip_grad_norm_(phase.parameters, 1.0)
    )  # bfloat16 gives a NaN now and then
    for parameter in phase.parameters:
        if parameter.grad is not None:
            parameter.grad = torch.where(sound, parameter.grad, 0.0)
    parts["skipped"] = 1.0 - sound.float()
    if optimiser is not None:
        optimiser.step()
    return parts


def _free(phase: Phase, networks: Networks) -> None:
    """Freeze everything but what the phase trains."""
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
    """Measured on the phase itself, after one step to warm up; the weights stay as they are."""
    _free(phase, networks)
    step(phase, None, 0, batch)
    _wait(device)
    begun = time.monotonic()
    for number in range(1, steps + 1):
        step(phase, None, number, batch)
    _wait(device)
    return (time.monotonic() - begun) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
