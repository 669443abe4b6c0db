"""What two images can tell: where, how finely, and where the one stands in. Ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hsyn_cli.fields.sampling import warp

WHOLE = 0.999  # of a voxel
PLANES = 16  # at a time, to save memory
FLAT = 0.15  # of the voxels inside; their contrast is noise
MANY = 200_000  # voxels that tell a quantile
COUNTS = 0.4  # the weight of a voxel; many have 0.5 but for rounding
INSIDE = 0.1  # of the range; darker voxels do not count for the median contrast


@dataclass(frozen=True)
class Where:
    """On the grid of a pair (2B, 1, Z, Y, X), moving first, and warped as the images are.

    Attributes:
        counts: 0 where an image does not count; no force acts there. (2B, N, ...): after the first,
            of each further channel alone. None: all counts.
        shows: 0 where an image does not show what the other one may have there: beyond its border,
            in its lesion. The other one, as warped so far, stands in, so both have one contrast.
            None: each shows all, or they differ in contrast.
        blur: SD in mm along z, y, x of what a thick slice shows as one; fields are smoothed by it.
        doubt: times the contrast of noise at which a field is half as free, beside `Steps.calm`.
    """

    counts: Tensor | None = None
    shows: Tensor | None = None
    blur: tuple[float, float, float] = (0.0, 0.0, 0.0)
    doubt: float = 0.0

    def changed(self, change: Callable[[Tensor], Tensor]) -> Where:
        """The same on another grid."""
        counts, shows = (None if v is None else change(v) for v in (self.counts, self.shows))
        return replace(self, counts=counts, shows=shows)

    def weight(self, u: Tensor, voxel: float) -> Tensor | None:
        """How much both images count in the mean space of `u`, (B, 1 or N, Z, Y, X)."""
        if self.counts is None:
            return None
        of_moving, of_fixed = warp(self.counts, u, voxel).chunk(2)
        return of_moving * of_fixed

    def lacks(self, u: Tensor, voxel: float) -> Tensor | None:
        """Where `shows` is not 1 in the mean space of `u`, of bool; a part of a voxel suffices."""
        return None if self.shows is None else warp(self.shows, u, voxel) < WHOLE


def stand_in(seen: Tensor, lacks: Tensor | None) -> Tensor:
    """Complete warped images (2B, C, Z, Y, X) of one contrast, each by the other, in place.

    Windows at a cut or a lesion then see the same in both images, not a false edge.
    """
    if lacks is not None:
        for part, gaps in zip(seen.split(PLANES, 2), lacks.split(PLANES, 2), strict=True):
            moving, fixed = part.chunk(2)
            of_moving, of_fixed = gaps.to(part.dtype).chunk(2)
            apart = fixed - moving
            moving.addcmul_(of_moving, apart)
            fixed.addcmul_(of_fixed, apart, value=-1)
    return seen


def usual_contrast(
    contrast: Tensor, seen: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The contrast of noise and the median above it, inside each pair's images.

    The `FLAT` share of the voxels with the least contrast is taken to show nothing but noise. Both
    are (B, 1, 1, 1, 1).

    Args:
        contrast: (B, 1, Z, Y, X), local variances. seen: (2B, 1, Z, Y, X) in [0, 1], moving first.
        weight: (B, 1 or N, Z, Y, X), see `Where.weight`; voxels of COUNTS and less tell nothing.
    """
    moving, fixed = seen.chunk(2)
    inside = moving + fixed > 2 * INSIDE
    if weight is not None:
        inside &= weight[:, :1] > COUNTS
    values = [c[i] if i.any() else c.max()[None] for c, i in zip(contrast, inside, strict=True)]
    shares = contrast.new_tensor((FLAT, 0.5))
    found = [torch.quantile(v[:: len(v) // MANY + 1], shares) for v in values]
    noise, middle = torch.stack(found, dim=1).view(2, -1, 1, 1, 1, 1)
    return noise, (middle - noise).clamp_min_(1e-12)


def told(contrast: Tensor, noise: Tensor, half: Tensor) -> Tensor:
    """How much the images say about the field, 0 to 1, see `Steps.calm`. Changes `contrast`.

    `half`: the contrast above that of noise of which it is a half.
    """
    contrast.sub_(noise).clamp_min_(0)
    return contrast.div_(contrast + half)
