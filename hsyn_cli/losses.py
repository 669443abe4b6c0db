"""The terms of HSyN's loss (Sha et al., MICCAI 2024, section 2.2), each a mean over voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from hsyn_cli.fields import box_operator, forward_differences, separable


def ncc(a: Tensor, b: Tensor, window: int, weight: Tensor | None = None, epsilon: float = 1e-4) -> Tensor:
    """Squared local normalised cross-correlation, mean over voxels, in [0, 1]; 1 is best. a, b: (B, 1, Z, Y, X).

    `epsilon` is added to each local variance, so images are expected in about [0, 1] and flat background
    scores 0. `weight`: of each voxel's window, same shape.
    """
    operator = box_operator(a, window)
    ma, mb, aa, bb, ab = (separable(v, operator) for v in (a, b, a * a, b * b, a * b))
    cross = ab - ma * mb
    cc = cross * cross / ((aa - ma * ma).clamp_min(0) + epsilon) / ((bb - mb * mb).clamp_min(0) + epsilon)
    return cc.mean() if weight is None else (cc * weight).sum() / weight.sum().clamp_min(1)


def smoothness(u: Tensor, spacing: float) -> Tensor:
    """Diffusion: mean squared forward difference, i.e. mean squared strain; u (B, 3, Z, Y, X) in mm."""
    return torch.stack([d.square().mean() for d in forward_differences(u, spacing)]).mean()


def mean_shape(u_m: Tensor, u_f: Tensor, spacing: float) -> Tensor:
    """L_smc, equation (1): mean of |u_m + u_f|^2 in voxels, which pulls the two halves to the pair's mean space.

    The paper prints the mean of u_m + u_f, which is unbounded below; the norm is meant (see the authors' code). What both
    halves have in common aligns nothing, but can raise a mean similarity: it makes room for what fits and shrinks what does
    not. With a weight of 0.05 a trained SN-Net moved the mean space by 1.4 mm so, half as far as it moved the images apart.
    """
    return ((u_m + u_f) / spacing).square().sum(1).mean()


def modulus_balance(u_m: Tensor, u_f: Tensor, spacing: float) -> Tensor:
    """L_mc of the paper's ablation: mean of ||u_m|^2 - |u_f|^2| in voxels, which balances lengths but not directions."""
    lengths = [(u / spacing).square().sum(1) for u in (u_m, u_f)]
    return (lengths[0] - lengths[1]).abs().mean()


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """1 - Dice of two (B, K, Z, Y, X) stacks of label probabilities, mean over labels present in either."""
    both = (a * b).sum((2, 3, 4))
    total = (a * a).sum((2, 3, 4)) + (b * b).sum((2, 3, 4))
    present = (total > 0).float()
    return 1 - (2 * both / total.clamp_min(1e-6) * present).sum() / present.sum().clamp_min(1)
