"""DI-Net: a displacement field in, its inverse out (section 2.3 of the paper)."""

from __future__ import annotations

from torch import Tensor, nn

from hsyn_cli.config import DINetConfig
from hsyn_cli.fields import compose, resize
from hsyn_cli.losses import smoothness
from hsyn_cli.unet import UNet

LAMBDA_SMOOTH = 0.02


class DINet(nn.Module):
    """The U-Net of SN-Net with three channels in; it answers at half resolution and is up-sampled."""

    def __init__(self, config: DINetConfig) -> None:
        super().__init__()
        self.config = config
        self.net = UNet(3, config.stride, config.encoder, config.head)

    def forward(self, u: Tensor, spacing: float) -> Tensor:
        """u (B, 3, Z, Y, X) in mm on voxels of `spacing` mm, even sizes -> its approximate inverse, same shape, mm.

        The net corrects -u, which is the inverse to first order.
        """
        v: Tensor = self.net(u / spacing) * spacing
        return resize(v, u.shape[2:]) - u


def inverse_loss(v: Tensor, u: Tensor, spacing: float) -> Tensor:
    """Mean squared residual of compose(v, u) in voxels, plus diffusion of v."""
    return (compose(v, u, spacing) / spacing).square().sum(1).mean() + LAMBDA_SMOOTH * smoothness(v, spacing)
