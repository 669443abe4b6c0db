"""Random pairs: pose, contrast, bias field and noise. Tensors are (2, 1, Z, Y, X): moving, fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hsyn_cli.training.data import LABELS, Cache


@dataclass(frozen=True)
class Pair:
    """images: (2, 1, Z, Y, X) in [0, 1]; labels: int64 indices into LABELS, same shape, or None for scans."""

    images: Tensor
    labels: Tensor | None


class PairSource:
    """Draws pairs from a cache at `scale` mm; `held_out` last scans and maps are kept for validation.

    `map_share` of the pairs are label maps with random contrasts, the rest are scans.
    """

    def __init__(
        self, cache: Cache, scale: int, seed: int, map_share: float = 0.35, held_out: int = 2
    ) -> None:
        self.cache, self.scale, self.map_share, self.held_out = cache, scale, map_share, held_out
        self.generator = Generator().manual_seed(seed)

    def draw(self) -> Pair:
        """A random training pair."""
        g = self.generator
        of_maps = bool(torch.rand(1, generator=g) < self.map_share)
        arrays = self.cache.maps if of_maps else self.cache.scans
        i, j = torch.randperm(len(arrays) - self.held_out, generator=g)[:2].tolist()
        flip = bool(torch.rand(1, generator=g) < 0.5)
        common = _random_affine(g, 0.12, 0.08, 0.08)
        theta = torch.stack([common @ _random_affine(g, 0.04, 0.03, 0.02) for _ in range(2)])
        return self._make(of_maps, (i, j), theta[:, :3], flip, plain=False)

    def validation(self, of_maps: bool) -> Pair:
        """The one held-out pair of that kind, without augmentation."""
        arrays = self.cache.maps if of_maps else self.cache.scans
        theta = torch.eye(4)[None, :3].repeat(2, 1, 1)
        return self._make(of_maps, (len(arrays) - 1, len(arrays) - 2), theta, False, plain=True)

    def _make(self, of_maps: bool, which: tuple[int, int], theta: Tensor, flip: bool, plain: bool) -> Pair:
        arrays = self.cache.maps if of_maps else self.cache.scans
        volume = torch.stack([torch.from_numpy(arrays[k][:, :, :: -1 if flip else 1].copy()) for k in which])[
            :, None
        ]
        g = self.generator
        if of_maps:
            k = self.scale
            labels = volume[:, :, k // 2 :: k, k // 2 :: k, k // 2 :: k].float()
            grid = F.affine_grid(theta, list(labels.shape), align_corners=False)
            labels = F.grid_sample(labels, grid, mode="nearest", align_corners=False).long()
            images = _paint(labels, g, t1_like=plain or bool(torch.rand(1, generator=g) < 0.6))
        else:
            labels = None
            images = (
                F.avg_pool3d(volume.float() / 255, self.scale) if self.scale > 1 else volume.float() / 255
            )
            images = F.grid_sample(
                images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
            )
        if not plain:
            images = _spoil(images, g)
        return Pair(images.clamp_(0, 1), labels)


def _random_affine(g: Generator, angle: float, stretch: float, shift: float) -> Tensor:
    """(4, 4): rotations in +-angle rad, scales in 1 +- stretch, shifts in +-shift of half the volume."""
    r = 2 * torch.rand(9, generator=g) - 1
    a, b, c = (angle * r[:3]).tolist()
    out = torch.eye(4)
    for axes, t in (((1, 2), a), ((0, 2), b), ((0, 1), c)):
        turn = torch.eye(4)
        turn[axes[0], axes[0]] = turn[axes[1], axes[1]] = math.cos(t)
        turn[axes[0], axes[1]], turn[axes[1], axes[0]] = -math.sin(t), math.sin(t)
        out = out @ turn
    out[:3, :3] = out[:3, :3] @ torch.diag(1 + stretch * r[3:6])
    out[:3, 3] = shift * r[6:]
    return out


def _paint(labels: Tensor, g: Generator, t1_like: bool) -> Tensor:
    """Label indices (2, 1, ...) -> images: an intensity per label, the two alike but for a little jitter."""
    count = len(LABELS) + 1
    if t1_like:
        names = {0: 0.0} | dict(enumerate(map(_t1_intensity, LABELS), start=1))
        table = torch.tensor([names[k] for k in range(count)]) + 0.05 * torch.randn(count, generator=g)
    else:
        table = torch.rand(count, generator=g)
    table[0] = 0.0
    tables = table + 0.02 * torch.randn(2, count, generator=g)
    tables[:, 0] = 0.0
    images = torch.stack([t[v] for t, v in zip(tables, labels, strict=True)])
    images = images + 0.04 * torch.randn(images.shape, generator=g) * (labels > 0)
    soft = F.avg_pool3d(images, 3, stride=1, padding=1)
    mix = torch.rand(1, generator=g)
    return mix * soft + (1 - mix) * images


def _t1_intensity(label: int) -> float:
    if label in (4, 43, 14, 15, 24):
        return 0.15
    if label in (2, 41, 7, 46, 16, 28, 60):
        return 0.9
    return 0.72 if label in (10, 49, 11, 50, 12, 51, 13, 52) else 0.58


def _spoil(images: Tensor, g: Generator) -> Tensor:
    """Bias field, gamma and noise, drawn apart for each image."""
    coarse = 0.3 * torch.rand(1, generator=g) * torch.randn(len(images), 1, 4, 4, 4, generator=g)
    bias = F.interpolate(coarse, size=images.shape[2:], mode="trilinear", align_corners=True).exp()
    gamma = torch.exp(0.25 * torch.randn(len(images), 1, 1, 1, 1, generator=g))
    noise = 0.03 * torch.rand(1, generator=g) * torch.randn(images.shape, generator=g)
    return (images.clamp(1e-6, 1).pow(gamma) * bias + noise * (images > 0)).clamp(0, 1)
