"""Forces on both images, as in SyN and greedy. Ours, not in the paper.

Steps follow them (see `steps`), and SN-Net takes the force that remains as an input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsyn_cli.config.architecture import InputConfig
from hsyn_cli.method import similarity
from hsyn_cli.method.similarity import Term

MAPS = "ssd"  # similarity of the maps beside the images
PLAIN = InputConfig()


@torch.no_grad()
def forces(
    a: Tensor,
    b: Tensor,
    window: int,
    name: str = "ncc",
    inputs: InputConfig = PLAIN,
    channels: Sequence[float | Tensor] = (1.0,),
) -> tuple[Tensor, Tensor]:
    """The displacements at which to sample `a`, and `b`, so that they become more alike.

    They are Gauss-Newton steps of the similarity in the window around each voxel, and of the
    squared difference of the maps beside the images, damped as in Thirion's demons.

    Args:
        a, b: (B, N + C, Z, Y, X), intensities of N channels in about [0, 1], and C maps.
        name: of the similarity. channels: N weights of the channels, with the sum 1, or a weight
            for each voxel, (B, 1, Z, Y, X).

    Returns:
        (B, 3, Z, Y, X) twice, in voxels.
    """
    image, maps = similarity.find(name), similarity.find(MAPS)
    weights = (*channels, *(1.0,) * (a.shape[1] - len(channels)))
    step_a, step_b = _Damped(a), _Damped(b)
    for k, (weight, one, other) in enumerate(
        zip(weights, a.split(1, 1), b.split(1, 1), strict=True)
    ):
        if isinstance(weight, float) and weight == 0:
            continue
        if k < len(channels):
            terms = image.terms(one, other, window, inputs.epsilon)
        else:
            terms = maps.terms(one, other, 1, 0.0)
        for of_a, of_b in terms:
            step_a.add(of_a, weight)
            step_b.add(of_b, weight)
    return step_a.step(inputs.damping), step_b.step(inputs.damping)


class _Damped:
    """Sum of residual g over all terms / (sum of |g|^2 + residual^2, + damping); g is the slope.

    Both sums are weighted. The terms of a similarity come one after another to save memory.
    """

    def __init__(self, images: Tensor) -> None:
        self.pull = images.new_zeros(len(images), 3, *images.shape[2:])
        self.size = torch.zeros_like(images[:, :1])

    def add(self, term: Term, weight: float | Tensor) -> None:
        slope, residual = _slope(term), term.residual
        size = slope.square().sum(1, keepdim=True).addcmul_(residual, residual)
        if isinstance(weight, Tensor):
            size, residual, weight = size * weight, residual * weight, 1.0
        self.size.add_(size, alpha=weight)
        self.pull.addcmul_(slope, residual, value=weight)

    def step(self, damping: float) -> Tensor:
        return self.pull.div_(self.size.add_(damping))


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
