"""The terms of HSyN's loss (Sha et al., MICCAI 2024, section 2.2), each a mean over voxels.

Ours: the square in the mean-shape loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsyn_cli.fields.folding import forward_differences


def smoothness(u: Tensor, spacing: float) -> Tensor:
    """Diffusion: the mean squared forward difference (strain) of u (B, 3, Z, Y, X) in mm."""
    return torch.stack([d.square().mean() for d in forward_differences(u, spacing)]).mean()


def mean_shape(u_m: Tensor, u_f: Tensor, spacing: float) -> Tensor:
    """L_smc, equation (1): mean of |u_m + u_f|^2 in voxels; pulls both halves to the mean space.

    The paper prints the mean of u_m + u_f, which has no lower bound. It means the norm (see the
    authors' code). The common part of both halves aligns nothing, but it can raise a mean
    similarity: it enlarges what fits and shrinks what does not. With a weight of 0.05, a trained
    SN-Net moved the mean space by 1.4 mm, half as far as it moved the images apart.
    """
    return ((u_m + u_f) / spacing).square().sum(1).mean()


def modulus_balance(u_m: Tensor, u_f: Tensor, spacing: float) -> Tensor:
    """L_mc of the paper's ablation: the mean of ||u_m|^2 - |u_f|^2| in voxels.

    It balances lengths, but not directions.
    """
    lengths = [(u / spacing).square().sum(1) for u in (u_m, u_f)]
    return (lengths[0] - lengths[1]).abs().mean()


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """1 - Dice of two stacks of label probabilities (B, K, Z, Y, X).

    The mean is over the labels present in either.
    """
    both = (a * b).sum((2, 3, 4))
    total = (a * a).sum((2, 3, 4)) + (b * b).sum((2, 3, 4))
    present = (total > 0).float()
    return 1 - (2 * both / total.clamp_min(1e-6) * present).sum() / present.sum().clamp_min(1)
