"""Forces on both images, and steps along them, as in SyN and greedy. Ours, not in the paper.

SN-Net's levels start with such steps and take the force that remains as an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hsyn_cli.config.architecture import InputConfig, SNNetConfig, Steps
from hsyn_cli.fields.sampling import warp
from hsyn_cli.fields.smoothing import gaussian, resize_smooth, separable
from hsyn_cli.method import similarity
from hsyn_cli.method.similarity import Term

MAPS = "ssd"  # similarity of the maps beside the images
PLAIN = SNNetConfig()


@torch.no_grad()
def pull(
    pair: Tensor,
    u: Tensor,
    voxel: float,
    steps: Steps,
    *,
    config: SNNetConfig = PLAIN,
    counts: Tensor | None = None,
    step_done: Callable[[], None] = lambda: None,
) -> Tensor:
    """Half-way fields after `steps` from `u`: the mean of both forces pulls both images together.

    The common part of both halves stays, so the mean space does not move (see `losses.mean_shape`).
    Momentum is Polyak's heavy ball (USSR Computational Mathematics and Mathematical Physics 1964).
    Overshoot of the forces cancels, and the rest adds up.

    Args:
        pair: (2B, 1 + C, Z, Y, X) in [0, 1], moving images first, each with its C maps. voxel: its
            voxel in mm.
        u: (2B, 3, ...) in mm, mid to moving first, on voxels as fine as the pair's or coarser.
        config: its `symmetric` (False moves the moving images alone), `similarity` and `inputs`.
        counts: (2B, 1, Z, Y, X), 0 where an image does not count. Warped by `u`, it stops the
            force there.
        step_done: called after each step.
    """
    weight = None
    if counts is not None:
        of_moving, of_fixed = warp(counts, resize_smooth(u, pair.shape[2:]), voxel).chunk(2)
        weight = of_moving * of_fixed
    u_m, u_f = u.chunk(2)
    half = (u_m - u_f) / 2
    middle = (u_m + u_f) / 2 if config.symmetric else u_f
    to_moving, to_fixed = (1.0, -1.0) if config.symmetric else (2.0, 0.0)
    images = pair[:, :1]
    pair = torch.cat((images, pair[:, 1:] * steps.tissue**0.5), 1) if steps.tissue else images
    of_step = gaussian(pair, u.shape[2:], steps.step_sigma)
    of_field = gaussian(u, u.shape[2:], steps.field_sigma)
    step = torch.zeros_like(half)
    for _ in range(steps.steps):
        both = torch.cat((middle + to_moving * half, middle + to_fixed * half))
        moving, fixed = warp(pair, resize_smooth(both, pair.shape[2:]), voxel).chunk(2)
        forward, backward = forces(moving, fixed, steps.window, config.similarity, config.inputs)
        force = forward.sub_(backward).mul_(steps.rate * voxel / 2)
        if weight is not None:
            force *= weight
        step = step.mul_(steps.momentum).add_(separable(force, of_step))
        half = separable(half.add_(step), of_field)
        step_done()
    return torch.cat((middle + to_moving * half, middle + to_fixed * half))


@torch.no_grad()
def forces(
    a: Tensor, b: Tensor, window: int, name: str = "ncc", inputs: InputConfig = PLAIN.inputs
) -> tuple[Tensor, Tensor]:
    """The displacements at which to sample `a`, and `b`, so that they become more alike.

    They are Gauss-Newton steps of the similarity in the window around each voxel, and of the
    squared difference of the maps beside the images, damped as in Thirion's demons.

    Args:
        a, b: (B, 1 + C, Z, Y, X), intensities in about [0, 1], and C maps.
        name: of the similarity.

    Returns:
        (B, 3, Z, Y, X) twice, in voxels.
    """
    image, channels = similarity.find(name), range(1, a.shape[1])
    of_a, of_b = image.terms(a[:, :1], b[:, :1], window, inputs.epsilon)
    maps = [(a[:, k : k + 1], b[:, k : k + 1]) for k in channels]
    return (
        _damped(of_a, maps, inputs.damping),
        _damped(of_b, [(own, other) for other, own in maps], inputs.damping),
    )


def _damped(first: Term, maps: list[tuple[Tensor, Tensor]], damping: float) -> Tensor:
    """Sum of residual g over all terms / (sum of |g|^2 + residual^2, + damping); g is the slope.

    `maps`: (own, other) for each map. Their terms come one after another to save memory.
    """
    step = _slope(first)
    size = step.square().sum(1, keepdim=True).addcmul_(first.residual, first.residual)
    step *= first.residual
    for term in _terms_of(maps):
        slope = _slope(term)
        size += slope.square().sum(1, keepdim=True).addcmul_(term.residual, term.residual)
        step.addcmul_(slope, term.residual)
    return step.div_(size.add_(damping))


def _terms_of(maps: list[tuple[Tensor, Tensor]]) -> Iterator[Term]:
    difference = similarity.find(MAPS)
    for own, other in maps:
        yield difference.terms(own, other, 1, 0.0)[0]


def _slope(term: Term) -> Tensor:
    """Gain times gradient per voxel along x, y, z, (B, 3, Z, Y, X).

    Central differences, 0 at the border.
    """
    image = term.image
    out = torch.zeros(image.shape[0], 3, *image.shape[2:], device=image.device)
    for k, axis in enumerate((4, 3, 2)):
        n = image.shape[axis]
        if n < 3:
            continue
        d = out[:, k : k + 1].narrow(axis, 1, n - 2)
        torch.sub(image.narrow(axis, 2, n - 2), image.narrow(axis, 0, n - 2), out=d)
    out.mul_(0.5)
    return out if term.gain is None else out.mul_(term.gain)
