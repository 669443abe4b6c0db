"""Refinement: a few Adam steps on one pair's own half-way fields, from SN-Net's answer, with SN-Net's loss.

The fields are u + G p, where p lives on the field grid and G is a Gaussian, so every update is smooth; images
are warped at their own resolution by the field seen there through another Gaussian (`UPSAMPLING_SIGMA`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hsyn_cli.config import RefineStage
from hsyn_cli.fields import box_matrix, det3, forward_differences, gaussian, resize, separable, warp
from hsyn_cli.losses import mean_shape, smoothness

UPSAMPLING_SIGMA = 0.7  # field voxels; what turns half-size fields into full ones, here and at the end
START_SIGMA = 2.0  # field voxels; SN-Net's finest detail, found without seeing the pair's own optimum, hinders the descent
NCC_STRIDE = 2  # every second window per axis is looked at: an eighth of the work, for the same answer


def local_ncc(
    a: Tensor, b: Tensor, window: int, stride: int, weight: Tensor | None = None, epsilon: float = 1e-4
) -> Tensor:
    """`losses.ncc` looked at on every stride-th window only; a, b: (1, 1, Z, Y, X); weight: one per window looked at."""
    z, y, x = (box_matrix(n, window, stride, a.device) for n in a.shape[2:])
    ma, mb, aa, bb, ab = (separable(v[0, 0], (z, y, x)) for v in (a, b, a * a, b * b, a * b))
    cross = ab - ma * mb
    cc = cross * cross / ((aa - ma * ma).clamp_min(0) + epsilon) / ((bb - mb * mb).clamp_min(0) + epsilon)
    return cc.mean() if weight is None else (cc * weight).sum() / weight.sum().clamp_min(1)


class _Warp(torch.autograd.Function):
    """See `fast_warp`."""

    @staticmethod
    def forward(ctx, image: Tensor, u: Tensor, spacing: float) -> Tensor:  # type: ignore[no-untyped-def]
        out = warp(image, u, spacing)
        ctx.save_for_backward(out)
        ctx.spacing = spacing
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (out,) = ctx.saved_tensors
        g = torch.empty(out.shape[0], 3, *out.shape[2:], device=out.device)
        for k, axis in enumerate((4, 3, 2)):
            n = out.shape[axis]
            d = g[:, k : k + 1]
            torch.sub(out.narrow(axis, 2, n - 2), out.narrow(axis, 0, n - 2), out=d.narrow(axis, 1, n - 2))
            d.narrow(axis, 0, 1).zero_()
            d.narrow(axis, n - 1, 1).zero_()
        g.mul_(grad * (0.5 / ctx.spacing))
        return None, g, None


def fast_warp(image: Tensor, u: Tensor, spacing: float) -> Tensor:
    """`fields.warp` for gradients by u alone: they are those of the *warped* image (as SyN takes them), by central
    differences, which costs a third of the exact ones and in practice descends as well."""
    out: Tensor = _Warp.apply(image, u, spacing)  # type: ignore[no-untyped-call]
    return out


def fold_penalty(u: Tensor, spacing: float, least: float = 0.3) -> Tensor:
    """Mean squared shortfall of the forward-difference determinant below `least`."""
    dx, dy, dz = forward_differences(u, spacing)
    det = det3(dx[:, :, :-1, :-1], dy[:, :, :-1, :, :-1], dz[..., :-1, :-1])
    back = det3(dx[:, :, 1:, 1:], dy[:, :, 1:, :, 1:], dz[..., 1:, 1:])
    return (least - det).clamp_min(0).square().mean() + (least - back).clamp_min(0).square().mean()


def refine(
    u: Tensor,
    pair: Tensor,
    spacing: float,
    stages: Sequence[RefineStage],
    masks: Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Refined half-way fields, same shape as `u`.

    Args:
        u: (2, 3, Z/s, Y/s, X/s) half-way fields in mm, mid to moving first.
        pair: (2, 1, Z, Y, X) moving and fixed on the working grid, in [0, 1].
        spacing: working voxel in mm.
        masks: (2, 1, Z, Y, X), 1 where moving and fixed count; windows weigh as much as both masks do there.
        progress: called with the share of the steps that is done.
    """
    voxel = spacing * pair.shape[-1] / u.shape[-1]
    total, done = sum(stage.steps for stage in stages), 0
    if total:
        u = separable(u, gaussian(u, u.shape[2:], START_SIGMA))
    for stage in stages:
        size, image_voxel = torch.Size(round(n / stage.scale) for n in pair.shape[2:]), spacing * stage.scale
        images = at_scale(pair, size)
        base = separable(u, gaussian(u, size, UPSAMPLING_SIGMA))
        weight = None if masks is None else _window_weights(at_scale(masks, size), base, image_voxel)
        coarse = u if image_voxel <= voxel else resize(u, size)  # updates live no finer than the images
        sigma = stage.sigma * min(1.0, voxel / image_voxel)
        seen = gaussian(coarse, size, math.hypot(sigma, UPSAMPLING_SIGMA))
        smooth = gaussian(coarse, coarse.shape[2:], sigma)
        p = torch.zeros_like(coarse, requires_grad=True)
        adam = torch.optim.Adam([p], lr=stage.rate, betas=(0.9, 0.99))
        for _ in range(stage.steps):
            moving, fixed = fast_warp(images, base + separable(p, seen), image_voxel).chunk(2)
            loss = -local_ncc(moving, fixed, stage.window, NCC_STRIDE, weight)
            loss = loss + field_terms(coarse + separable(p, smooth), max(voxel, image_voxel), stage)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            done += 1
            progress(done / total)
        with torch.no_grad():
            u = u + separable(p, gaussian(coarse, u.shape[2:], sigma))
    return u


def at_scale(images: Tensor, size: torch.Size) -> Tensor:
    """Images smoothed to the voxel size of `size` (Z, Y, X) voxels of the same extent, and seen there."""
    scale = images.shape[-1] / size[-1]
    return images if scale == 1 else separable(images, gaussian(images, size, 0.4 * scale))


def field_terms(u: Tensor, voxel: float, stage: RefineStage) -> Tensor:
    """Everything in the loss that does not look at the images; u (2, 3, ...) in mm on voxels of `voxel` mm."""
    u_m, u_f = u.chunk(2)
    smooth = smoothness(u_m, voxel) + smoothness(u_f, voxel)
    return (
        stage.smooth * smooth
        + stage.mean_shape * mean_shape(u_m, u_f, voxel)
        + stage.fold * fold_penalty(u, voxel)
    )


def _window_weights(masks: Tensor, u: Tensor, spacing: float) -> Tensor:
    moving, fixed = warp(masks, u, spacing).chunk(2)
    return (moving * fixed)[0, 0, ::NCC_STRIDE, ::NCC_STRIDE, ::NCC_STRIDE]
