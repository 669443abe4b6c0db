"""The tissue net (ours): maps of an image's tissue, whatever its contrast, bias field and noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsyn_cli.config.architecture import FeatureConfig, TissueConfig
from hsyn_cli.method.unet import UNet, unfold


class MapsNet(nn.Module):
    """One stream of a dual-stream encoder: it takes each image alone, with the same weights.

    `out`: numbers of the U-Net per voxel of the image. `maps`: their number C.
    """

    maps = 0

    def __init__(self, config: TissueConfig | FeatureConfig, out: int) -> None:
        super().__init__()
        self.stride, self.out = config.stride, out
        numbers = out * config.stride**3
        self.net = UNet(1, config.stride, config.encoder, config.head, numbers, shortcut=True)
        for module in self.net.modules():
            if isinstance(module, nn.Conv3d):
                assert module.bias is not None
                nn.init.kaiming_normal_(module.weight, 0.2)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.net.flow.weight, std=0.01)

    @torch.no_grad()
    def beside(self, images: Tensor) -> Tensor:
        """The images and their maps, (B, 1, Z, Y, X) -> (B, 1 + C, Z, Y, X).

        The net runs on one image after the other to save memory.
        """
        return torch.cat(
            [torch.cat((image, self(image).clamp_(0, 1)), dim=1) for image in images.split(1)]
        )


class TissueNet(MapsNet):
    """It learns from painted label maps, whose tissue is known.

    Its answer is a mean over what a voxel may be. An uncertain border is therefore soft, and pulls
    less. With classes (as in SynthSeg: Billot et al., Medical Image Analysis 2023), it gives their
    probabilities, and the maps are the expected values of the classes.
    """

    def __init__(self, config: TissueConfig) -> None:
        classes = len(config.classes)
        super().__init__(config, classes + 1 if classes else len(config.channels))
        self.config, self.maps = config, len(config.channels)
        firsts = [group[0] for group in config.classes]
        values = [[0.0, *row] for row in config.values(firsts)]  # of the background, of each class
        self.register_buffer("values", torch.tensor(values), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) in [0, 1] -> (B, C, Z, Y, X), about in [0, 1].

        Sizes must divide by the stride.
        """
        answer: Tensor = self.net(images)
        if self.config.classes:
            # (B, K s^3, ...) -> (B, K, s^3, ...): the cells of each class, see `unfold`
            chances = answer.unflatten(1, (-1, self.stride**3)).softmax(1)
            answer = torch.einsum("ck,bk...->bc...", self.values, chances).flatten(1, 2)
        return unfold(answer, self.stride)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) in [0, 1] -> (B, 1 + K, Z, Y, X) of the background and of K classes."""
        return unfold(self.net(images), self.stride)
