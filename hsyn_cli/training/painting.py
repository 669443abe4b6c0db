"""Painted crops of label maps for the tissue net: an image and the tissues of its voxels.

A crop is rotated, stretched and bent. Its labels get the grey values of a T1 scan, or rarely any
others. The tissue around the brain stays, or is removed well or badly. The picture is blurred, gets
a bias field and noise, and is scaled like the image of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.errors import UsageError
from hsyn_cli.fields.smoothing import gaussian, separable
from hsyn_cli.method.tissue_net import TissueNet
from hsyn_cli.training.pairs import Draws, PairSource, random_affine, spoil

VALIDATION_CROP = (128, 144, 128)


@dataclass(frozen=True)
class Sample:
    """image (1, 1, z, y, x) in [0, 1], target (1, C, z, y, x) in [0, 1], weight (1, 1, z, y, x)."""

    image: Tensor
    target: Tensor
    weight: Tensor


class TissueSource:
    """Samples from the label maps of a cache. Raises UsageError if it has none to train on."""

    def __init__(self, source: PairSource) -> None:
        ids, training = source.ids, source.training
        assert training.sn_net.tissue is not None
        self.source, self.training, self.device = source, training, source.device
        self.rows, self.held_out = source.rows[1], source.validation_rows[1]
        if not self.rows:
            raise UsageError(
                "the tissue net needs label maps", "set tissue_steps to 0, or add label maps"
            )
        channels = training.sn_net.tissue.channels
        values = [[0.0, *(channel.get(str(k), 0.0) for k in ids)] for channel in channels]
        self.values = torch.tensor(values, device=self.device)  # (C, indices)
        if not self.values.any(1).all():
            raise UsageError(
                "a map of the tissue net has no label in the label maps",
                "give it ids of the label maps, in sn_net",
            )
        named = {k for channel in channels for k in channel}
        self.brain = torch.tensor([False, *(str(k) in named for k in ids)], device=self.device)
        self.counted = source.counted

    def draw(self, *key: int) -> Sample:
        """The training sample of a key."""
        draws = Draws(self.device, self.training.seed, *key)
        row = self.rows[int(torch.randint(0, len(self.rows), (1,), generator=draws.small))]
        return self._sample(row, self.training.tissue_crop, draws)

    def validation(self) -> list[Sample]:
        """One sample of each held-out map, equal in every call."""
        return [
            self._sample(row, VALIDATION_CROP, Draws(self.device, self.training.seed, k))
            for k, row in enumerate(self.held_out)
        ]

    def _sample(self, row: int, size: tuple[int, int, int], draws: Draws) -> Sample:
        labels = self._bent(row, size, draws)
        brain = self.brain[labels].float()
        image = self._painted(labels, brain, draws)
        near = F.max_pool3d(brain, 5, stride=1, padding=2)
        target = self.values[:, labels[0, 0]][None]
        far = self.training.background_weight
        return Sample(image, target, far + (1 - far) * near)

    def _bent(self, row: int, size: tuple[int, int, int], draws: Draws) -> Tensor:
        """Label indices (1, 1, *size) of a crop."""
        volume = self.source.labels[row][None, None].float()
        full = torch.tensor(volume.shape[:1:-1])
        share = torch.tensor(size[::-1]) / full  # x, y, z
        pose = random_affine(draws, 0.35, 0.15, 0.0)
        flip = torch.diag(torch.tensor([-1.0 if draws.chance(0.5) else 1.0, 1.0, 1.0]))
        matrix = pose[:3, :3] @ flip @ torch.diag(share)
        middle = (2 * draws.uniform(3) - 1) * (0.9 - 0.8 * share).clamp_min(0)
        theta = torch.cat((matrix, middle[:, None]), dim=1).to(self.device)
        grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
        for cells, most in ((5, 2.0), (9, 1.0)):  # voxels
            bend = (most * draws.uniform(1) * draws.normal(1, 3, cells, cells, cells)).to(
                self.device
            )
            bend = F.interpolate(bend, size=size, mode="trilinear", align_corners=True)
            grid = grid + bend.movedim(1, -1) * (2 / full.to(self.device))
        return F.grid_sample(volume, grid, mode="nearest", align_corners=False).long()

    def _painted(self, labels: Tensor, brain: Tensor, draws: Draws) -> Tensor:
        table = draws.uniform(self.source.count)
        t1 = self.source.t1_like
        if t1 is not None and draws.chance(self.training.t1_share):
            bright = float(t1.nan_to_num().max())
            grey = bright + (t1 - bright) * (0.75 + 0.35 * draws.uniform(1))
            dark = 0.25 * draws.uniform(1)  # fluid
            grey = torch.where(t1 < 0.2, dark, grey) + 0.03 * draws.normal(len(t1))
            table = torch.where(grey.isnan(), table, grey).clamp(0, 1)
        table[0] = 0.0
        visible = self._visible(labels, brain, draws)
        image = table.to(self.device)[labels] * visible
        mix = float(draws.uniform(1))
        image = mix * F.avg_pool3d(image, 3, stride=1, padding=1) + (1 - mix) * image
        if draws.chance(self.training.thick_share):
            thick, size = list(image.shape[2:]), image.shape[2:]
            thick[int(torch.randint(0, 3, (1,), generator=draws.small))] //= 2
            image = F.interpolate(
                F.interpolate(image, size=thick, mode="area"), size=size, mode="trilinear"
            )
        image = spoil(image, draws, self.training.background_noise)
        bright_ones = image[image > 0.02]
        top = bright_ones.quantile(0.995) if 0 < len(bright_ones) < 1 << 24 else image.new_ones(())
        return (image / top.clamp_min(0.1)).clamp(0, 1)

    def _visible(self, labels: Tensor, brain: Tensor, draws: Draws) -> Tensor:
        """The visible part as 1: the brain with a rim of fluid or anything, or the whole head."""
        kind = float(draws.uniform(1))
        stripped = self.training.stripped_share
        if kind > stripped + self.training.badly_stripped_share:
            return torch.ones_like(brain)
        sigma, least = 0.5 + 3 * float(draws.uniform(1)), 0.02 + 0.25 * float(draws.uniform(1))
        rim = (separable(brain, gaussian(brain, brain.shape[2:], sigma)) > least).float()
        if kind < stripped:
            rim = rim * (labels < self.counted)
        return torch.maximum(brain, rim)


def tissue_loss(net: TissueNet, sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted mean squared error, summed over the maps; its minimiser is the expected value."""
    errors = (net(sample.image) - sample.target).square().mul(sample.weight).mean((0, 2, 3, 4))
    loss = (errors / sample.weight.mean()).sum()
    return loss, {"loss": loss}


@torch.no_grad()
def validate_tissue(net: TissueNet, samples: list[Sample]) -> dict[str, float]:
    """The negative loss of held-out samples; more is better."""
    losses = [float(tissue_loss(net, sample)[0]) for sample in samples]
    return {"val_tissue": -sum(losses) / len(losses)} if losses else {}
