"""MIND-SSC: descriptors of local structure that hardly depend on the contrast of an image.

Heinrich et al., MICCAI 2013: the self-similarity context of a voxel is the similarity of pairs of
small patches around it. Images of two modalities have similar contexts where their anatomy agrees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from hsyn_cli.fields.smoothing import box_operator, separable
from hsyn_cli.method.similarity import Similarity, Term

PATCH = 3  # voxels, the width of the patches
OFFSETS = tuple(o for o in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, o)) == 1)
NOISE = 1e-6  # least patch distance, for images in about [0, 1]
BOUND = 1e3  # the local noise lies within this factor of the mean noise of an image


class MIND(Similarity):
    """The negative mean squared difference of both images' descriptors, in [-1, 0]."""

    label = "MIND-SSC"
    same_contrast = False
    smoothness = 1.5

    def value(self, a: Tensor, b: Tensor, window: int, weight: Tensor | None = None) -> Tensor:
        off = -(descriptors(a) - descriptors(b)).square().mean(1, keepdim=True)
        return off.mean() if weight is None else (off * weight).sum() / weight.sum().clamp_min(1)

    def terms(
        self, a: Tensor, b: Tensor, window: int, epsilon: float
    ) -> Iterator[tuple[Term, Term]]:
        of_a, of_b = descriptors(a), descriptors(b)
        for own, other in zip(of_a.split(1, 1), of_b.split(1, 1), strict=True):
            yield Term(own, None, other - own), Term(other, None, own - other)

    def reach(self, window: int) -> int:
        return 1 + PATCH // 2


SIMILARITY = MIND()


def descriptors(image: Tensor) -> Tensor:
    """(B, 1, Z, Y, X) -> (B, 12, Z, Y, X) in (0, 1]; the most similar pair of patches has 1.

    A slice has 4 descriptors.
    """
    box = box_operator(image, PATCH)
    beside = pairs(tuple(n > 1 for n in image.shape[2:]))
    distances = torch.cat(
        [separable((_moved(image, i) - _moved(image, j)).square_(), box) for i, j in beside], dim=1
    )
    distances -= distances.amin(1, keepdim=True)
    noise = distances.mean(1, keepdim=True)
    usual = noise.mean().clamp_min(NOISE)
    noise = noise.clamp(usual / BOUND, usual * BOUND)
    return distances.div_(noise).neg_().exp_()


@functools.cache
def pairs(wide: tuple[bool, ...]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Neighbours of a voxel along the axes that are `wide`, the square root of 2 apart."""
    beside = [o for o in OFFSETS if all(w or not step for step, w in zip(o, wide, strict=True))]
    return tuple(
        (i, j)
        for i, j in itertools.combinations(beside, 2)
        if sum((u - v) ** 2 for u, v in zip(i, j, strict=True)) == 2
    )


def _moved(image: Tensor, offset: tuple[int, ...]) -> Tensor:
    """`image` as seen from a neighbour: out(p) = image(p + offset); the border is repeated."""
    for axis, step in enumerate(offset, start=2):
        if step:
            n = image.shape[axis]
            first, last = image.narrow(axis, 0, 1), image.narrow(axis, n - 1, 1)
            parts = (
                (image.narrow(axis, 1, n - 1), last)
                if step > 0
                else (first, image.narrow(axis, 0, n - 1))
            )
            image = torch.cat(parts, dim=axis)
    return image
