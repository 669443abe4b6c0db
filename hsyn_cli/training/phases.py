"""The phases of a training run: the tissue and feature net, the levels of SN-Net, then DI-Net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from hsyn_cli.config.training import Stage, Training
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import use_precision
from hsyn_cli.training.contrasts import FeatureSource, feature_loss, validate_features
from hsyn_cli.training.objective import Parts, di_loss, look_scale, stage_loss, validate
from hsyn_cli.training.painting import TissueSource, tissue_loss, validate_tissue
from hsyn_cli.training.pairs import Draws, PairSource, TrainingPair

DI_SCALE = 2  # DI-Net gets fields half as fine as the images, as in use


@dataclass
class Networks:
    """Both networks on one device, and the best SN-Net of the phase so far."""

    sn: SNNet
    di: DINet
    best: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a checkpoint."""
        return {
            f"{k}.{name}": v
            for k, net in (("sn", self.sn), ("di", self.di))
            for name, v in net.state_dict().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of a checkpoint."""
        for key, net in (("sn", self.sn), ("di", self.di)):
            net.load_state_dict({k[3:]: v for k, v in tensors.items() if k.startswith(f"{key}.")})


@dataclass(frozen=True)
class Phase:
    """`steps` steps of Adam on `parameters` with `loss(step, item)`.

    `validate` returns scores; larger is better.
    """

    name: str
    steps: int
    rate: float
    parameters: list[nn.Parameter]
    loss: Callable[[int, int], tuple[Tensor, Parts]]
    validate: Callable[[], dict[str, float]]


def build(training: Training, device: torch.device, bf16: bool) -> Networks:
    """Make new networks, equal for equal seeds. bf16: convolutions in bfloat16."""
    torch.manual_seed(training.seed)
    networks = Networks(SNNet(training.sn_net).to(device), DINet(training.di_net).to(device))
    for net in (networks.sn, networks.di):
        use_precision(net, torch.bfloat16 if bf16 else torch.float32)
    return networks


def phases(training: Training, networks: Networks, source: PairSource) -> list[Phase]:
    """The phases with steps: tissue net and feature net, the stages of SN-Net, then DI-Net."""
    out = []
    if training.tissue_steps:
        out.append(_tissue_phase(training, networks, source))
    if training.feature_steps:
        out.append(_feature_phase(training, networks, source))
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
            Phase(
                "DI-Net",
                training.di_steps,
                training.di_rate,
                list(networks.di.parameters()),
                step,
                dict,
            )
        )
    return out


def _tissue_phase(training: Training, networks: Networks, source: PairSource) -> Phase:
    net = networks.sn.tissue
    assert net is not None
    samples = TissueSource(source)
    key = len(training.stages) + 1  # seeds its draws

    def loss(step: int, item: int) -> tuple[Tensor, Parts]:
        return tissue_loss(net, samples.draw(key, step, item))

    return Phase(
        "tissue net", training.tissue_steps, training.tissue_rate, list(net.parameters()), loss,
        lambda: validate_tissue(net, samples.validation()),
    )  # fmt: skip


def _feature_phase(training: Training, networks: Networks, source: PairSource) -> Phase:
    net = networks.sn.features
    assert net is not None
    twins, temperature = FeatureSource(source), training.temperature
    key = len(training.stages) + 2  # seeds its draws

    def loss(step: int, item: int) -> tuple[Tensor, Parts]:
        return feature_loss(net, twins.draw(key, step, item), temperature)

    return Phase(
        "feature net", training.feature_steps, training.feature_rate, list(net.parameters()), loss,
        lambda: validate_features(net, twins.validation(), temperature),
    )  # fmt: skip


def _stage_step(
    net: SNNet,
    source: PairSource,
    stage: Stage,
    training: Training,
    number: int,
    step: int,
    item: int,
) -> tuple[Tensor, Parts]:
    pair = source.draw(look_scale(net, stage), number, step, item)
    return stage_loss(
        net, pair, stage, training, Draws(source.device, training.seed, number, step, item, 1)
    )


def _validated(
    net: SNNet, pairs: Callable[[], list[TrainingPair]], stage: Stage, training: Training
) -> dict[str, float]:
    return validate(net, pairs(), stage, training)


def _di_step(
    networks: Networks, source: PairSource, training: Training, number: int, step: int, item: int
) -> tuple[Tensor, Parts]:
    pair = source.draw(DI_SCALE, number, step, item)
    draws = Draws(source.device, training.seed, number, step, item, 1)
    return di_loss(networks.di, networks.sn, pair.seen, DI_SCALE, draws, training.di_smooth)
