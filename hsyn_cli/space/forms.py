"""The coordinates of file formats, against mm in LPS; see the package for all conventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsyn_cli.space.grid import Array, Grid

Pair = tuple[Array, Array]  # `coordinates` of the fixed and of the moving grid
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS mm -> RAS mm, and back
SPACES = {  # of NRRD: their coordinates times these are LPS
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip


def from_xyz(vectors: NDArray[Any]) -> NDArray[Any]:
    """(X, Y, Z, 3), axes as in nibabel -> (Z, Y, X, 3). Its own inverse."""
    swapped: NDArray[Any] = vectors.transpose(2, 1, 0, 3)
    return swapped


def from_ras(matrix: Array, size: Sequence[int]) -> Grid:
    """The grid of a header's matrix (4, 4), index -> mm RAS.

    Axes that are not quite perpendicular become the nearest perpendicular ones.
    """
    lps = RAS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    if shear(matrix) > 1e-6:
        left, _, right = np.linalg.svd(axes)
        axes = left @ right
    axes = np.where(np.abs(axes) < 1e-12, 0.0, axes)
    (nx, ny, nz), (sx, sy, sz), (x, y, z) = size, spacing.tolist(), lps[:3, 3].tolist()
    return Grid((nx, ny, nz), (sx, sy, sz), (x, y, z), tuple(axes.ravel().tolist()))


def to_ras(grid: Grid) -> Array:
    """(4, 4): index -> mm RAS, as headers have it."""
    return coordinates(grid, "ras")


def shear(matrix: Array) -> float:
    """How far the columns of a (4, 4) matrix are from perpendicular: the largest cosine."""
    columns = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return float(np.abs(columns.T @ columns - np.eye(3)).max())


def flip_ras(vectors: NDArray[Any]) -> NDArray[Any]:
    """(..., 3) vectors, RAS -> LPS and back, in place."""
    with np.errstate(invalid="ignore"):  # NaN, which the caller refuses
        vectors[..., :2] *= -1
    return vectors


def coordinates(grid: Grid, form: str) -> Array:
    """(4, 4): index (x, y, z, 1) -> the coordinates in which a form counts displacements.

    "itk": mm, LPS. "ras": mm, RAS. "voxel": the index itself. "fsl": index times spacing, with x
    from the other end if the index axes are right-handed in space (a positive determinant of the
    sform).
    """
    matrix = np.eye(4)
    if form == "fsl":
        matrix[:3, :3] = np.diag(grid.spacing)
        if np.linalg.det(grid.axes) > 0:
            matrix[0] = (-grid.spacing[0], 0, 0, (grid.size[0] - 1) * grid.spacing[0])
    elif form in ("itk", "ras"):
        matrix[:3, :3] = grid.index_to_point
        matrix[:3, 3] = grid.origin
        matrix = matrix if form == "itk" else RAS @ matrix
    elif form != "voxel":
        raise ValueError(f"unknown form {form!r}")
    return matrix


def convert_vectors(vectors: Array, source: Pair, target: Pair) -> Array:
    """Displacements of one form as another: (Z, Y, X, 3), components x, y, z -> the same shape.

    `source` and `target` are what a form makes of the fixed and of the moving grid, Cf and Cm: a
    vector v at the fixed index i leads to the moving index j with Cm j = Cf i + v.
    """
    through = target[1] @ np.linalg.inv(source[1])
    out: Array = vectors @ through[:3, :3].T
    rest = (through @ source[0] - target[0])[:3]
    if np.abs(rest).max() > 1e-9:  # 0 on one grid, and between itk and ras
        z, y, x = (np.arange(n, dtype=float) for n in vectors.shape[:3])
        out += x[:, None] * rest[:, 0]
        out += y[:, None, None] * rest[:, 1]
        out += z[:, None, None, None] * rest[:, 2] + rest[:, 3]
    return out


def convert_affine(matrix: Array, source: Pair, target: Pair) -> Array:
    """(4, 4) from fixed to moving coordinates of one form -> of another; see `convert_vectors`."""
    there = target[1] @ np.linalg.inv(source[1])
    back = source[0] @ np.linalg.inv(target[0])
    out: Array = there @ matrix @ back
    return out
