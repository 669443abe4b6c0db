"""Random pairs: pose, contrast, bias field and noise. Tensors are (2, 1, Z, Y, X): moving, fixed.

The number of a pair alone seeds its generators, so a run draws the same pairs when it is resumed or
spread over processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hsyn_cli.anatomy import organs
from hsyn_cli.config.training import Training
from hsyn_cli.errors import UsageError
from hsyn_cli.training.breathing import NUMBERS, breathe
from hsyn_cli.training.cache import Cache


@dataclass(frozen=True)
class TrainingPair:
    """A pair of images with what training needs beside them.

    Attributes:
        images: (2, 1, Z, Y, X) in [0, 1].
        labels: int64 indices below `count`, of the same shape, or None.
        maps: for chests, the lungs, (2, 1, ...).
        truth: for chests, the true field from fixed to moving, (1, 3, ...) in mm, if known.
    """

    images: Tensor
    labels: Tensor | None
    count: int = 1
    maps: Tensor | None = None
    truth: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """Images and maps in one tensor."""
        return self.images if self.maps is None else torch.cat((self.images, self.maps), dim=1)


class Draws:
    """Random numbers of a pair: `small` on the CPU for decisions, `large` on the images' device.

    So the host waits for nothing that the device computes.
    """

    def __init__(self, device: torch.device, *key: int) -> None:
        seeds = np.random.SeedSequence(key).generate_state(2).tolist()
        self.small = Generator().manual_seed(seeds[0])
        self.large = Generator(device).manual_seed(seeds[1])
        self.device = device

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return bool(torch.rand(1, generator=self.small) < p)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), on the CPU."""
        return torch.rand(*shape, generator=self.small)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, on the CPU."""
        return torch.randn(*shape, generator=self.small)

    def there(self, values: Tensor) -> Tensor:
        """A few numbers of the CPU on the images' device."""
        return values.to(self.device, non_blocking=True)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape and on the device of `like`."""
        return torch.randn(like.shape, generator=self.large, device=self.device)


class PairSource:
    """The training pairs of a cache; see `Cache.parts`."""

    def __init__(self, cache: Cache, training: Training, device: torch.device) -> None:
        self.training, self.device = training, device
        self.organ = organs.find(training.sn_net.organ)
        self.images, self.labels = (
            torch.from_numpy(v).to(device) for v in (cache.images, cache.labels)
        )
        self.has_labels, self.ids = cache.has_labels, cache.ids
        self.count = len(cache.ids) + 1
        self.counted = self.count if cache.counted is None else cache.counted + 1
        kinds = [cache.parts(of_maps, training.held_out) for of_maps in (False, True)]
        self.rows, self.validation_rows = ([kind[part] for kind in kinds] for part in (0, 1))
        if training.breathing and not all(map(self.has_labels.__getitem__, cache.rows(False))):
            raise UsageError(
                "an image without a map of its lungs cannot breathe",
                "set breathing to 0, or add label maps",
            )
        grey = training.intensities or {}
        self.t1_like = (
            torch.tensor([0.0, *(grey.get(str(k), torch.nan) for k in cache.ids)]) if grey else None
        )

    def draw(self, scale: int, *key: int) -> TrainingPair:
        """The training pair of a key, with images averaged down by `scale`."""
        draws = Draws(self.device, self.training.seed, *key)
        of_maps = not self.rows[0] or (bool(self.rows[1]) and draws.chance(self.training.map_share))
        rows = self.rows[of_maps]
        i, j = torch.randperm(len(rows), generator=draws.small)[:2].tolist()
        flip = self.training.flip and draws.chance(0.5)
        common = random_affine(draws, 0.12, 0.08, 0.08)
        theta = torch.stack([common @ random_affine(draws, 0.04, 0.03, 0.02) for _ in range(2)])
        if self.training.breathing and not of_maps and draws.chance(self.training.breathing):
            return self._breath(rows[i], scale, theta[:1, :3], flip, draws)
        return self._make(of_maps, (rows[i], rows[j]), scale, theta[:, :3], flip, draws)

    def validation(self, scale: int) -> list[TrainingPair]:
        """Pairs of neighbours among the held-out images and maps, without augmentation."""
        theta = torch.eye(4)[None, :3].repeat(2, 1, 1)
        out = []
        for of_maps, rows in zip((False, True), self.validation_rows, strict=True):
            for k in range(0, len(rows) - 1, 2):
                draws = Draws(self.device, self.training.seed, k)
                out.append(
                    self._make(
                        of_maps, (rows[k], rows[k + 1]), scale, theta, False, draws, plain=True
                    )
                )
                if self.training.breathing and not of_maps:
                    out.append(self._breath(rows[k], scale, theta[:1], False, draws, plain=True))
        return out

    def _breath(
        self, row: int, scale: int, theta: Tensor, flip: bool, draws: Draws, plain: bool = False
    ) -> TrainingPair:
        """One chest at two depths of breath, with its lungs as labels, averaged down by `scale`."""
        theta = draws.there(theta)
        volumes = (self.images[row][None].float() / 255, (self.labels[row][None] > 0).float())
        image, lungs = (F.avg_pool3d(_flipped(v[:, None], flip), scale) for v in volumes)
        grid = F.affine_grid(theta, list(image.shape), align_corners=False)
        image, lungs = (F.grid_sample(v, grid, align_corners=False) for v in (image, lungs))
        motion = self.training.motion_mm * (2 * float(draws.uniform(1)) - 1)
        breath = breathe(
            image, lungs, self.training.sn_net.spacing * scale, motion, draws.normal(NUMBERS)
        )
        images = torch.cat((breath.moving, breath.fixed))
        maps = torch.cat((breath.moving_lungs, breath.fixed_lungs))
        if not plain:
            images, maps = scanned(images, maps, draws, self.training.cut_share)
        return TrainingPair(images, (maps > 0.5).long(), 2, maps, breath.truth)

    def _make(
        self,
        of_maps: bool,
        subjects: tuple[int, int],
        scale: int,
        theta: Tensor,
        flip: bool,
        draws: Draws,
        plain: bool = False,
    ) -> TrainingPair:
        theta = draws.there(theta)
        labels = images = None
        if all(self.has_labels[k] for k in subjects):
            middle = (slice(scale // 2, None, scale),) * 3
            both = torch.stack([self.labels[k][middle] for k in subjects])
            labels = _flipped(both[:, None], flip).float()
            grid = F.affine_grid(theta, list(labels.shape), align_corners=False)
            labels = F.grid_sample(labels, grid, mode="nearest", align_corners=False).long()
        if of_maps:
            assert labels is not None
            images = self._paint(labels, draws, plain)
            labels = labels * (labels < self.counted)
        else:
            both = torch.stack([self.images[k] for k in subjects])
            images = _flipped(both[:, None], flip).float() / 255
            images = F.avg_pool3d(images, scale) if scale > 1 else images
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, align_corners=False)
        maps = None
        if labels is not None and self.organ.maps_from_labels:
            maps = (labels > 0).float()
        if not self.organ.ct:
            images = images if plain else spoil(images, draws, self.training.background_noise)
            return TrainingPair(images.clamp_(0, 1), labels, self.counted, maps)
        if not plain:
            lungs = torch.zeros_like(images) if maps is None else maps
            images, lungs = scanned(images, lungs, draws, self.training.cut_share)
            maps = None if maps is None else lungs
        return TrainingPair(images, labels, self.counted, maps)

    def _paint(self, labels: Tensor, draws: Draws, plain: bool) -> Tensor:
        """Paint label indices (2, 1, ...) with grey values, alike in both images up to jitter."""
        table = draws.uniform(self.count)
        if self.t1_like is not None and (plain or draws.chance(0.6)):
            known = self.t1_like + 0.05 * draws.normal(self.count)
            table = torch.where(known.isnan(), table, known)
        if not self.training.surroundings or not draws.chance(self.training.surroundings):
            labels = labels * (labels < self.counted)
        tables = table + 0.02 * draws.normal(2, self.count)
        tables[:, 0] = 0.0
        tables = draws.there(tables)
        images = torch.stack([t[v] for t, v in zip(tables, labels, strict=True)])
        images = images + 0.04 * draws.noise(images) * (labels > 0)
        mix = float(draws.uniform(1))
        return mix * F.avg_pool3d(images, 3, stride=1, padding=1) + (1 - mix) * images


def _flipped(volume: Tensor, flip: bool) -> Tensor:
    return volume.flip(-1) if flip else volume


def random_affine(draws: Draws, angle: float, stretch: float, shift: float) -> Tensor:
    """(4, 4): rotation within angle rad, scale 1 +- stretch, shift in shares of half the volume."""
    r = 2 * draws.uniform(9) - 1
    out = torch.eye(4)
    for axes, t in zip(((1, 2), (0, 2), (0, 1)), (angle * r[:3]).tolist(), strict=True):
        turn = torch.eye(4)
        turn[axes[0], axes[0]] = turn[axes[1], axes[1]] = math.cos(t)
        turn[axes[0], axes[1]], turn[axes[1], axes[0]] = -math.sin(t), math.sin(t)
        out = out @ turn
    out[:3, :3] = out[:3, :3] @ torch.diag(1 + stretch * r[3:6])
    out[:3, 3] = shift * r[6:]
    return out


def spoil(images: Tensor, draws: Draws, background_noise: float) -> Tensor:
    """Apply a bias field, gamma and noise, drawn separately for each image."""
    n = len(images)
    coarse = draws.there(0.3 * draws.uniform(1) * draws.normal(n, 1, 4, 4, 4))
    bias = F.interpolate(coarse, size=images.shape[2:], mode="trilinear", align_corners=True).exp()
    gamma = draws.there(torch.exp(0.25 * draws.normal(n, 1, 1, 1, 1)))
    noise = 0.03 * float(draws.uniform(1)) * draws.noise(images)
    if not draws.chance(background_noise):
        noise = noise * (images > 0)
    return (images.clamp(1e-6, 1).pow(gamma) * bias + noise).clamp(0, 1)


def scanned(images: Tensor, lungs: Tensor, draws: Draws, cut_share: float) -> tuple[Tensor, Tensor]:
    """Imitate CT scanners, separately for each image and its lungs, both (N, 1, Z, Y, X).

    Applies a kernel from soft to sharp, noise and a small offset. A share of the images, and their
    lungs, lose slices at one end.
    """
    soft = F.avg_pool3d(images, 3, stride=1, padding=1)
    n = len(images)
    sharpness = draws.there(1.5 * draws.uniform(n, 1, 1, 1, 1) - 1)  # -1 soft, 0.5 sharp
    noise = draws.there(0.06 * draws.uniform(n, 1, 1, 1, 1)) * draws.noise(images)
    offset = draws.there(0.01 * draws.normal(n, 1, 1, 1, 1))
    out = (images + sharpness * (images - soft) + noise + offset).clamp(0, 1)
    kept = lungs.clone()
    for k in range(n):
        if draws.chance(cut_share):
            slices = int(float(draws.uniform(1)) * 0.12 * images.shape[2])
            ends = slice(0, slices) if draws.chance(0.5) else slice(images.shape[2] - slices, None)
            out[k, :, ends] = kept[k, :, ends] = 0
    return out, kept
