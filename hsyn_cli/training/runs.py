"""The folder of a training run: its config, cache, state, log, picture of the curves, and the checkpoint it ends with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hsyn_cli import config, files, weights
from hsyn_cli.config import Training
from hsyn_cli.errors import InputError, UsageError, WeightsError
from hsyn_cli.networks import architecture as networks_of
from hsyn_cli.training.loop import Networks, Record, State


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. `checkpoint` is what `hsyn register --weights` takes; `state` is for going on."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def state(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.png"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def records(self) -> list[Record]:
        """The log so far."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def append(self, record: Record) -> None:
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def read_config(path: Path) -> Training:
    """Raises InputError for a file that is no JSON object, UsageError for keys and values that are not known."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"training config {path} cannot be read: {error}", "give a config.json as a run has it"
        ) from error
    try:
        return config.training_from_dict(data)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        text = str(error).replace("Training.__init__() got an unexpected keyword argument", "unknown key")
        text = f"{text} is missing" if isinstance(error, KeyError) else text
        raise UsageError(
            f"training config {path}: {text}", f"known keys: {', '.join(known_keys())}"
        ) from error


def known_keys() -> list[str]:
    return [entry.name for entry in dataclasses.fields(Training)]


def write_config(run: RunFolder, training: Training) -> None:
    files.write_text(run.config, json.dumps(config.to_dict(training), indent=1) + "\n")


def architecture(training: Training) -> dict[str, Any]:
    """As a checkpoint stores it."""
    return {"sn_net": config.to_dict(training.sn_net), "di_net": config.to_dict(training.di_net)}


def save_state(run: RunFolder, training: Training, networks: Networks, state: State) -> None:
    """Everything a run needs to go on, whole or not at all."""
    tensors = networks.tensors() | {f"best.{name}": v for name, v in networks.best.items()}
    for index, moments in (state.optimiser or {}).items():
        tensors |= {f"adam.{index}.{name}": v for name, v in moments.items()}
    about = {"phase": state.phase, "step": state.step, "seconds": state.seconds, "best_score": state.best_score,
             "training": config.to_dict(training)}  # fmt: skip
    weights.save(run.state, tensors, architecture(training), about)


def load_state(run: RunFolder, training: Training, networks: Networks) -> State:
    """Bring `networks` to where the run stopped, cut later lines off its log. Raises WeightsError, UsageError."""
    checkpoint = weights.load(run.state)
    about = checkpoint.training
    if config.training_from_dict(about["training"]) != training:
        raise UsageError(
            f"{run.state} belongs to another config than {run.config}",
            "go on with the config it was begun with",
        )
    networks.load({k: v for k, v in checkpoint.tensors.items() if k[:3] in ("sn.", "di.")})
    device = next(networks.sn.parameters()).device
    networks.best = {k[5:]: v.to(device) for k, v in checkpoint.tensors.items() if k.startswith("best.")}
    optimiser: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            optimiser.setdefault(int(index), {})[moment] = tensor
    state = State(about["phase"], about["step"], about["seconds"], about["best_score"], optimiser or None)
    kept = [r for r in run.records() if (int(r["phase"]), int(r["step"])) <= (state.phase, state.step)]
    files.write_text(run.log, "".join(json.dumps(record) + "\n" for record in kept))
    return state


def load_start(name: str, training: Training, networks: Networks) -> None:
    """Begin from the weights of a checkpoint of the same architecture, but for a tissue net that it has not.

    Raises WeightsError.
    """
    checkpoint = weights.load(name)
    sn, di = networks_of(checkpoint)
    same_tissue = sn.tissue in (None, training.sn_net.tissue)
    if (sn.learned, di) != (training.sn_net.learned, training.di_net) or not same_tissue:
        text = f"checkpoint {checkpoint.path} has another architecture than the training config"
        raise WeightsError(text, "leave sn_net and di_net out of the config: the checkpoint's are then taken")
    if sn.tissue != training.sn_net.tissue and not training.tissue_steps:
        text = f"checkpoint {checkpoint.path} has no tissue net, and the config adds one that nothing would train"
        raise WeightsError(text, "set tissue_steps, or leave tissue out of sn_net")
    fresh = {k: v for k, v in networks.tensors().items() if k.startswith("sn.tissue.")}
    networks.load(fresh | checkpoint.tensors)


def save_checkpoint(run: RunFolder, training: Training, networks: Networks, state: State) -> None:
    """The networks alone, for use."""
    about = {"seconds": state.seconds, "seed": training.seed}
    weights.save(run.checkpoint, networks.tensors(), architecture(training), about)
