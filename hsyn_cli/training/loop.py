"""The training of SN-Net, level after level and then jointly, and of DI-Net.

A schedule is a tuple of stages; a stage trains some levels for some minutes, its learning rate falling to a
twentieth as the time runs out, so that a run ends well on a machine of any speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.di_net import DINet, inverse_loss
from hsyn_cli.fields import downsample, resize, warp
from hsyn_cli.losses import mean_shape, ncc, smoothness, soft_dice
from hsyn_cli.sn_net import SNNet
from hsyn_cli.training.augment import Pair, PairSource
from hsyn_cli.training.data import LABELS, Cache

LAMBDA_SMOOTH, LAMBDA_MEAN_SHAPE, LAMBDA_DICE = 1.0, 0.05, 0.5


@dataclass(frozen=True)
class Stage:
    """Train the levels from `first` to `depth` - 1 for `minutes`; the finest on crops of `crop`, or whole."""

    first: int
    depth: int
    minutes: float
    rate: float = 5e-4
    crop: tuple[int, int, int] | None = None  # z, y, x
    look: int | None = None  # scale of the images the loss looks at, if finer than the finest level's


def pair_loss(
    u: Tensor, pair: Pair, voxel: float, field_voxel: float, window: int
) -> tuple[Tensor, dict[str, float]]:
    """HSyN's loss in mid space plus soft Dice where there are labels; u (2, 3, ...) in mm, moving first."""
    full = resize(u, pair.images.shape[2:])
    moving, fixed = warp(pair.images, full, voxel).chunk(2)
    similarity = ncc(moving, fixed, window)
    u_m, u_f = u.chunk(2)
    smooth = smoothness(u_m, field_voxel) + smoothness(u_f, field_voxel)
    loss = -similarity + LAMBDA_SMOOTH * smooth + LAMBDA_MEAN_SHAPE * mean_shape(u_m, u_f, field_voxel)
    parts = {"ncc": similarity.item(), "smooth": smooth.item()}
    if pair.labels is not None:
        step = max(1, round(4 / voxel))  # every 4 mm is enough, and a tenth of the memory
        sparse = pair.labels[:, 0, step // 2 :: step, step // 2 :: step, step // 2 :: step]
        classes = F.one_hot(sparse, len(LABELS) + 1)[..., 1:].movedim(-1, 1).float()
        a, b = warp(classes, resize(u, classes.shape[2:]), voxel * step).chunk(2)
        dice = soft_dice(a, b)
        loss = loss + LAMBDA_DICE * dice
        parts["dice"] = 1 - dice.item()
    parts["loss"] = loss.item()
    return loss, parts


def crop_pair(
    pair: Pair, u: Tensor, size: tuple[int, int, int], ratio: int, g: torch.Generator
) -> tuple[Pair, Tensor]:
    """A random window of `size` image voxels, and the same of u, whose voxels are `ratio` times as large."""
    cut, cut_u = [slice(None)] * 2, [slice(None)] * 2
    for n, want in zip(pair.images.shape[2:], size, strict=True):
        start = int(torch.randint(0, (n - want) // ratio + 1, (1,), generator=g))
        cut_u.append(slice(start, start + want // ratio))
        cut.append(slice(start * ratio, start * ratio + want))
    labels = None if pair.labels is None else pair.labels[tuple(cut)]
    return Pair(pair.images[tuple(cut)], labels), u[tuple(cut_u)]


def stage_loss(net: SNNet, pair: Pair, stage: Stage, g: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """The loss of one pair, given at the scale that the stage looks at."""
    levels = net.config.levels[: stage.depth]
    finest, look = levels[-1], look_scale(net, stage)
    pyramid = [downsample(pair.images, level.scale // look) for level in levels]
    voxel = net.config.spacing * look
    field_voxel = net.config.spacing * finest.field_stride
    if stage.crop is None:
        u = net.fields(pyramid)
    else:
        with torch.no_grad():
            before = net.fields(pyramid[:-1])
        pair, before = crop_pair(pair, before, stage.crop, levels[-2].field_stride // finest.scale, g)
        u = net.step(stage.depth - 1, pair.images, before)
    return pair_loss(u, pair, voxel, field_voxel, finest.window)


def look_scale(net: SNNet, stage: Stage) -> int:
    """The scale of the images that a stage draws and that its loss looks at."""
    return stage.look or net.config.levels[stage.depth - 1].scale


def train_sn_net(
    net: SNNet, cache: Cache, stages: tuple[Stage, ...], seed: int
) -> Iterator[dict[str, float]]:
    """Run the stages; yields means every 20 steps and a validation record at the end of each stage."""
    for number, stage in enumerate(stages):
        for k, level in enumerate(net.levels):
            level.requires_grad_(stage.first <= k < stage.depth)
        source = PairSource(cache, look_scale(net, stage), seed + number)
        trained = [p for p in net.parameters() if p.requires_grad]

        def loss(stage: Stage = stage, source: PairSource = source) -> tuple[Tensor, dict[str, float]]:
            return stage_loss(net, source.draw(), stage, source.generator)

        for record in _descend(trained, loss, stage.minutes, stage.rate):
            yield {"stage": number, **record}
        yield {"stage": number, **validate(net, source, stage.depth)}


def train_di_net(
    di: DINet, net: SNNet, cache: Cache, minutes: float, seed: int
) -> Iterator[dict[str, float]]:
    """DI-Net on both halves of SN-Net's fields and on random smooth fields, half as fine as the images as in use."""
    source = PairSource(cache, 2, seed)
    levels = [level for level in net.config.levels if level.scale >= source.scale]
    voxel = net.config.spacing * source.scale

    def loss() -> tuple[Tensor, dict[str, float]]:
        images = source.draw().images
        if bool(torch.rand(1, generator=source.generator) < 0.5):
            with torch.no_grad():
                u = net.fields([downsample(images, level.scale // source.scale) for level in levels])
                u = resize(u, images.shape[2:])
        else:
            u = random_field(images.shape[2:], voxel, source.generator)
        value = inverse_loss(di(u, voxel), u, voxel)
        return value, {"loss": value.item()}

    yield from _descend(list(di.parameters()), loss, minutes, 1e-3)


def random_field(size: torch.Size, voxel: float, g: torch.Generator) -> Tensor:
    """(2, 3, Z, Y, X): smooth noise at two scales, scaled so that the strain stays below about 0.7; mm."""
    u = torch.zeros(2, 3, *size)
    for cells in (4, 8):
        coarse = torch.randn(2, 3, cells, cells, cells, generator=g)
        u += F.interpolate(coarse, size=size, mode="trilinear", align_corners=True) * 4 / cells
    u = F.avg_pool3d(u, 5, stride=1, padding=2)
    strain = max(float((u[..., 1:] - u[..., :-1]).abs().max()) / voxel, 1e-6)
    return u * (0.7 * float(torch.rand(1, generator=g)) / strain)


def _descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], tuple[Tensor, dict[str, float]]],
    minutes: float,
    rate: float,
) -> Iterator[dict[str, float]]:
    optimiser = torch.optim.Adam(parameters, lr=rate)
    start, step = time.monotonic(), 0
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    while (spent := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - 0.95 * spent)
        value, parts = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        for key, part in parts.items():
            sums[key] = sums.get(key, 0.0) + part
            counts[key] = counts.get(key, 0) + 1
        if step % 20 == 0:
            yield {"step": step, "minutes": spent * minutes, **{k: v / counts[k] for k, v in sums.items()}}
            sums, counts = {}, {}


@torch.no_grad()
def validate(net: SNNet, source: PairSource, depth: int) -> dict[str, float]:
    """NCC of the held-out scans and soft Dice of the held-out maps, before (`_0`) and after."""
    levels = net.config.levels[:depth]
    finest = levels[-1]
    out: dict[str, float] = {}
    for of_maps in (False, True):
        pair = source.validation(of_maps)
        u = net.fields([downsample(pair.images, v.scale // source.scale) for v in levels])
        voxel, field_voxel = net.config.spacing * source.scale, net.config.spacing * finest.field_stride
        for name, field in (("", u), ("_0", torch.zeros_like(u))):
            parts = pair_loss(field, pair, voxel, field_voxel, finest.window)[1]
            key = "dice" if of_maps else "ncc"
            out[f"val_{key}{name}"] = parts[key]
    return out
