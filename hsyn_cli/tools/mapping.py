"""Map the voxels of a grid through a transform."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.space import Array, Grid


def mapped_points(transform: sitk.Transform, grid: Grid) -> Array:
    """(Z, Y, X, 3): the point transform(p) for each voxel p of `grid`, mm LPS."""
    import SimpleITK as sitk

    args = (sitk.sitkVectorFloat64, grid.size, grid.origin, grid.spacing, grid.direction)
    moved = sitk.PhysicalPointSource(*args) + sitk.TransformToDisplacementField(transform, *args)
    points: Array = sitk.GetArrayFromImage(moved)
    return points


def index_slabs(
    transform: sitk.Transform, reference: Grid, grid: Grid, voxels: int = 400_000
) -> Iterator[tuple[slice, NDArray[np.bool_], Array]]:
    """Map the voxels of `reference` into `grid`, about `voxels` at a time.

    Yields the slice along Z, a mask (Z, Y, X) of the voxels that `transform` takes into `grid`, and
    their continuous indices in `grid` (N, 3; x, y, z).
    """
    nx, ny, nz = reference.size
    step = max(1, voxels // (nx * ny))
    linear = transform.IsLinear()
    for z in range(0, nz, step):
        last = min(z + step, nz)
        if linear:
            index = _along_lines(transform, reference, grid, range(z, last))
        else:
            index = grid.indices(mapped_points(transform, reference.slab(z, last)))
        inside = grid.holds(index)
        yield slice(z, last), inside, index[inside]


def _along_lines(transform: sitk.Transform, reference: Grid, grid: Grid, slices: range) -> Array:
    """(Z, Y, X, 3): where a linear transform takes the voxels of some slices of `reference`.

    ITK's resampling maps both ends of each line of voxels and interpolates between them. With the
    same arithmetic, voxels exactly on a border fall to the same side of it.
    """
    import SimpleITK as sitk

    start, aim = (g.stamp(sitk.Image([1] * 3, sitk.sitkUInt8)) for g in (reference, grid))
    nx, ny, _ = reference.size

    def mapped(x: int, y: int, z: int) -> tuple[float, ...]:
        point = transform.TransformPoint(start.TransformIndexToPhysicalPoint((x, y, z)))
        found: tuple[float, ...] = aim.TransformPhysicalPointToContinuousIndex(point)
        return found

    ends = np.array([[[mapped(x, y, z) for x in (0, nx)] for y in range(ny)] for z in slices])
    share = (np.arange(nx) / nx)[:, None]
    index: Array = ends[:, :, :1] + share * (ends[:, :, 1:] - ends[:, :, :1])
    return index
