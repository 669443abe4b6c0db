"""Forces on both images, as in SyN and greedy. Ours, not in the paper.

Steps follow them (see `steps`), and SN-Net takes the force that remains as an input.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hsyn_cli.config.architecture import InputConfig
from hsyn_cli.method import similarity
from hsyn_cli.method.similarity import Term

MAPS = "ssd"  # similarity of the maps beside the images
PLAIN = InputConfig()


@torch.no_grad()
def forces(
    a: Tensor, b: Tensor, window: int, name: str = "ncc", inputs: InputConfig = PLAIN
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
    image, maps = similarity.find(name), similarity.find(MAPS)
    terms = [image.terms(a[:, :1], b[:, :1], window, inputs.epsilon)]
    terms += [maps.terms(a[:, k : k + 1], b[:, k : k + 1], 1, 0.0) for k in range(1, a.shape[1])]
    step_a, step_b = _Damped(a), _Damped(b)
    for of_a, of_b in itertools.chain(*terms):
        step_a.add(of_a)
        step_b.add(of_b)
    return step_a.step(inputs.damping), step_b.step(inputs.damping)


class _Damped:
    """Sum of residual g over all terms / (sum of |g|^2 + residual^2, + damping); g is the slope.

    The terms of a similarity come one after another to save memory.
    """

    def __init__(self, images: Tensor) -> None:
        self.pull = images.new_zeros(len(images), 3, *images.shape[2:])
        self.size = torch.zeros_like(images[:, :1])

    def add(self, term: Term) -> None:
        slope = _slope(term)
        self.size += slope.square().sum(1, keepdim=True).addcmul_(term.residual, term.residual)
        self.pull.addcmul_(slope, term.residual)

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
