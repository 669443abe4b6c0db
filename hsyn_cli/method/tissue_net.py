"""The tissue net (ours): maps of an image's tissue, whatever its contrast, bias field and noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsyn_cli.config.architecture import TissueConfig
from hsyn_cli.method.unet import UNet, unfold


class TissueNet(nn.Module):
    """One stream of a dual-stream encoder: it takes each image alone, with the same weights.

    It learns from painted label maps, whose tissue is known. Its answer is a mean over what a voxel
    may be. An uncertain border is therefore soft, and pulls less.
    """

    def __init__(self, config: TissueConfig) -> None:
        super().__init__()
        self.config = config
        numbers = len(config.channels) * config.stride**3
        self.net = UNet(1, config.stride, config.encoder, config.head, numbers, shortcut=True)
        for module in self.net.modules():
            if isinstance(module, nn.Conv3d):
                assert module.bias is not None
                nn.init.kaiming_normal_(module.weight, 0.2)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.net.flow.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) in [0, 1] -> (B, C, Z, Y, X), about in [0, 1].

        Sizes must divide by the stride.
        """
        return unfold(self.net(images), self.config.stride)

    @torch.no_grad()
    def beside(self, images: Tensor) -> Tensor:
        """The images and their maps, (B, 1, Z, Y, X) -> (B, 1 + C, Z, Y, X).

        The net runs on one image after the other to save memory.
        """
        return torch.cat(
            [torch.cat((image, self(image).clamp_(0, 1)), dim=1) for image in images.split(1)]
        )
