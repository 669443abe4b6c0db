"""Forces of local NCC and tissue on both images, and steps along them: what SyN and greedy are made of, and our networks are
shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hsyn_cli.config import Steps
from hsyn_cli.fields import box_operator, gaussian, resampled, separable, warp


@torch.no_grad()
def pull(
    pair: Tensor,
    u: Tensor,
    voxel: float,
    how: Steps,
    *,
    symmetric: bool = True,
    counts: Tensor | None = None,
    told: Callable[[], None] = lambda: None,
) -> Tensor:
    """Half-way fields after `how.steps` steps from `u`: both images are pulled towards each other by the mean of both forces.

    What the halves have in common stays, so the mean space does not move (see `losses.mean_shape`). Momentum is Polyak's heavy
    ball (USSR Computational Mathematics and Mathematical Physics 1964): what the forces overshoot cancels, the rest adds up.

    Args:
        pair: (2B, 1 + C, Z, Y, X) in [0, 1], moving images first: each with its C tissue maps, if any. voxel: its voxel in mm.
        u: (2B, 3, ...) in mm, mid to moving first, on voxels as fine or coarser.
        symmetric: False moves the moving images alone.
        counts: (2B, 1, Z, Y, X), 0 where an image does not count: no force acts there, as `u` has it.
        told: called after each step.
    """
    weight = None
    if counts is not None:
        of_moving, of_fixed = warp(counts, resampled(u, pair.shape[2:]), voxel).chunk(2)
        weight = of_moving * of_fixed
    u_m, u_f = u.chunk(2)
    half = (u_m - u_f) / 2
    middle = (u_m + u_f) / 2 if symmetric else u_f
    to_moving, to_fixed = (1.0, -1.0) if symmetric else (2.0, 0.0)
    pair = torch.cat((pair[:, :1], pair[:, 1:] * how.tissue**0.5), dim=1) if how.tissue else pair[:, :1]
    of_step = gaussian(pair, u.shape[2:], how.step_sigma)
    of_field = gaussian(u, u.shape[2:], how.field_sigma)
    step = torch.zeros_like(half)
    for _ in range(how.steps):
        both = torch.cat((middle + to_moving * half, middle + to_fixed * half))
        moving, fixed = warp(pair, resampled(both, pair.shape[2:]), voxel).chunk(2)
        forward, backward = forces(moving, fixed, how.window)
        force = forward.sub_(backward).mul_(how.rate * voxel / 2)
        if weight is not None:
            force *= weight
        step = step.mul_(how.momentum).add_(separable(force, of_step))
        half = separable(half.add_(step), of_field)
        told()
    return torch.cat((middle + to_moving * half, middle + to_fixed * half))


@torch.no_grad()
def forces(a: Tensor, b: Tensor, window: int, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Where to pull each voxel of `a`, and of `b`, from so that they become alike: (B, 3, Z, Y, X) twice, in voxels.

    The Gauss-Newton step of the squared correlation in the window around each voxel (its derivative is equation 10 of
    Avants et al., Medical Image Analysis 2008) and of the squared difference of the maps beside the images, damped as
    Thirion's demons are, which keeps it below half a voxel.

    Args:
        a, b: (B, 1 + C, Z, Y, X), intensities in about [0, 1], and C maps.
    """
    maps = [(a[:, k : k + 1], b[:, k : k + 1]) for k in range(1, a.shape[1])]
    a, b = a[:, :1], b[:, :1]
    operator = box_operator(a, window)
    ma, mb, aa, bb, ab = (separable(v, operator) for v in (a, b, a * a, b * b, a * b))
    ia = aa.addcmul_(ma, ma, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()  # 1 / standard deviation
    ib = bb.addcmul_(mb, mb, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()
    rho = ab.addcmul_(ma, mb, value=-1).mul_(ia).mul_(ib)
    za, zb = (a - ma).mul_(ia), (b - mb).mul_(ib)
    return (
        _demons(a, ia, rho * (zb - rho * za), maps),
        _demons(b, ib, rho * (za - rho * zb), [pair[::-1] for pair in maps]),
    )


def _demons(image: Tensor, scale: Tensor, residual: Tensor, maps: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Sum of residual g / (sum of |g|^2 + residual^2, + 0.1) over the image and maps, g the gradient per voxel.

    That of the image is taken times `scale`; `maps` are those of the image and of the other one, whose difference is the residual.
    """
    step = _gradient(image).mul_(scale)
    size = step.square().sum(1, keepdim=True).addcmul_(residual, residual)
    step *= residual
    for own, other in maps:
        slope, residual = _gradient(own), other - own
        size += slope.square().sum(1, keepdim=True).addcmul_(residual, residual)
        step.addcmul_(slope, residual)
    return step.div_(size.add_(0.1))


def _gradient(image: Tensor) -> Tensor:
    """Central differences per voxel along x, y, z, 0 at the border: (B, 1, Z, Y, X) -> (B, 3, Z, Y, X)."""
    out = torch.zeros(image.shape[0], 3, *image.shape[2:], device=image.device)
    for k, axis in enumerate((4, 3, 2)):
        n = image.shape[axis]
        if n < 3:
            continue
        d = out[:, k : k + 1].narrow(axis, 1, n - 2)
        torch.sub(image.narrow(axis, 2, n - 2), image.narrow(axis, 0, n - 2), out=d)
    return out.mul_(0.5)
