"""Forces of local NCC on both images, and steps along them: what SyN and greedy are made of, and our networks are shown."""

from __future__ import annotations

from collections.abc import Callable

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
    weight: Tensor | None = None,
    told: Callable[[], None] = lambda: None,
) -> Tensor:
    """Half-way fields after `how.steps` steps from `u`: both images are pulled towards each other by the mean of both forces.

    What the halves have in common stays, so the mean space does not move (see `losses.mean_shape`).

    Args:
        pair: (2B, 1, Z, Y, X) in [0, 1], moving images first. voxel: its voxel in mm.
        u: (2B, 3, ...) in mm, mid to moving first, on voxels as fine or coarser.
        symmetric: False moves the moving images alone. weight: (B, 1, Z, Y, X), of the forces.
        told: called after each step.
    """
    u_m, u_f = u.chunk(2)
    half = (u_m - u_f) / 2
    middle = (u_m + u_f) / 2 if symmetric else u_f
    to_moving, to_fixed = (1.0, -1.0) if symmetric else (2.0, 0.0)
    of_step = gaussian(pair, u.shape[2:], how.step_sigma)
    of_field = gaussian(u, u.shape[2:], how.field_sigma)
    for _ in range(how.steps):
        both = torch.cat((middle + to_moving * half, middle + to_fixed * half))
        moving, fixed = warp(pair, resampled(both, pair.shape[2:]), voxel).chunk(2)
        forward, backward = ncc_forces(moving, fixed, how.window)
        step = forward.sub_(backward).mul_(how.rate * voxel / 2)
        if weight is not None:
            step *= weight
        half = separable(half.add_(separable(step, of_step)), of_field)
        told()
    return torch.cat((middle + to_moving * half, middle + to_fixed * half))


@torch.no_grad()
def ncc_forces(a: Tensor, b: Tensor, window: int, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Where to pull each voxel of `a`, and of `b`, from for a better local NCC: (B, 3, Z, Y, X) twice, in voxels.

    The Gauss-Newton step of the squared correlation in the window around each voxel (its derivative is equation 10 of
    Avants et al., Medical Image Analysis 2008), damped as Thirion's demons are, which keeps it below half a voxel.

    Args:
        a, b: (B, 1, Z, Y, X), intensities in about [0, 1].
    """
    operator = box_operator(a, window)
    ma, mb, aa, bb, ab = (separable(v, operator) for v in (a, b, a * a, b * b, a * b))
    ia = aa.addcmul_(ma, ma, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()  # 1 / standard deviation
    ib = bb.addcmul_(mb, mb, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()
    rho = ab.addcmul_(ma, mb, value=-1).mul_(ia).mul_(ib)
    za, zb = (a - ma).mul_(ia), (b - mb).mul_(ib)
    return _demons(a, ia, rho * (zb - rho * za)), _demons(b, ib, rho * (za - rho * zb))


def _demons(image: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
    """residual g / (|g|^2 + residual^2 + 0.1), g the gradient of the image per voxel times `scale`."""
    out = torch.zeros(image.shape[0], 3, *image.shape[2:], device=image.device)
    for k, axis in enumerate((4, 3, 2)):
        n = image.shape[axis]
        if n < 3:
            continue
        d = out[:, k : k + 1].narrow(axis, 1, n - 2)
        torch.sub(image.narrow(axis, 2, n - 2), image.narrow(axis, 0, n - 2), out=d)
    out *= 0.5 * scale
    return out.mul_(residual / (out.square().sum(1, keepdim=True) + residual.square() + 0.1))
