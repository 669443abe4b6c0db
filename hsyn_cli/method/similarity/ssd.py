"""Squared difference (ours), for maps whose values mean the same in both images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hsyn_cli.method.similarity import Similarity, Term


class SSD(Similarity):
    """The negative mean squared difference; 0 is best. The window does not matter."""

    label = "negative mean squared difference"

    def value(self, a: Tensor, b: Tensor, window: int, weight: Tensor | None = None) -> Tensor:
        off = -(a - b).square()
        return off.mean() if weight is None else (off * weight).sum() / weight.sum().clamp_min(1)

    def terms(
        self, a: Tensor, b: Tensor, window: int, epsilon: float
    ) -> Iterator[tuple[Term, Term]]:
        yield Term(a, None, b - a), Term(b, None, a - b)


SIMILARITY = SSD()
