"""The tissue net (ours): what each voxel of an image is, whatever its contrast, bias field and noise make it look like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsyn_cli.config import TissueConfig
from hsyn_cli.unet import UNet, unfold


class TissueNet(nn.Module):
    """One stream of a dual-stream encoder: each image of a pair is looked at alone, with the same weights.

    It learns from painted label maps, whose tissue is known. Its answer is a mean over what a voxel may be, so a border where
    the image is unsure is soft, and draws less.
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
        """(B, 1, Z, Y, X) in [0, 1], sizes that divide by the stride -> (B, C, Z, Y, X), about in [0, 1]."""
        return unfold(self.net(images), self.config.stride)

    @torch.no_grad()
    def beside(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) -> (B, 1 + C, Z, Y, X): the images and their maps, one image after the other for memory's sake."""
        return torch.cat([torch.cat((image, self(image).clamp_(0, 1)), dim=1) for image in images.split(1)])
