"""Both images of a pair as tensors on one working grid, on machines without SimpleITK, too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hsyn_cli.space import Grid

Part = tuple[slice, slice, slice]  # of a grid, along z, y, x
FADING = 8  # voxels inside a part in which its change falls to nothing
STEP = 4  # voxels; parts of a grid start and end at multiples of it, as grids do
MOST = 0.85  # of a grid; a larger part saves nothing


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
        fine: the part that the refinement moves; None: all.
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
    fine: Part | None = None

    @property
    def stands_in(self) -> Tensor | None:
        """`shows`, where the one image can stand in for the other; None if they differ too much."""
        return self.shows if self.alike else None

    @property
    def spacing(self) -> float:
        """Voxel size in mm."""
        return self.grid.spacing[0]


def part_around(mask: Tensor, beyond: int) -> Part | None:
    """The part of a grid within `beyond` voxels of what `mask` (Z, Y, X) has.

    None: that is most of the grid, or the mask is empty.
    """
    sides = []
    for axis, size in enumerate(mask.shape):
        along = mask.amax([k for k in range(3) if k != axis]).nonzero()
        if not len(along):
            return None
        low, high = int(along[0]) - beyond, int(along[-1]) + 1 + beyond
        sides.append(slice(max(low // STEP * STEP, 0), min(-(-high // STEP) * STEP, size)))
    part = sides[0], sides[1], sides[2]
    return part if mask[part].numel() < MOST * mask.numel() else None
