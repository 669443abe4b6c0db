"""DI-Net: a displacement field in, its inverse out (section 2.3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsyn_cli.config import DINetConfig
from hsyn_cli.fields import compose, resize, warp
from hsyn_cli.losses import smoothness
from hsyn_cli.unet import UNet

LAMBDA_SMOOTH = 0.001


class DINet(nn.Module):
    """The U-Net of SN-Net on a field and its answer's residual; it answers at half resolution and is up-sampled."""

    def __init__(self, config: DINetConfig) -> None:
        super().__init__()
        self.config = config
        self.net = UNet(6, config.stride, config.encoder, config.head)

    def forward(self, u: Tensor, spacing: float) -> Tensor:
        """u (B, 3, Z, Y, X) in mm on voxels of `spacing` mm, even sizes -> its approximate inverse, same shape, mm.

        The net is asked `repeats` times, from v = -u on: shown u(x + v) and the residual v + u(x + v), it corrects the
        fixed-point step v <- -u(x + v).
        """
        v = -u
        for _ in range(self.config.repeats):
            there = warp(u, v, spacing)
            correction: Tensor = self.net(torch.cat((there, v + there), dim=1) / spacing) * spacing
            v = resize(correction, u.shape[2:]) - there
        return v


def inverse_loss(v: Tensor, u: Tensor, spacing: float) -> Tensor:
    """Mean squared residual of compose(v, u) in voxels, plus diffusion of v."""
    return (compose(v, u, spacing) / spacing).square().sum(1).mean() + LAMBDA_SMOOTH * smoothness(v, spacing)
