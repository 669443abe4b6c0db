"""DI-Net (Sha et al., MICCAI 2024, section 2.3): a displacement field in, its inverse out.

Ours: DI-Net runs several times, each time on what its answer so far leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsyn_cli.config.architecture import DINetConfig
from hsyn_cli.fields.sampling import compose, resize_linear, warp
from hsyn_cli.method.losses import smoothness
from hsyn_cli.method.unet import UNet


class DINet(nn.Module):
    """SN-Net's U-Net on a field and the residual of its answer so far.

    It answers at half resolution, and the answer is up-sampled.
    """

    def __init__(self, config: DINetConfig) -> None:
        super().__init__()
        self.config = config
        if config.repeats:
            self.net = UNet(6, config.stride, config.encoder, config.head)

    def forward(self, u: Tensor, spacing: float) -> Tensor:
        """u (B, 3, Z, Y, X), mm, on voxels of `spacing` mm -> its approximate inverse, same shape.

        Sizes are even. From v = -u on, the net runs `repeats` times. Its input is u(x + v) and the
        residual v + u(x + v). It corrects the fixed-point iteration v <- -u(x + v).
        """
        v = -u
        for _ in range(self.config.repeats):
            warped = warp(u, v, spacing)
            inputs = torch.cat((warped, v + warped), dim=1) / spacing
            correction: Tensor = self.net(inputs) * spacing
            v = resize_linear(correction, u.shape[2:]) - warped
        return v


def inverse_loss(v: Tensor, u: Tensor, spacing: float, smooth: float) -> Tensor:
    """Mean squared residual of compose(v, u) in voxels, plus diffusion of v."""
    residual = compose(v, u, spacing) / spacing
    return residual.square().sum(1).mean() + smooth * smoothness(v, spacing)
