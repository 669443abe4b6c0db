"""Similarities: how alike two images are, and the force that makes them more alike.

Each file of this folder is one similarity, named as a config's `similarity` names it. It defines
`SIMILARITY`, an object of a subclass of `Similarity`. The loss, the forces and the report use it.
The paper's similarity is `ncc`. The forces are ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from hsyn_cli import plugins
from hsyn_cli.errors import UsageError

EPSILON = 1e-4  # added to local variances, for images in about [0, 1]


@dataclass(frozen=True)
class Term:
    """A part of a force: residual * gain * gradient of `image`, damped by the size of both factors.

    Attributes:
        image: (B, 1, Z, Y, X).
        gain: factor of its gradient, same shape; None is 1.
        residual: the growth of gain * image that makes it more like the other image; same shape.
    """

    image: Tensor
    gain: Tensor | None
    residual: Tensor


class Similarity(ABC):
    """A similarity and its force, from the same moments.

    Attributes:
        label: its name in the report.
        same_contrast: whether both images must show a tissue in the same, or just the inverse, way.
        smoothness: of the steps along its force, beside those along `ncc`'s.
    """

    label = ""
    same_contrast = True
    smoothness = 1.0

    @abstractmethod
    def value(self, a: Tensor, b: Tensor, window: int, weight: Tensor | None = None) -> Tensor:
        """The mean similarity over voxels, a scalar; larger is more alike.

        Args:
            a, b: (B, 1, Z, Y, X) in about [0, 1]. window: width in voxels.
            weight: of each voxel, same shape.
        """

    @abstractmethod
    def terms(
        self, a: Tensor, b: Tensor, window: int, epsilon: float
    ) -> Iterable[tuple[Term, Term]]:
        """The Gauss-Newton terms that make `a`, and `b`, more like the other image, in pairs.

        Shapes as in `value`. `epsilon` is added to local variances.
        """

    def reach(self, window: int) -> int:
        """The voxels on each side that the terms at a voxel depend on."""
        return window // 2


def names() -> list[str]:
    """The names of all similarities. Imports none of them."""
    return plugins.names(__name__)


def find(name: str) -> Similarity:
    """The similarity called `name`. Raises TypeError if unknown, as for a config's other keys."""
    try:
        similarity: Similarity = plugins.load(__name__, name).SIMILARITY
    except KeyError:
        raise TypeError(f"similarity is {name!r}, not one of {', '.join(names())}") from None
    return similarity


def check(name: str) -> None:
    """Raise UsageError unless a similarity is called `name`."""
    if name not in names():
        raise UsageError(f"unknown similarity {name!r}", f"choose one of {', '.join(names())}")
