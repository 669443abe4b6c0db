"""Both images of a pair as tensors on one working grid, on machines without SimpleITK, too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hsyn_cli.space import Grid


@dataclass(frozen=True)
class Scene:
    """Tensors on the working `grid`, moving first.

    Attributes:
        pair: both images, (2, 1, Z, Y, X) in [0, 1].
        maps: maps of what the images show, (2, C, ...); C may be 0.
        counts: (2, 1, ...), 0 where an image does not count; None: all counts. The border can cut
            further channels earlier: then (2, N, ...), where 0 stops the pull of a channel alone.
        others: further channels of both images, (2, N - 1, ...); N may be 1.
        shows: (2, 1, ...), 0 beyond the border of a cut image, and in its lesion, where it does not
            show what the other one may have; None: it shows all.
        alike: as of `Subjects`.
        blur: SD in mm along z, y, x of what a voxel of thick slices shows as one, see `thick`.
        doubt: as of `Subjects`.
    """

    grid: Grid
    pair: Tensor
    maps: Tensor
    counts: Tensor | None
    others: Tensor
    shows: Tensor | None = None
    alike: bool = False
    blur: tuple[float, float, float] = (0.0, 0.0, 0.0)
    doubt: float = 0.0

    @property
    def stands_in(self) -> Tensor | None:
        """`shows`, where the one image can stand in for the other; None if they differ too much."""
        return self.shows if self.alike else None

    @property
    def spacing(self) -> float:
        """Voxel size in mm."""
        return self.grid.spacing[0]
