"""Squared local normalised cross-correlation, the paper's similarity. Its force is SyN's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hsyn_cli.fields.smoothing import box_operator, separable
from hsyn_cli.method.similarity import EPSILON, Similarity, Term


class NCC(Similarity):
    """NCC in the window around each voxel, in [0, 1]; 1 is best, and flat background scores 0."""

    label = "local NCC"

    def value(
        self,
        a: Tensor,
        b: Tensor,
        window: int,
        weight: Tensor | None = None,
        epsilon: float = EPSILON,
    ) -> Tensor:
        ma, mb, aa, bb, ab = _moments(a, b, window)
        cross = ab - ma * mb
        var_a = (aa - ma * ma).clamp_min(0) + epsilon
        var_b = (bb - mb * mb).clamp_min(0) + epsilon
        cc = cross * cross / var_a / var_b
        return cc.mean() if weight is None else (cc * weight).sum() / weight.sum().clamp_min(1)

    def terms(
        self, a: Tensor, b: Tensor, window: int, epsilon: float
    ) -> Iterator[tuple[Term, Term]]:
        """The derivative is equation 10 of Avants et al., Medical Image Analysis 2008."""
        ma, mb, aa, bb, ab = _moments(a, b, window)
        ia = aa.addcmul_(ma, ma, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()  # 1 / deviation
        ib = bb.addcmul_(mb, mb, value=-1).clamp_min_(0).add_(epsilon).rsqrt_()
        rho = ab.addcmul_(ma, mb, value=-1).mul_(ia).mul_(ib)
        za, zb = (a - ma).mul_(ia), (b - mb).mul_(ib)
        yield Term(a, ia, rho * (zb - rho * za)), Term(b, ib, rho * (za - rho * zb))


SIMILARITY = NCC()


def _moments(a: Tensor, b: Tensor, window: int) -> tuple[Tensor, ...]:
    """Means of a, b, a^2, b^2 and ab over the window around each voxel."""
    operator = box_operator(a, window)
    return tuple(separable(v, operator) for v in (a, b, a * a, b * b, a * b))
