"""The training losses: HSyN's loss of a pair in mean space, and DI-Net's residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.config.training import Stage, Training
from hsyn_cli.fields.sampling import downsample, resize_linear, warp
from hsyn_cli.method import similarity
from hsyn_cli.method.di_net import DINet, inverse_loss
from hsyn_cli.method.losses import mean_shape, modulus_balance, smoothness, soft_dice
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.training.pairs import Draws, TrainingPair

Parts = dict[str, Tensor]  # the terms of a loss, each a scalar on the device


def pair_loss(
    u: Tensor, pair: TrainingPair, voxel: float, field_voxel: float, window: int, training: Training
) -> tuple[Tensor, Parts]:
    """-NCC + lambda1 smoothness + lambda2 balance of the half-way fields, and Dice of any labels.

    Args:
        u: (2, 3, ...) half-way fields in mm on voxels of `field_voxel` mm, moving first.
        pair: on voxels of `voxel` mm, of the same extent.
    """
    moving, fixed = warp(pair.images, resize_linear(u, pair.images.shape[2:]), voxel).chunk(2)
    u_m, u_f = u.chunk(2)
    balance = mean_shape if training.balance == "smc" else modulus_balance
    parts = {
        "ncc": similarity.find(training.sn_net.similarity).value(moving, fixed, window),
        "smooth": smoothness(u_m, field_voxel) + smoothness(u_f, field_voxel),
        "balance": balance(u_m, u_f, field_voxel) if training.sn_net.symmetric else u.new_zeros(()),
    }
    loss = training.smooth * parts["smooth"] + training.mean_shape * parts["balance"] - parts["ncc"]
    if pair.labels is not None:
        k = max(1, round(training.dice_mm / voxel))
        sparse = pair.labels[:, 0, k // 2 :: k, k // 2 :: k, k // 2 :: k]
        index = torch.arange(1, pair.count, device=sparse.device)
        classes = (sparse[:, None] == index.view(1, -1, 1, 1, 1)).float()
        dice = soft_dice(*warp(classes, resize_linear(u, classes.shape[2:]), voxel * k).chunk(2))
        loss = loss + training.dice * dice
        parts["dice"] = 1 - dice
    if pair.truth is not None and pair.maps is not None:
        parts["error"] = true_error(u, pair.truth, pair.maps[1:], voxel)
        loss = loss + training.truth * parts["error"]
    return loss, {"loss": loss, **parts}


def true_error(u: Tensor, truth: Tensor, lungs: Tensor, voxel: float) -> Tensor:
    """Mean distance in mm, in the lungs, of the half-way fields from the true field.

    A point of the mean space has a place in the moving and one in the fixed image. The error is the
    distance between the former and the point to which `truth` sends the latter.

    Args:
        u: (2, 3, ...) half-way fields, mm, moving first.
        truth: (1, 3, ...) on the fixed grid of `voxel` mm.
        lungs: (1, 1, ...) on the same grid.
    """
    u_m, u_f = resize_linear(u, truth.shape[2:]).chunk(2)
    true, inside = warp(torch.cat((truth, lungs), dim=1), u_f, voxel).split((3, 1), dim=1)
    away = (u_m - u_f - true).square().sum(1, keepdim=True).add(0.01).sqrt()
    error: Tensor = (away * inside).sum() / inside.sum().clamp_min(1.0)
    return error


def stage_loss(
    net: SNNet, pair: TrainingPair, stage: Stage, training: Training, draws: Draws
) -> tuple[Tensor, Parts]:
    """The loss of one pair at the scale of the stage, see `look_scale`."""
    levels = net.config.levels[: stage.depth]
    finest, look = levels[-1], look_scale(net, stage)
    pyramid = [downsample(pair.seen, level.scale // look) for level in levels]
    if stage.crop is None:
        u = net.fields(pyramid)
    else:
        with torch.no_grad():
            before = net.fields(pyramid[:-1])
        pair, before = crop_pair(
            pair, before, stage.crop, levels[-2].field_stride // finest.scale, draws
        )
        u = net.level(stage.depth - 1, pair.seen, before)
    spacing = net.config.spacing
    return pair_loss(
        u, pair, spacing * look, spacing * finest.field_stride, finest.window, training
    )


def look_scale(net: SNNet, stage: Stage) -> int:
    """The scale of the images that a stage draws and uses in its loss."""
    return stage.look or net.config.levels[stage.depth - 1].scale


def crop_pair(
    pair: TrainingPair, u: Tensor, size: tuple[int, int, int], ratio: int, draws: Draws
) -> tuple[TrainingPair, Tensor]:
    """Crop a pair to a random window of at most `size` voxels, and u to the same window.

    The voxels of u are `ratio` times larger.
    """
    cut, cut_u = [slice(None)] * 2, [slice(None)] * 2
    for n, most in zip(pair.images.shape[2:], size, strict=True):
        want = min(n, most) // ratio * ratio
        start = int(torch.randint(0, (n - want) // ratio + 1, (1,), generator=draws.small))
        cut_u.append(slice(start, start + want // ratio))
        cut.append(slice(start * ratio, start * ratio + want))
    parts = (v if v is None else v[tuple(cut)] for v in (pair.labels, pair.maps, pair.truth))
    labels, maps, truth = parts
    return TrainingPair(pair.images[tuple(cut)], labels, pair.count, maps, truth), u[tuple(cut_u)]


def di_loss(
    di: DINet, net: SNNet, seen: Tensor, scale: int, draws: Draws, smooth: float
) -> tuple[Tensor, Parts]:
    """DI-Net's residual on both half-way fields of SN-Net, or on two random smooth fields.

    `seen`: images and maps averaged down by `scale`.
    """
    voxel = net.config.spacing * scale
    if draws.chance(0.5):
        levels = [level for level in net.config.levels if level.scale >= scale]
        with torch.no_grad():
            u = net.fields([downsample(seen, level.scale // scale) for level in levels])
            u = resize_linear(u, seen.shape[2:])
    else:
        u = random_field(seen.shape[2:], voxel, draws)
    loss = inverse_loss(di(u, voxel), u, voxel, smooth)
    return loss, {"loss": loss}


def random_field(size: torch.Size, voxel: float, draws: Draws) -> Tensor:
    """(2, 3, Z, Y, X) in mm: smooth noise at two scales, with random strains up to about 0.7."""
    u = torch.zeros(2, 3, *size, device=draws.device)
    for cells in (4, 8):
        coarse = draws.there(draws.normal(2, 3, cells, cells, cells))
        u += F.interpolate(coarse, size=size, mode="trilinear", align_corners=True) * 4 / cells
    u = F.avg_pool3d(u, 5, stride=1, padding=2)
    strain = ((u[..., 1:] - u[..., :-1]).abs().amax() / voxel).clamp_min(1e-6)
    return u * (0.7 * float(draws.uniform(1)) / strain)


@torch.no_grad()
def validate(
    net: SNNet, pairs: list[TrainingPair], stage: Stage, training: Training
) -> dict[str, float]:
    """Mean NCC, and Dice of any labels, of held-out pairs at the scale of the stage."""
    levels, look = net.config.levels[: stage.depth], look_scale(net, stage)
    scores: dict[str, list[float]] = {}
    for pair in pairs:
        u = net.fields([downsample(pair.seen, level.scale // look) for level in levels])
        spacing = net.config.spacing
        _, parts = pair_loss(
            u, pair, spacing * look, spacing * levels[-1].field_stride, levels[-1].window, training
        )
        for key in ("ncc", "dice"):
            if key in parts:
                scores.setdefault(f"val_{key}", []).append(float(parts[key]))
        if "error" in parts:  # in cm, which suits the sum of the scores; more is better
            scores.setdefault("val_truth", []).append(-float(parts["error"]) / 10)
    return {key: sum(values) / len(values) for key, values in scores.items()}
