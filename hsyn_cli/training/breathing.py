"""Synthetic breathing: a chest CT at two depths of breath, with the true field at every voxel.

Chest CT with a licence for training is scarce, and no two breaths of one person come with a known
field. So this module makes one breath from the other. The diaphragm moves most and the apex hardly.
The chest wall slides along the lungs and stays behind. Ribs move a little forwards and sideways.
Small smooth random motion is added. Density follows volume: a voxel that gains air loses Hounsfield
units (conservation of mass; see Reinhardt et al., Medical Image Analysis 2008).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.fields.folding import determinant
from hsyn_cli.fields.sampling import compose, downsample, length, warp
from hsyn_cli.fields.smoothing import gaussian, resize_smooth, separable

SQUARINGS = 6
NUMBERS = 300  # random numbers per breath
COARSE_MM = 3.0  # below this voxel size, fields are computed at half the resolution
WALL_MM = (4.0, 10.0)  # range of the Gaussian's sigma for the sliding of the chest wall
FORWARD, SIDEWAYS, WAVES = 0.3, 0.1, 0.25  # largest motion relative to that along the body
PARENCHYMA = 0.42  # value in [0, 1] (-500 HU) below which tissue gains and loses air
DENSITIES = (0.5, 2.0)  # range of the factor on the density of a lung


@dataclass(frozen=True)
class Breath:
    """A chest at two depths of breath: images (1, 1, Z, Y, X) in [0, 1] and their lungs.

    `truth`: (1, 3, Z, Y, X) in mm, the pull-back field on the fixed grid.
    """

    moving: Tensor
    fixed: Tensor
    moving_lungs: Tensor
    fixed_lungs: Tensor
    truth: Tensor


def breathe(image: Tensor, lungs: Tensor, voxel: float, motion: float, random: Tensor) -> Breath:
    """Make a fixed image at another depth of breath from the moving `image`.

    Args:
        image: (1, 1, Z, Y, X) in [0, 1] over the lung window, axes nearest to LPS.
        lungs: (1, 1, Z, Y, X), 1 in the lungs.
        voxel: mm.
        motion: largest displacement in the fixed lungs, mm, to within a few percent; negative if
            the fixed image is to breathe out.
        random: NUMBERS standard normal numbers on the CPU, which decide the motion.
    """
    factor = 2 if voxel < COARSE_MM and not any(n % 2 for n in lungs.shape[2:]) else 1
    small, coarse = downsample(lungs, factor), voxel * factor
    velocity = _velocity(small, coarse, random)
    share, truth = velocity.new_tensor(motion), velocity
    for _ in range(2):  # the exponential is not quite linear in its argument
        truth = exponential(velocity * share, coarse)
        inside = warp(small, truth, coarse)[:, 0] > 0.5
        share = share * abs(motion) / (length(truth) * inside).max().clamp_min(1e-6)
    truth = resize_smooth(truth, lungs.shape[2:])
    fixed_lungs = warp(lungs, truth, voxel)
    fixed = warp(image, truth, voxel)
    growth = determinant(truth, voxel)[:, None].clamp(*DENSITIES)
    airy = fixed_lungs * ((PARENCHYMA - fixed) / 0.1).clamp(0, 1)
    return Breath(image, (fixed * (1 + airy * (growth - 1))).clamp(0, 1), lungs, fixed_lungs, truth)


def exponential(velocity: Tensor, voxel: float) -> Tensor:
    """Displacement (1, 3, Z, Y, X) in mm after unit time at `velocity`, by scaling and squaring."""
    u: Tensor = velocity / 2.0**SQUARINGS
    for _ in range(SQUARINGS):
        u = compose(u, u, voxel)
    return u


def _velocity(lungs: Tensor, voxel: float, random: Tensor) -> Tensor:
    """A velocity of about unit size at the diaphragm, where it points upwards (+z)."""
    forward, sideways, wall = random[:3].sigmoid().tolist()
    spread = random[3:].to(lungs.device, non_blocking=True)
    size = lungs.shape[2:]
    x, y, z = (
        _between(lungs, axis, low, high)
        for axis, low, high in ((4, 0.0, 1.0), (3, 0.0, 1.0), (2, 0.02, 0.98))
    )
    depth = (1 - z).clamp(0, 1)  # 0 at the apex, 1 at the lowest point
    power = 1.0 + 0.5 * wall
    below = lungs.flip(2).cummax(2).values.flip(2)  # the lungs and all that lies beneath them
    inner = separable(
        below, gaussian(below, size, (WALL_MM[0] + wall * (WALL_MM[1] - WALL_MM[0])) / voxel)
    )
    along = depth**power * inner
    rib = 4 * depth * (1 - depth)
    out = torch.cat(
        (
            -SIDEWAYS * sideways * (2 * x - 1).clamp(-1, 1) * rib * torch.ones_like(inner),
            FORWARD * forward * (1 - y).clamp(0, 1) * rib * torch.ones_like(inner),
            along,
        ),
        dim=1,
    )
    for cells, numbers in ((3, spread[:81]), (4, spread[81 : 81 + 192])):
        waves = numbers[: 3 * cells**3].view(1, 3, cells, cells, cells)
        waves = F.interpolate(waves, size=size, mode="trilinear", align_corners=True)
        out = out + WAVES / cells * forward * waves * (0.2 + depth) * inner
    return out


def _between(lungs: Tensor, axis: int, low: float, high: float) -> Tensor:
    """Coordinate along an axis: 0 after the share `low` of the lungs' volume, 1 after `high`.

    It has size 1 along the other axes.
    """
    others = [k for k in range(5) if k != axis]
    volume = lungs.sum(others).cumsum(0)
    share = volume / volume[-1].clamp_min(1e-6)
    first, last = (
        (share < value).sum().clamp_max(len(share) - 1)
        for value in (max(low, 1e-3), min(high, 0.999))
    )
    t = (torch.arange(len(share), device=lungs.device) - first) / (last - first).clamp_min(1)
    shape = [1] * 5
    shape[axis] = -1
    return t.view(shape)
