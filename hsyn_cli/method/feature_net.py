"""The feature net (ours): features of a place in the anatomy, alike in images of all contrasts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.config.architecture import FeatureConfig
from hsyn_cli.method.tissue_net import MapsNet
from hsyn_cli.method.unet import unfold


class FeatureNet(MapsNet):
    """It learns from two pictures of one anatomy, painted with different contrasts.

    The features of a voxel in the one picture must tell it from other voxels of the other picture
    (InfoNCE: van den Oord et al., arXiv:1807.03748).
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config, config.count)
        self.config, self.maps = config, config.count

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) in [0, 1] -> (B, F, Z, Y, X) in [0, 1].

        The features lie on a sphere of diameter 1 around (1/2, ..., 1/2), so the sum of their
        squared differences is at most 1. Sizes must divide by the stride.
        """
        return (self.directions(images) + 1) / 2

    def directions(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) in [0, 1] -> unit vectors (B, F, Z, Y, X)."""
        return F.normalize(unfold(self.net(images), self.stride), dim=1)

    def directions_at(self, images: Tensor, voxels: Tensor) -> Tensor:
        """`directions` of the flat indices `voxels` (B, N) alone, (B, N, F).

        A training needs few of them, and so keeps no volume of features.
        """
        cells, s = self.net(images), self.stride
        (_, _, _, y, x), (_, ny, nx) = cells.shape, images.shape[2:]
        place = (voxels // (nx * ny), voxels // nx % ny, voxels % nx)
        cell = ((place[0] // s) * y + place[1] // s) * x + place[2] // s
        part = ((place[0] % s) * s + place[1] % s) * s + place[2] % s
        apart = cells.flatten(2).unflatten(1, (-1, s**3))  # (B, F, s^3, cells), see `unfold`
        of_image = torch.arange(len(voxels), device=voxels.device)[:, None]
        return F.normalize(apart[of_image, :, part, cell], dim=-1)
