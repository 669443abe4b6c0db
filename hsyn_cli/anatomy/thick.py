"""Images of thick slices, on thinner ones. Ours.

A thick slice shows the mean of what it covers. Linear interpolation between such means blurs them
once more, and forces follow the blur. The cubic spline whose mean over each slice is the slice's
value does not: it brings back what the slices can tell.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from hsyn_cli.space import Array, Grid, affine_parts

THICK = 2.0  # times the width of the voxels; thinner slices stay
MOST_PARTS = 12  # of a slice
BLUR = 0.25  # of the thickness of slices; the SD of the Gaussian across them for fields
MOST_VOXELS = 3e7


def thinned(image: sitk.Image, mm: float) -> sitk.Image:
    """An image with thick slices in about as thin parts as its voxels are wide; else the image.

    The parts stay within the range of the image, and background stays background.

    Args:
        mm: the working voxel; finer parts are of no use.
    """
    grid = Grid.of(image)
    axis, ratio = _slices(grid, mm)
    parts = min(round(ratio), MOST_PARTS, int(MOST_VOXELS // image.GetNumberOfPixels()))
    if ratio <= THICK or parts < 2:
        return image
    values = sitk.GetArrayViewFromImage(image).astype(np.float32)
    along = np.moveaxis(values, 2 - axis, 0)
    low, high = float(values.min()), float(values.max())
    flat = np.tensordot(_linear(len(along), parts), along, 1) <= low
    fine = np.tensordot(_means_kept(len(along), parts), along, 1).clip(low, high)
    fine[flat] = low
    out = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(fine, 0, 2 - axis)))
    return _parted(grid, axis, parts).stamp(out)


def slice_vector(grid: Grid, mm: float) -> Array:
    """(3,) mm LPS, from one side of a thick slice to the other one; 0 without thick slices."""
    axis, ratio = _slices(grid, mm)
    vector: Array = grid.axes[:, axis] * grid.spacing[axis] * (ratio > THICK)
    return vector


def blur_along(
    grid: Grid, vectors: tuple[Array, Array], affine: sitk.AffineTransform
) -> tuple[float, float, float]:
    """SD in mm along z, y, x of `grid` of what the slices of two images show as one.

    A field cannot tell more. A rougher one on thick slices has no field on them as its inverse.

    Args:
        vectors: of moving and fixed, see `slice_vector`.
        affine: fixed point -> moving point.
    """
    of_moving, of_fixed = vectors
    brought = np.linalg.solve(affine_parts(affine)[0], of_moving)
    x, y, z = BLUR * np.abs(grid.axes.T @ np.stack([brought, of_fixed], axis=1)).max(1)
    return float(z), float(y), float(x)


def _slices(grid: Grid, mm: float) -> tuple[int, float]:
    """The axis across the thickest slices, and their thickness in widths of voxels."""
    wide = [k for k in range(3) if k != grid.normal]
    axis = max(wide, key=lambda k: grid.spacing[k])
    return axis, grid.spacing[axis] / max(mm, *(grid.spacing[k] for k in wide if k != axis))


def _parted(grid: Grid, axis: int, parts: int) -> Grid:
    """`grid` with each slice across `axis` in so many parts."""
    first, size, spacing = np.zeros(3), list(grid.size), list(grid.spacing)
    first[axis] = (1 - parts) / (2 * parts)
    size[axis] *= parts
    spacing[axis] /= parts
    nx, ny, nz = size
    sx, sy, sz = spacing
    return replace(grid.shifted(first), size=(nx, ny, nz), spacing=(sx, sy, sz))


def _places(count: int, parts: int) -> Array:
    """The middles of all parts, in slices."""
    return (np.arange(count * parts) + 0.5) / parts - 0.5


def _linear(count: int, parts: int) -> Array:
    """(count * parts, count): linear interpolation, with border values held."""
    places, eye = _places(count, parts).clip(0, count - 1), np.eye(count)
    matrix: Array = np.stack([np.interp(places, np.arange(count), row) for row in eye], axis=1)
    return matrix.astype(np.float32)


def _means_kept(count: int, parts: int) -> Array:
    """(count * parts, count): the cubic spline whose mean over each slice is the slice's value."""
    from scipy.interpolate import make_interp_spline  # a third of a second

    spline = make_interp_spline(np.arange(count), np.eye(count), k=3, bc_type="natural")
    places = _places(count, parts).clip(-0.5, count - 0.5)
    through = spline(places)  # (count * parts, count), through values in the middle of the slices
    means = through.reshape(count, parts, count).mean(1)
    matrix: Array = through @ np.linalg.inv(means)
    return matrix.astype(np.float32)
