"""Refinement of a pair's half-way fields at full resolution. Ours, not in the paper.

It takes more steps along the forces (see `forces`), starting from SN-Net's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from hsyn_cli.config.architecture import SNNetConfig
from hsyn_cli.config.presets import RefineStage
from hsyn_cli.fields.sampling import shrunk
from hsyn_cli.fields.smoothing import gaussian, resize_smooth, separable
from hsyn_cli.method.steps import EVERYWHERE, PLAIN, pull
from hsyn_cli.method.where import Where


@torch.no_grad()
def refine(
    u: Tensor,
    pair: Tensor,
    spacing: float,
    stages: Sequence[RefineStage],
    where: Where = EVERYWHERE,
    config: SNNetConfig = PLAIN,
    progress: Callable[[float], None] = lambda fraction: None,
    channels: Sequence[float] = (1.0,),
) -> Tensor:
    """Refined half-way fields, as fine as the pair; without stages, `u` itself.

    Args:
        u: (2, 3, Z/s, Y/s, X/s) half-way fields in mm, mid to moving first.
        pair: (2, N + C, Z, Y, X) moving and fixed on the working grid, in [0, 1]: their channels
            and their maps.
        spacing: working voxel in mm.
        where: both images count; a force acts only there.
        config: of SN-Net, see `forces.pull`.
        progress: called with the share of the work that is done.
        channels: N weights, with the sum 1.
    """
    if not stages:
        return u
    u = resize_smooth(u, pair.shape[2:])
    work, done = sum(stage.steps.steps / stage.scale**3 for stage in stages) or 1.0, 0.0
    for stage in stages:
        size = shrunk(pair.shape[2:], stage.scale)
        voxel = spacing * stage.scale
        images = at_scale(pair, size)
        u = resize_smooth(u, size)
        here = where.changed(partial(at_scale, size=size))

        def step_done(share: float = stage.scale**-3 / work) -> None:
            nonlocal done
            done += share
            progress(done)

        u = pull(
            images, u, voxel, stage.steps, config=config, where=here, channels=channels,
            step_done=step_done,
        )  # fmt: skip
    return resize_smooth(u, pair.shape[2:])


def at_scale(images: Tensor, size: torch.Size) -> Tensor:
    """Images smoothed for, and sampled on, `size` (Z, Y, X) voxels of the same extent."""
    scale = images.shape[-1] / size[-1]
    return images if scale == 1 else separable(images, gaussian(images, size, 0.4 * scale))
