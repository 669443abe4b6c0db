"""All axis and unit conventions of hsyn live here; no other module flips an axis.

* A *point* is in millimetres, LPS, as in SimpleITK.
* An *index* is (x, y, z), continuous, with voxel centres on integers. Arrays are (z, y, x).
* A *working grid* is isotropic, and its axes are those nearest to left, posterior, superior.
  Networks and fields use only tensors on it: images (B, C, Z, Y, X), and displacement fields
  (B, 3, Z, Y, X) with components x, y, z **along the working grid's axes, in mm**. A field may have
  fewer voxels than its image. Stride s means one field voxel per s x s x s image voxels,
  cell-centred, so field voxel i lies at image index ``s * i + (s - 1) / 2``.
* On disk, a displacement field is a vector image in mm, LPS. The vector at a grid point leads to
  the other image.
"""

from __future__ import annotations

from hsyn_cli.space.forms import (
    RAS,
    SPACES,
    Pair,
    convert_affine,
    convert_vectors,
    coordinates,
    flip_ras,
    from_ras,
    from_xyz,
    shear,
    to_ras,
)
from hsyn_cli.space.grid import (
    LEAST_VOXELS_PER_AXIS,
    Array,
    Box,
    Grid,
    affine_from,
    affine_parts,
    field_from_lps,
    field_to_lps,
    nearest_lps,
    shrink_factors,
    strided,
    working_grid,
)

__all__ = [
    "LEAST_VOXELS_PER_AXIS",
    "RAS",
    "SPACES",
    "Array",
    "Box",
    "Grid",
    "Pair",
    "affine_from",
    "affine_parts",
    "convert_affine",
    "convert_vectors",
    "coordinates",
    "field_from_lps",
    "field_to_lps",
    "flip_ras",
    "from_ras",
    "from_xyz",
    "nearest_lps",
    "shear",
    "shrink_factors",
    "strided",
    "to_ras",
    "working_grid",
]
