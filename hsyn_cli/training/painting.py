"""Painted crops of label maps for the tissue net: an image and the tissues of its voxels.

A crop is rotated, stretched and bent. Its labels get the grey values of a T1 scan, or any others.
The tissue around the brain stays, or is removed well or badly. The picture is blurred, gets a bias
field and noise, and is scaled like the image of a user.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.errors import UsageError
from hsyn_cli.fields.smoothing import gaussian, separable
from hsyn_cli.method.losses import soft_dice
from hsyn_cli.method.tissue_net import TissueNet
from hsyn_cli.training.pairs import Draws, PairSource, random_affine, spoil

VALIDATION_CROP = (128, 144, 128)  # voxels, at most
VALIDATION_TURNS = 4  # crops of a map, at most
CONTENT, TOP = 0.02, 0.995  # the quantile TOP of the voxels brighter than CONTENT becomes 1


@dataclass(frozen=True)
class Sample:
    """What the tissue net learns from.

    Attributes:
        image: (1, 1, z, y, x) in [0, 1].
        target: (1, C, z, y, x) in [0, 1], of the maps, or of the classes if there are any.
        weight: (1, 1, z, y, x).
    """

    image: Tensor
    target: Tensor
    weight: Tensor


class Painter:
    """Pictures of the label maps of a cache. Raises UsageError if it has none to train on.

    `brain`: the ids that make up the brain.
    """

    def __init__(self, source: PairSource, brain: Iterable[int]) -> None:
        self.source, self.training, self.device = source, source.training, source.device
        self.rows, self.held_out = source.rows[1], source.validation_rows[1]
        if not self.rows:
            raise UsageError(
                "the tissue net and the feature net need label maps",
                "set tissue_steps and feature_steps to 0, or add label maps",
            )
        within = set(brain)
        self.brain = torch.tensor([False, *(k in within for k in source.ids)], device=self.device)

    def row(self, draws: Draws) -> int:
        """A label map to train on."""
        return self.rows[int(torch.randint(0, len(self.rows), (1,), generator=draws.small))]

    def held_out_crops(self) -> Iterator[tuple[int, tuple[int, int, int], Draws]]:
        """The row, size and draws of the pictures to validate on, equal in every call.

        A crop is no larger than its map. Maps smaller than a crop have several, as they vary more.
        """
        whole = self.source.labels.shape[1:]
        z, y, x = (min(n, m) for n, m in zip(VALIDATION_CROP, whole, strict=True))
        for turn in range(min(VALIDATION_TURNS, math.prod(VALIDATION_CROP) // (z * y * x))):
            for k, row in enumerate(self.held_out):
                key = (k, turn) if turn else (k,)
                yield row, (z, y, x), Draws(self.device, self.training.seed, *key)

    def anatomy(
        self, row: int, size: tuple[int, int, int], draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Label indices of a crop, its brain as 1, and the weight of each voxel, (1, 1, *size)."""
        labels = self._bent(row, size, draws)
        brain = self.brain[labels].float()
        far = self.training.background_weight
        near = F.max_pool3d(brain, 5, stride=1, padding=2)
        return labels, brain, far + (1 - far) * near

    def _bent(self, row: int, size: tuple[int, int, int], draws: Draws) -> Tensor:
        volume = self.source.labels[row][None, None].float()
        full = torch.tensor(volume.shape[:1:-1])
        share = torch.tensor(size[::-1]) / full  # x, y, z
        pose = random_affine(draws, 0.35, 0.15, 0.0)
        flip = torch.diag(torch.tensor([-1.0 if draws.chance(0.5) else 1.0, 1.0, 1.0]))
        matrix = pose[:3, :3] @ flip @ torch.diag(share)
        middle = (2 * draws.uniform(3) - 1) * (0.9 - 0.8 * share).clamp_min(self.training.shift)
        theta = draws.there(torch.cat((matrix, middle[:, None]), dim=1))
        grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
        most = self.training.bend  # voxels
        for cells, share_of in ((5, 1.0), (9, 0.5)):
            bend = share_of * most * draws.uniform(1) * draws.normal(1, 3, cells, cells, cells)
            bend = draws.there(bend * (2 / full).view(1, 3, 1, 1, 1))
            bend = F.interpolate(bend, size=size, mode="trilinear", align_corners=True)
            grid = grid + bend.movedim(1, -1)
        return F.grid_sample(volume, grid, mode="nearest", align_corners=False).long()

    def painted(self, labels: Tensor, brain: Tensor, draws: Draws) -> Tensor:
        """A picture (1, 1, ...) in [0, 1] of an `anatomy`."""
        table = draws.uniform(self.source.count)
        t1 = self.source.t1_like
        if t1 is not None and draws.chance(self.training.t1_share):
            bright = float(t1.nan_to_num().max())
            grey = bright + (t1 - bright) * (0.75 + 0.35 * draws.uniform(1))
            dark = 0.25 * draws.uniform(1)  # fluid
            grey = torch.where(t1 < 0.2, dark, grey) + 0.03 * draws.normal(len(t1))
            table = torch.where(grey.isnan(), table, grey).clamp(0, 1)
        table[0] = 0.0
        image = draws.there(table)[labels]
        if self.training.texture:
            rough = self.training.texture * draws.uniform(self.source.count)
            rough[0] = 0.0
            image = (image + draws.there(rough)[labels] * draws.noise(image)).clamp_min(0)
        image = image * self._visible(labels, brain, draws)
        mix = float(draws.uniform(1))
        image = mix * F.avg_pool3d(image, 3, stride=1, padding=1) + (1 - mix) * image
        if draws.chance(self.training.thick_share):
            thick, size = list(image.shape[2:]), image.shape[2:]
            thick[int(torch.randint(0, 3, (1,), generator=draws.small))] //= 2
            image = F.interpolate(
                F.interpolate(image, size=thick, mode="area"), size=size, mode="trilinear"
            )
        image = spoil(image, draws, self.training.background_noise)
        return (image / top_of(image).clamp_min(0.1)).clamp(0, 1)

    def _visible(self, labels: Tensor, brain: Tensor, draws: Draws) -> Tensor:
        """The visible part as 1: the brain with a rim of fluid or anything, or the whole head."""
        kind = float(draws.uniform(1))
        stripped = self.training.stripped_share
        if kind > stripped + self.training.badly_stripped_share:
            return torch.ones_like(brain)
        sigma, least = 0.5 + 3 * float(draws.uniform(1)), 0.02 + 0.25 * float(draws.uniform(1))
        rim = (separable(brain, gaussian(brain, brain.shape[2:], sigma)) > least).float()
        if kind < stripped:
            rim = rim * (labels < self.source.counted)
        return torch.maximum(brain, rim)


def top_of(image: Tensor) -> Tensor:
    """The quantile TOP of the voxels brighter than CONTENT, a scalar; 1 if there are none.

    The host does not wait for it.
    """
    brightest = image.flatten().topk(math.ceil((1 - TOP) * (image.numel() - 1)) + 1).values
    count = (image > CONTENT).sum()
    place = (1 - TOP) * (count - 1).clamp_min(0)  # from the brightest on
    high, low = brightest[torch.stack((place.floor(), place.ceil())).long()]
    return torch.where(count > 0, high + (low - high) * (place - place.floor()), 1.0)


class TissueSource(Painter):
    """Samples for the tissue net. Raises UsageError if a map or class has no label to learn."""

    def __init__(self, source: PairSource) -> None:
        net = source.training.sn_net.tissue
        assert net is not None
        named = {int(k) for channel in net.channels for k in channel}
        super().__init__(source, {k for group in net.classes for k in group} or named)
        values = net.values(source.ids)
        if net.classes:
            values = [[float(k in group) for k in source.ids] for group in net.classes]
        self.values = torch.tensor([[0.0, *row] for row in values], device=self.device)
        if not self.values.any(1).all():
            raise UsageError(
                "a map or class of the tissue net has no label in the label maps",
                "give it ids of the label maps, in sn_net",
            )

    def draw(self, *key: int) -> Sample:
        """The training sample of a key."""
        draws = Draws(self.device, self.training.seed, *key)
        return self._sample(self.row(draws), self.training.tissue_crop, draws)

    def validation(self) -> list[Sample]:
        """The samples of the held-out maps, equal in every call."""
        return [self._sample(row, size, draws) for row, size, draws in self.held_out_crops()]

    def _sample(self, row: int, size: tuple[int, int, int], draws: Draws) -> Sample:
        labels, brain, weight = self.anatomy(row, size, draws)
        image = self.painted(labels, brain, draws)
        return Sample(image, self.values[:, labels[0, 0]][None], weight)


def tissue_loss(net: TissueNet, sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted mean squared error, summed over the maps; its minimiser is the expected value.

    With classes: weighted cross entropy plus soft Dice.
    """
    mean_weight = sample.weight.mean()
    if not net.config.classes:
        errors = (net(sample.image) - sample.target).square().mul(sample.weight).mean((0, 2, 3, 4))
        loss = (errors / mean_weight).sum()
        return loss, {"loss": loss}
    surprise = net.logits(sample.image).log_softmax(1)
    target = torch.cat((1 - sample.target.sum(1, keepdim=True), sample.target), dim=1)
    entropy = -(surprise * target).sum(1, keepdim=True).mul(sample.weight).mean() / mean_weight
    dice = soft_dice(surprise[:, 1:].exp(), sample.target)
    loss = entropy + dice
    return loss, {"loss": loss, "dice": 1 - dice}


@torch.no_grad()
def validate_tissue(net: TissueNet, samples: list[Sample]) -> dict[str, float]:
    """The negative loss of held-out samples, or soft Dice of the classes; more is better."""
    of, name, sign = ("dice", "val_dice", 1) if net.config.classes else ("loss", "val_tissue", -1)
    values = [float(tissue_loss(net, sample)[1][of]) for sample in samples]
    return {name: sign * sum(values) / len(values)} if values else {}
