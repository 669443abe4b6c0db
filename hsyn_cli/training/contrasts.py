"""Pictures of one anatomy in two contrasts, and the loss by which the feature net learns from them.

The feature net then gives a voxel the same features in both, and other voxels others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.method.feature_net import FeatureNet
from hsyn_cli.training.painting import Painter
from hsyn_cli.training.pairs import Draws, PairSource

MOST_SHIFT = 0.15  # of the size of a picture


@dataclass(frozen=True)
class Twins:
    """Two pictures of one anatomy, each cut off elsewhere.

    A net can therefore not tell voxels by how far they are from the border of a picture.

    Attributes:
        images: (2, 1, z, y, x) in [0, 1].
        voxels: (2, N) flat indices of the same places in both, in the brain.
    """

    images: Tensor
    voxels: Tensor


class FeatureSource(Painter):
    """Twins for the feature net. The brain is all that counts of the label maps."""

    def __init__(self, source: PairSource) -> None:
        super().__init__(source, source.ids[: source.counted - 1])

    def draw(self, *key: int) -> Twins:
        """The training twins of a key."""
        draws = Draws(self.device, self.training.seed, *key)
        return self._twins(self.row(draws), self.training.tissue_crop, draws)

    def validation(self) -> list[Twins]:
        """The pairs of the held-out maps, equal in every call."""
        return [self._twins(row, size, draws) for row, size, draws in self.held_out_crops()]

    def _twins(self, row: int, size: tuple[int, int, int], draws: Draws) -> Twins:
        """Voxels of the brain come before others; few brains have fewer than a step compares."""
        labels, brain, _ = self.anatomy(row, size, draws)
        apart = [self._shift(n, draws) for n in size]
        (z, z1), (y, y1), (x, x1) = ((d, n - d) for d, n in zip(apart, size, strict=True))
        one, other = (self.painted(labels, brain, draws) for _ in range(2))
        images = torch.cat((one[..., :z1, :y1, :x1], other[..., z:, y:, x:]))
        common = brain[..., z:z1, y:y1, x:x1]
        count = min(self.training.feature_voxels, common.numel())
        order = draws.noise(common).sigmoid() + common
        index, (_, ny, nx) = order.flatten().topk(count).indices, common.shape[2:]
        places = (index // (nx * ny), index // nx % ny, index % nx)
        voxels = [  # of (z1, y1, x1)
            ((places[0] + dz) * y1 + places[1] + dy) * x1 + places[2] + dx
            for dz, dy, dx in (apart, (0, 0, 0))
        ]
        return Twins(images, torch.stack(voxels))

    def _shift(self, size: int, draws: Draws) -> int:
        """Voxels along one axis between the borders of twins."""
        net = self.training.sn_net.features
        assert net is not None
        most = int(MOST_SHIFT * size) // net.stride
        return net.stride * int(torch.randint(0, most + 1, (1,), generator=draws.small))


def feature_loss(
    net: FeatureNet, twins: Twins, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE: the cross entropy of finding a voxel of the one image in the other, both ways.

    `hits`: share of the voxels whose own features are the nearest of all.
    """
    a, b = net.directions_at(twins.images, twins.voxels)  # (N, F)
    alike = a @ b.T / temperature
    own = torch.arange(len(alike), device=alike.device)
    loss = (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2
    hits = (alike.detach().argmax(1) == own).float().mean()
    return loss, {"loss": loss, "hits": hits}


@torch.no_grad()
def validate_features(net: FeatureNet, twins: list[Twins], temperature: float) -> dict[str, float]:
    """The negative loss of held-out twins; more is better."""
    losses = [float(feature_loss(net, pair, temperature)[0]) for pair in twins]
    return {"val_features": -sum(losses) / len(losses)} if losses else {}
