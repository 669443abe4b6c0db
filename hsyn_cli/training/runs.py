"""The folder of a training run: config, cache, state, log, curves and checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hsyn_cli import config
from hsyn_cli.anatomy import organs
from hsyn_cli.config.architecture import FURTHER
from hsyn_cli.config.training import STEPS_OF, Training
from hsyn_cli.errors import InputError, UsageError, WeightsError
from hsyn_cli.io import atomic, checkpoints
from hsyn_cli.method import similarity
from hsyn_cli.method.networks import architecture as networks_of
from hsyn_cli.training.loop import Record, State
from hsyn_cli.training.phases import Networks


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. `checkpoint` is for `hsyn register --model`, `state` for resuming the run."""

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
        """The log so far, without what a crash cut off. Raises InputError."""
        try:
            lines = self.log.read_bytes().splitlines() if self.log.exists() else []
        except OSError as error:
            raise InputError(
                f"log {self.log} cannot be read: {error.strerror}", "check its permissions"
            ) from error
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def append(self, record: Record) -> None:
        """Add a record to the log, a whole line or nothing. Raises OutputError."""
        line = json.dumps(record).encode() + b"\n"
        try:
            with self.log.open("ab", buffering=0) as stream:
                end = stream.tell()
                if stream.write(line) < len(line):
                    stream.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise atomic.output_error(self.log, error) from error

    def cut_log(self, state: State) -> None:
        """Cut the records later than `state` off the log. Raises InputError, OutputError."""
        now = (state.phase, state.step)
        kept = [r for r in self.records() if (int(r["phase"]), int(r["step"])) <= now]
        atomic.write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))


@contextlib.contextmanager
def claimed(run: RunFolder) -> Iterator[atomic.Staging]:
    """Make the folder of a run and keep other trainings out of it; it goes if it stays empty.

    Yields the place for the files that `begin` writes. Raises OutputError.
    """
    with (
        atomic.making(run.folder),
        atomic.claim([run.state, run.config], force=True) as staging,
    ):
        yield staging


def begin(run: RunFolder, staging: atomic.Staging, training: Training, networks: Networks) -> None:
    """Write the config and the state at the start of a run, both or neither.

    What an earlier run left in a folder without a config goes. Raises OutputError.
    """
    staged = RunFolder(staging.path(run.config).parent)
    save_state(staged, training, networks, State())
    write_config(staged, training)
    staging.remove([run.log, run.curves, run.checkpoint])
    staging.commit()


def read_config(path: Path) -> Training:
    """Read a config. Raises InputError for text that is no JSON, UsageError for bad content."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"training config {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            "give JSON like the config.json of a run",
        ) from error
    try:
        return training_of(data)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        text = str(error).replace(
            "Training.__init__() got an unexpected keyword argument", "unknown key"
        )
        text = f"{text} is missing" if isinstance(error, KeyError) else text
        raise UsageError(
            f"training config {path}: {text}", f"known keys: {', '.join(known_keys())}"
        ) from error


def training_of(data: dict[str, Any]) -> Training:
    """Apply `config.training_from_dict`, and check the organ and the similarity.

    Raises TypeError, KeyError or ValueError.
    """
    sn_net = data.get("sn_net") or {}
    organ = organs.find(sn_net.get("organ", config.SNNetConfig.organ))
    training = config.training_from_dict(data)
    similarity.find(training.sn_net.similarity)
    if training.breathing and not organ.breathes:
        able = " or ".join(f'"{name}"' for name in organs.names() if organs.find(name).breathes)
        raise ValueError(f'breathing is for "organ": {able} in sn_net')
    for k, level in enumerate(training.sn_net.levels):
        if level.steps is not None and level.steps.tissue and not organ.maps_from_labels:
            raise ValueError(f"level {k} has steps with tissue, which only the refinement can use")
    return training


def known_keys() -> list[str]:
    """The keys of a training config."""
    return [entry.name for entry in dataclasses.fields(Training)]


def write_config(run: RunFolder, training: Training) -> None:
    """Write the config of a run. Raises OutputError."""
    atomic.write_text(run.config, json.dumps(config.to_dict(training), indent=1) + "\n")


def architecture(training: Training) -> dict[str, Any]:
    """The architecture as a checkpoint stores it."""
    return {"sn_net": config.to_dict(training.sn_net), "di_net": config.to_dict(training.di_net)}


def save_state(run: RunFolder, training: Training, networks: Networks, state: State) -> None:
    """Write all that a run needs to resume, whole or not at all."""
    tensors = networks.tensors() | {f"best.{name}": v for name, v in networks.best.items()}
    for index, moments in (state.optimiser or {}).items():
        tensors |= {f"adam.{index}.{name}": v for name, v in moments.items()}
    about = {
        "phase": state.phase,
        "step": state.step,
        "seconds": state.seconds,
        "best_score": state.best_score,
        "training": config.to_dict(training),
    }
    checkpoints.save(run.state, tensors, architecture(training), about)


def load_state(run: RunFolder, training: Training, networks: Networks) -> State:
    """Restore `networks` to the saved state, and return it. Raises WeightsError, UsageError."""
    checkpoint = checkpoints.load(run.state)
    about = checkpoint.training
    if config.training_from_dict(about["training"]) != training:
        raise UsageError(
            f"{run.state} belongs to another config than {run.config}",
            "restore the config.json that the run began with",
        )
    networks.load({k: v for k, v in checkpoint.tensors.items() if k[:3] in ("sn.", "di.")})
    device = next(networks.sn.parameters()).device
    networks.best = {
        k[5:]: v.to(device) for k, v in checkpoint.tensors.items() if k.startswith("best.")
    }
    optimiser: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            optimiser.setdefault(int(index), {})[moment] = tensor
    return State(
        about["phase"], about["step"], about["seconds"], about["best_score"], optimiser or None
    )


def load_start(name: str, training: Training, networks: Networks) -> None:
    """Load the weights of a checkpoint of the same levels and DI-Net.

    A tissue net or feature net that the checkpoint lacks, or has otherwise, starts untrained if
    the config trains it. Raises WeightsError.
    """
    checkpoint = checkpoints.load(name)
    sn, di = networks_of(checkpoint)
    if (sn.learned, di) != (training.sn_net.learned, training.di_net):
        text = f"checkpoint {checkpoint.path} has another architecture than the training config"
        hint = "omit sn_net and di_net from the config, to take those of the checkpoint"
        raise WeightsError(text, hint)
    fresh = [net for net in FURTHER if getattr(sn, net) != getattr(training.sn_net, net)]
    if untrained := [net for net in fresh if not training.steps_of(net)]:
        net = untrained[0]
        text = (
            f"checkpoint {checkpoint.path} has another {FURTHER[net]} or none, and the config adds "
            "one that nothing would train"
        )
        raise WeightsError(text, f"set {STEPS_OF[net]}, or omit {net} from sn_net")
    begin = tuple(f"sn.{net}." for net in fresh)
    new = {k: v for k, v in networks.tensors().items() if k.startswith(begin)}
    old = {k: v for k, v in checkpoint.tensors.items() if not k.startswith(begin)}
    networks.load(old | new)


def save_checkpoint(run: RunFolder, training: Training, networks: Networks, state: State) -> None:
    """Write the networks alone, for registration."""
    about = {"seconds": state.seconds, "seed": training.seed}
    checkpoints.save(run.checkpoint, networks.tensors(), architecture(training), about)
