"""Both networks of a checkpoint, and the use of DI-Net.

The paper takes DI-Net's answer as the inverse. Ours seeds an exact inversion with it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hsyn_cli.anatomy import organs
from hsyn_cli.config.architecture import (
    NO_NETS,
    DINetConfig,
    SNNetConfig,
    di_net_from_dict,
    sn_net_from_dict,
)
from hsyn_cli.devices import convolution_type
from hsyn_cli.errors import WeightsError
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.sampling import downsample, resize_linear
from hsyn_cli.io import checkpoints
from hsyn_cli.io.checkpoints import CheckpointId
from hsyn_cli.method import similarity
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import use_precision

INVERSE_TOLERANCE = 0.05  # voxels; the fit of the total fields takes out the rest
SWEEPS = 2
NO_CHECKPOINT = CheckpointId(organs.NONE, "", verified=True)


class TrainedNetworks(NamedTuple):
    """Both networks of a checkpoint, ready to run."""

    sn: SNNet
    di: DINet
    checkpoint: CheckpointId

    def on(self, device: torch.device) -> TrainedNetworks:
        """Copies of both on a device; on the CPU, where they are loaded, they themselves."""
        if device == torch.device("cpu"):
            return self
        sn, di = copy.deepcopy(self.sn).to(device), copy.deepcopy(self.di).to(device)
        for net in (sn, di):
            use_precision(net, convolution_type(device))
        return TrainedNetworks(sn, di, self.checkpoint)


def load_networks(name: str | None, device: torch.device) -> TrainedNetworks:
    """Both networks of a checkpoint. Raises WeightsError if a tensor is missing.

    `organs.NONE` names no checkpoint: the force steps then run without networks.
    """
    if name == organs.NONE:
        return TrainedNetworks(SNNet(NO_NETS), DINet(DINetConfig(repeats=0)), NO_CHECKPOINT)
    checkpoint = checkpoints.load(name or checkpoints.DEFAULT)
    sn_config, di_config = architecture(checkpoint)
    sn, di = SNNet(sn_config), DINet(di_config)
    nets: Mapping[str, torch.nn.Module] = {"sn": sn, "di": di}
    expected = {
        f"{k}.{name}": tuple(v.shape)
        for k, net in nets.items()
        for name, v in net.state_dict().items()
    }
    checkpoints.check_tensors(expected, checkpoint)
    for key, net in nets.items():
        own = {
            k.removeprefix(f"{key}."): v
            for k, v in checkpoint.tensors.items()
            if k.startswith(f"{key}.")
        }
        net.load_state_dict(own)
        net.eval().requires_grad_(False).to(device)
        use_precision(net, convolution_type(device))
    used = CheckpointId(checkpoint.name, checkpoint.sha256, checkpoint.verified)
    return TrainedNetworks(sn, di, used)


def architecture(checkpoint: checkpoints.Checkpoint) -> tuple[SNNetConfig, DINetConfig]:
    """The networks that a checkpoint describes. Raises WeightsError.

    A setting that the checkpoint's version did not have takes its default.
    """
    try:
        sn_config = sn_net_from_dict(checkpoint.config["sn_net"])
        organs.find(sn_config.organ)
        similarity.find(sn_config.similarity)
        return sn_config, di_net_from_dict(checkpoint.config["di_net"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = f"checkpoint {checkpoint.path} describes no network this version knows ({error!r})"
        hint = "another program or another version of hsyn made it"
        raise WeightsError(text, hint) from error


def invert_half(di: DINet, u: Tensor, spacing: float) -> Tensor:
    """The inverse of a half-way field u (1, 3, Z, Y, X), mm -> same shape.

    DI-Net's answer at half the resolution seeds the exact inversion there. The result seeds the
    inversion at full resolution. Sizes must divide by twice DI-Net's stride.
    """
    v = resize_linear(invert_coarse(di, downsample(u, 2), 2 * spacing), u.shape[2:])
    return fixed_point_inverse(u, spacing, v, tolerance=INVERSE_TOLERANCE * spacing, sweeps=SWEEPS)


def invert_coarse(di: DINet, u: Tensor, spacing: float) -> Tensor:
    """The inverse to a hundredth of a voxel, seeded with DI-Net's answer.

    u: (1, 3, Z, Y, X), even sizes, voxels of `spacing` mm.
    """
    return fixed_point_inverse(u, spacing, di(u, spacing), tolerance=0.01 * spacing)
