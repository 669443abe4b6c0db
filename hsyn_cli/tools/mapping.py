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
    for z in range(0, nz, step):
        points = mapped_points(transform, reference.slab(z, min(z + step, nz)))
        inside = grid.contains(points)
        yield slice(z, z + step), inside, grid.indices(points[inside])
