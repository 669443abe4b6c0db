"""Refinement: a few steps on one pair's own half-way fields, from SN-Net's answer, along the forces it was shown.

Each step pulls both images towards each other by the mean of both forces (`losses.ncc_forces`), so the mean shape that
SN-Net chose stays. As in SyN and greedy, a Gaussian smooths every step, and another the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hsyn_cli.config import RefineStage
from hsyn_cli.fields import gaussian, separable, warp
from hsyn_cli.losses import ncc_forces

UPSAMPLING_SIGMA = 0.7  # voxels of the coarser field


@torch.no_grad()
def refine(
    u: Tensor,
    pair: Tensor,
    spacing: float,
    stages: Sequence[RefineStage],
    masks: Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Refined half-way fields, as fine as the last stage's images; without stages `u` itself.

    Args:
        u: (2, 3, Z/s, Y/s, X/s) half-way fields in mm, mid to moving first.
        pair: (2, 1, Z, Y, X) moving and fixed on the working grid, in [0, 1].
        spacing: working voxel in mm.
        masks: (2, 1, Z, Y, X), 1 where moving and fixed count; no force acts where either does not.
        progress: called with the share of the work that is done.
    """
    work, done = sum(stage.steps / stage.scale**3 for stage in stages), 0.0
    for stage in stages:
        size, voxel = torch.Size(round(n / stage.scale) for n in pair.shape[2:]), spacing * stage.scale
        images = at_scale(pair, size)
        u_m, u_f = resampled(u, size).chunk(2)
        middle, half = (u_m + u_f) / 2, (u_m - u_f) / 2
        weight = None if masks is None else _both(at_scale(masks, size), middle, half, voxel)
        of_step, of_field = (gaussian(half, size, sigma) for sigma in (stage.step_sigma, stage.field_sigma))
        for _ in range(stage.steps):
            moving, fixed = warp(images, torch.cat((middle + half, middle - half)), voxel).chunk(2)
            forward, backward = ncc_forces(moving, fixed, stage.window)
            step = forward.sub_(backward).mul_(stage.rate * voxel / 2)
            if weight is not None:
                step *= weight
            half = separable(half.add_(separable(step, of_step)), of_field)
            done += stage.scale**-3 / work
            progress(done)
        u = torch.cat((middle + half, middle - half))
    return u


def resampled(u: Tensor, size: torch.Size) -> Tensor:
    """Fields on `size` (Z, Y, X) voxels of the same extent, without the kinks of linear interpolation."""
    return u if u.shape[2:] == size else separable(u, gaussian(u, size, UPSAMPLING_SIGMA))


def at_scale(images: Tensor, size: torch.Size) -> Tensor:
    """Images smoothed to the voxel size of `size` (Z, Y, X) voxels of the same extent, and seen there."""
    scale = images.shape[-1] / size[-1]
    return images if scale == 1 else separable(images, gaussian(images, size, 0.4 * scale))


def _both(masks: Tensor, middle: Tensor, half: Tensor, spacing: float) -> Tensor:
    moving, fixed = warp(masks, torch.cat((middle + half, middle - half)), spacing).chunk(2)
    return moving * fixed
