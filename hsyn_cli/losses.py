"""The terms of HSyN's loss (Sha et al., MICCAI 2024, section 2.2), each a mean over voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hsyn_cli.fields import box_matrix, forward_differences, separable


def _box_mean(x: Tensor, window: int) -> Tensor:
    """Mean over window^3 neighbourhoods, one axis after the other; over fewer voxels at the border."""
    p = window // 2
    for kernel, pad in (
        ((1, 1, window), (0, 0, p)),
        ((1, window, 1), (0, p, 0)),
        ((window, 1, 1), (p, 0, 0)),
    ):
        x = F.avg_pool3d(x, kernel, stride=1, padding=pad, count_include_pad=False)
    return x


def ncc(a: Tensor, b: Tensor, window: int, epsilon: float = 1e-4) -> Tensor:
    """Squared local normalised cross-correlation, mean over voxels, in [0, 1]; 1 is best. a, b: (B, 1, Z, Y, X).

    `epsilon` is added to each local variance, so images are expected in about [0, 1] and flat background
    scores 0.
    """
    mean = _box_mean(torch.cat((a, b, a * a, b * b, a * b), dim=1), window)
    ma, mb, aa, bb, ab = mean.unbind(1)
    cross = ab - ma * mb
    return (
        cross * cross / ((aa - ma * ma).clamp_min(0) + epsilon) / ((bb - mb * mb).clamp_min(0) + epsilon)
    ).mean()


def smoothness(u: Tensor, spacing: float) -> Tensor:
    """Diffusion: mean squared forward difference, i.e. mean squared strain; u (B, 3, Z, Y, X) in mm."""
    return torch.stack([d.square().mean() for d in forward_differences(u, spacing)]).mean()


def mean_shape(u_m: Tensor, u_f: Tensor, spacing: float) -> Tensor:
    """L_smc, equation (1): mean of |u_m + u_f|^2 in voxels, which pulls the two halves to the pair's mean space.

    The paper prints the mean of u_m + u_f, which is unbounded below; the norm is meant (see the authors' code).
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


@torch.no_grad()
def ncc_force(a: Tensor, b: Tensor, window: int, epsilon: float = 1e-4) -> Tensor:
    """Where each voxel of `a` should be pulled from for a better local NCC: (B, 3, Z, Y, X) in voxels, at most half of one.

    The Gauss-Newton step of the NCC of one window (Avants et al., Medical Image Analysis 2008, equation 10, without its
    sum over windows), damped as Thirion's demons are. a, b: (B, 1, Z, Y, X).
    """
    stacked = torch.cat((a, b, a * a, b * b, a * b), dim=1)
    operator = tuple(box_matrix(n, window, 1, a.device) for n in a.shape[2:])
    ma, mb, aa, bb, ab = separable(stacked, operator).split(1, dim=1)
    va, vb = (aa - ma * ma).clamp_min(0) + epsilon, (bb - mb * mb).clamp_min(0) + epsilon
    rho = (ab - ma * mb) * (va * vb).rsqrt()
    deviation = va.rsqrt()
    residual = rho * ((b - mb) * vb.rsqrt() - rho * (a - ma) * deviation)
    slope = torch.zeros(a.shape[0], 3, *a.shape[2:], device=a.device)
    for k, axis in enumerate((4, 3, 2)):
        n = a.shape[axis]
        d = a.narrow(axis, 2, n - 2) - a.narrow(axis, 0, n - 2)
        slope[:, k : k + 1].narrow(axis, 1, n - 2).copy_(d)
    slope *= 0.5 * deviation
    return residual * slope / (slope.square().sum(1, keepdim=True) + residual.square() + 0.1)
