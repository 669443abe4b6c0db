"""Refinement: steps along the forces (see `forces`) on one pair's own half-way fields, from SN-Net's answer, up to full images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hsyn_cli.config import RefineStage
from hsyn_cli.fields import gaussian, resampled, separable
from hsyn_cli.forces import pull


@torch.no_grad()
def refine(
    u: Tensor,
    pair: Tensor,
    spacing: float,
    stages: Sequence[RefineStage],
    masks: Tensor | None = None,
    symmetric: bool = True,
    progress: Callable[[float], None] = lambda fraction: None,
    border: int = 0,
) -> Tensor:
    """Refined half-way fields, as fine as the pair; without stages `u` itself.

    Args:
        u: (2, 3, Z/s, Y/s, X/s) half-way fields in mm, mid to moving first.
        pair: (2, 1 + C, Z, Y, X) moving and fixed on the working grid, in [0, 1], and their maps.
        spacing: working voxel in mm.
        masks: (2, 1, Z, Y, X), 1 where moving and fixed count; no force acts where either does not.
        symmetric: False moves the moving image alone.
        progress: called with the share of the work that is done.
        border: as many voxels at each side of the pair keep the field they have.
    """
    if not stages:
        return u
    whole = resampled(u, pair.shape[2:]).clone()
    inner = (slice(None), slice(None), *(slice(border, n - border) for n in pair.shape[2:]))
    u, pair, masks = whole[inner], pair[inner], None if masks is None else masks[inner]
    work, done = sum(stage.how.steps / stage.scale**3 for stage in stages) or 1.0, 0.0
    for stage in stages:
        size, voxel = torch.Size(round(n / stage.scale) for n in pair.shape[2:]), spacing * stage.scale
        images = at_scale(pair, size)
        u = resampled(u, size)
        counts = None if masks is None else at_scale(masks, size)

        def told(share: float = stage.scale**-3 / work) -> None:
            nonlocal done
            done += share
            progress(done)

        u = pull(images, u, voxel, stage.how, symmetric=symmetric, counts=counts, told=told)
    whole[inner] = resampled(u, pair.shape[2:])
    return whole


def at_scale(images: Tensor, size: torch.Size) -> Tensor:
    """Images smoothed to the voxel size of `size` (Z, Y, X) voxels of the same extent, and seen there."""
    scale = images.shape[-1] / size[-1]
    return images if scale == 1 else separable(images, gaussian(images, size, 0.4 * scale))
