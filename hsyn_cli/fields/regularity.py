"""What keeps a displacement field smooth: where its images say little, and in its volume change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hsyn_cli.fields.slabs import each_slab
from hsyn_cli.fields.smoothing import gaussian, separable

WIDE_SIGMA = 1.6  # voxels; of the field where the images say nothing
DEEP = 12  # planes at a time, which stay in the cache
LARGE = 2_000_000  # voxels; fewer stay in the cache at once
MOST_DIFFUSION = 1 / 6  # square voxels; above it, the finest waves would grow


def smoothed_where_flat(
    u: Tensor, say: Tensor, sigma: Sequence[float], blur: Sequence[float] = (0.0, 0.0, 0.0)
) -> Tensor:
    """Smooth fields (B, 3, Z, Y, X) by `sigma` voxels where `say` is 1, by WIDE_SIGMA where 0.

    Where the images have little contrast, forces follow noise. There the field follows what
    surrounds it.

    Args:
        say: (B, 1, Z, Y, X), how much the images say about the field.
        sigma: along z, y, x.
        blur: voxels along z, y, x by which the images are too blurred; WIDE_SIGMA grows by it.
    """
    most = [math.hypot(WIDE_SIGMA, s) for s in blur]
    narrow, wide = (separable(u, gaussian(u, u.shape[2:], s)) for s in (sigma, most))
    return torch.lerp(wide, narrow, say)


def less_divergence(u: Tensor, diffusion: float) -> Tensor:
    """Fields (B, 3, Z, Y, X), in any unit, after u_t = grad(div u) over `diffusion` square voxels.

    This is the second term of linear elasticity (Lame's), in explicit steps. It takes sharp changes
    of volume out of a field and leaves shear and rotation. Divergence and gradient are one-sided
    differences, once of either side, so that the finest waves count and no side is preferred. At
    the border, differences that lack a neighbour are 0.
    """
    steps = math.ceil(diffusion / MOST_DIFFUSION)
    if u.requires_grad or u.device.type != "cpu" or u[0, 0].numel() < LARGE or not steps:
        return _diffused(u, diffusion, steps)
    depth, out = u.shape[2], torch.empty_like(u)

    def work(first: int, last: int) -> None:
        low, high = max(first - steps, 0), min(last + steps, depth)  # a step reaches one voxel far
        part = _diffused(u[:, :, low:high], diffusion, steps)
        out[:, :, first:last] = part[:, :, first - low : last - low]

    each_slab(work, depth, DEEP, u.device)
    return out


def _diffused(u: Tensor, diffusion: float, steps: int) -> Tensor:
    """`less_divergence` at once."""
    for _ in range(steps):
        out = u.clone()
        for k in range(2):
            div = _difference(u[:, 0], 3, k)
            for part in (1, 2):
                div += _difference(u[:, part], 3 - part, k)
            for part in range(3):
                change = _difference(div, 3 - part, 1 - k)
                out[:, part].add_(change, alpha=diffusion / (2 * steps))
        u = out
    return u


def _difference(u: Tensor, axis: int, behind: int) -> Tensor:
    """u[i + 1] - u[i] at i, or at i + 1 if `behind`; 0 where there is none."""
    n = u.shape[axis]
    out = torch.zeros_like(u)
    if n > 1:
        ahead, here = u.narrow(axis, 1, n - 1), u.narrow(axis, 0, n - 1)
        torch.sub(ahead, here, out=out.narrow(axis, behind, n - 1))
    return out
