"""Both networks of a checkpoint, and DI-Net put to use: it seeds the exact inverse."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hsyn_cli import config, report, weights
from hsyn_cli.config import DINetConfig, SNNetConfig
from hsyn_cli.devices import convolution_type
from hsyn_cli.di_net import DINet
from hsyn_cli.errors import WeightsError
from hsyn_cli.fields import downsample, resize
from hsyn_cli.inverse import invert
from hsyn_cli.sn_net import SNNet
from hsyn_cli.unet import use_precision


def load_networks(name: str | None, device: torch.device) -> tuple[SNNet, DINet, report.Weights]:
    """Both networks of a checkpoint, strictly: every tensor must be there. Raises WeightsError."""
    checkpoint = weights.load(name or weights.DEFAULT)
    sn_config, di_config = architecture(checkpoint)
    sn, di = SNNet(sn_config), DINet(di_config)
    nets: Mapping[str, torch.nn.Module] = {"sn": sn, "di": di}
    expected = {
        f"{k}.{name}": tuple(v.shape) for k, net in nets.items() for name, v in net.state_dict().items()
    }
    weights.check_tensors(expected, checkpoint)
    for key, net in nets.items():
        own = {k.removeprefix(f"{key}."): v for k, v in checkpoint.tensors.items() if k.startswith(f"{key}.")}
        net.load_state_dict(own)
        net.eval().requires_grad_(False).to(device)
        use_precision(net, convolution_type(device))
    return sn, di, report.Weights(checkpoint.name, checkpoint.sha256, checkpoint.verified)


def architecture(checkpoint: weights.Checkpoint) -> tuple[SNNetConfig, DINetConfig]:
    """What networks a checkpoint holds; a setting that its version did not know yet has its default. Raises WeightsError."""
    try:
        return (
            config.sn_net_from_dict(checkpoint.config["sn_net"]),
            config.di_net_from_dict(checkpoint.config["di_net"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        text = f"checkpoint {checkpoint.path} describes no network this version knows ({error!r})"
        raise WeightsError(text, "it was made by another program or another version of hsyn") from error


def exact_inverse(di: DINet, u: Tensor, spacing: float) -> Tensor:
    """DI-Net's answer at half the resolution seeds the exact iteration there, whose answer seeds the full one.

    u: (1, 3, Z, Y, X) in mm, sizes that divide by twice DI-Net's stride -> its inverse, same shape.
    """
    v = coarse_inverse(di, downsample(u, 2), 2 * spacing)
    return invert(u, spacing, resize(v, u.shape[2:]), tolerance=0.01 * spacing)


def coarse_inverse(di: DINet, u: Tensor, spacing: float) -> Tensor:
    """The inverse to a hundredth of a voxel, from DI-Net's answer. u: (1, 3, Z, Y, X), even sizes, voxels of `spacing` mm."""
    return invert(u, spacing, di(u, spacing), tolerance=0.01 * spacing)
