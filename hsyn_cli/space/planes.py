"""Two dimensions: a 2-D image is a 3-D image of one slice, which lies in the plane z = 0 mm.

All steps work on 3-D images. The grid remembers the dimension, and files get it back. The slice's
vectors have z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.space.grid import DIMENSION, Array, Grid, affine_from, affine_parts, nearest_lps

ROUNDING = 1e-3  # mm, and of the other components
PARALLEL = 0.9998  # cosine of a degree
BOTH_SLICES = "give two slices or two volumes"
BOTH_FLAT = "save both as 2-D images"


def flattened(grid: Grid) -> Grid:
    """The grid of a 2-D image: its axes and its place in the plane z = 0.

    Where the image stands across that plane, it gets the axes x and y.
    """
    axes = np.eye(3)
    if lies_flat(grid):
        axes[:2, :2] = grid.axes[:2, :2]
    (sx, sy, _), (x, y, _) = grid.spacing, grid.origin
    return Grid(grid.size, (sx, sy, 1.0), (x, y, 0.0), tuple(axes.ravel().tolist()), 2)


def lies_flat(grid: Grid) -> bool:
    """Whether the first two axes of a grid span the plane z = 0."""
    flat = grid.axes[:2, :2]
    return bool(np.abs(flat.T @ flat - np.eye(2)).max() < ROUNDING)


def raised(image: sitk.Image) -> sitk.Image:
    """A 2-D image, of scalars or of vectors (x, y), as one slice; any other image as it is."""
    if image.GetDimension() != 2:
        return image
    if image.GetNumberOfComponentsPerPixel() == 2:
        image = with_third(image)
    out = sitk.JoinSeries(image)
    return flattened(Grid.of(out)).stamp(out)


def check_alike(moving: sitk.Image, fixed: sitk.Image) -> None:
    """Raise InputError for a slice and a volume, and for a 2-D image and a slice in space."""
    slices = [Grid.of(image).normal is not None for image in (moving, fixed)]
    if slices[0] != slices[1]:
        roles = ("moving", "fixed") if slices[0] else ("fixed", "moving")
        text = f"the {roles[0]} image is a single slice, and the {roles[1]} image a volume"
        raise InputError(text, BOTH_SLICES)
    dimensions = [Grid.of(image).dimension for image in (moving, fixed)]
    if dimensions[0] != dimensions[1]:
        text = f"the moving image is {dimensions[0]}-D, and the fixed image {dimensions[1]}-D"
        raise InputError(text, BOTH_FLAT)


def with_third(image: sitk.Image) -> sitk.Image:
    """Vectors (x, y) as (x, y, 0)."""
    parts = [sitk.VectorIndexSelectionCast(image, k) for k in range(2)]
    return sitk.Compose([*parts, parts[0] * 0])


def lowered(image: sitk.Image) -> sitk.Image:
    """The 2-D image that `raised` raised; any other image as it is."""
    if not image.HasMetaDataKey(DIMENSION):
        return image
    out = sitk.Extract(image, [*image.GetSize()[:2], 0], [0, 0, 0])
    if out.GetNumberOfComponentsPerPixel() == 3 and _in_plane(sitk.GetArrayViewFromImage(out)):
        out = sitk.Compose([sitk.VectorIndexSelectionCast(out, k) for k in range(2)])
    return out


def _in_plane(vectors: NDArray[Any]) -> bool:
    """True for vectors (..., 3) without a part across their plane; colours have a third number."""
    if vectors.dtype.kind != "f":
        return False
    across, along = (float(np.abs(part).max()) for part in (vectors[..., 2], vectors[..., :2]))
    return across <= ROUNDING * (1 + along)


def raised_transform(transform: sitk.Transform) -> sitk.Transform:
    """A 2-D transform as a 3-D one that leaves z as it is; any other transform as it is.

    Raises InputError for a 2-D spline.
    """
    if transform.GetDimension() != 2:
        return transform
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        out = sitk.CompositeTransform(3)
        for k in range(transform.GetNumberOfTransforms()):
            out.AddTransform(raised_transform(transform.GetNthTransform(k)))
        return out
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return sitk.DisplacementFieldTransform(raised(transform.GetDisplacementField()))
    if not transform.IsLinear():
        text = f"a 2-D {transform.GetName()} cannot be used"
        raise InputError(text, "give a linear transform or a 2-D displacement field")
    matrix, shift = np.eye(3), np.zeros(3)
    matrix[:2, :2], shift[:2] = affine_parts(transform)
    return affine_from(matrix, shift)


def lowered_transform(transform: sitk.Transform) -> sitk.Transform:
    """What a linear 3-D transform or a field does in the plane z = 0, as a 2-D transform."""
    if transform.GetDimension() == 2:
        return transform
    if isinstance(transform, sitk.DisplacementFieldTransform):
        field = transform.GetDisplacementField()
        return sitk.DisplacementFieldTransform(lowered(flattened(Grid.of(field)).stamp(field)))
    matrix, shift = affine_parts(transform)
    return affine_from(matrix[:2, :2], shift[:2])


@dataclass(frozen=True)
class Plane:
    """The plane of a slice. `axes` (3, 3): two in the plane and the normal, as columns, in LPS.

    `point`: of the plane, mm LPS. Coordinates in the plane count from there.
    """

    axes: Array
    point: Array

    @classmethod
    def of(cls, grid: Grid) -> Plane | None:
        """The plane of a slice; None for a volume."""
        if grid.normal is None:
            return None
        axes = nearest_lps(grid.axes)
        across = int(np.abs(grid.axes[:, grid.normal] @ axes).argmax())
        order = [*(k for k in range(3) if k != across), across]
        return cls(axes[:, order], np.array(grid.origin))

    def image(self, image: sitk.Image) -> sitk.Image:
        """A slice as a 2-D image in this plane. Raises GeometryError if it is not parallel."""
        normal = Grid.of(image).normal
        if normal is None:
            raise GeometryError("one image is a slice, and the other a volume", BOTH_SLICES)
        image = sitk.PermuteAxes(image, [*(k for k in range(3) if k != normal), normal])
        grid = Grid.of(image)
        if abs(grid.axes[:, 2] @ self.axes[:, 2]) < PARALLEL:
            raise GeometryError("both slices lie in planes that are not parallel", BOTH_FLAT)
        out = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image)[0])
        left, _, right = np.linalg.svd(self.axes[:, :2].T @ grid.axes[:, :2])
        out.SetDirection((left @ right).ravel().tolist())
        out.SetOrigin((self.axes[:, :2].T @ (np.array(grid.origin) - self.point)).tolist())
        out.SetSpacing(grid.spacing[:2])
        return out

    def along(self, shift: Array | None) -> Array | None:
        """The part of a shift in mm along the plane."""
        return None if shift is None else self.axes[:, :2].T @ shift

    def height(self, grid: Grid) -> float:
        """How far along the normal a parallel slice lies, in mm."""
        return float(self.axes[:, 2] @ (np.array(grid.origin) - self.point))

    def within(self, transform: sitk.Transform) -> sitk.AffineTransform:
        """What a linear transform does in the plane, as a 2-D transform."""
        (matrix, shift), flat = affine_parts(transform), self.axes[:, :2]
        moved = matrix @ self.point + shift - self.point
        return affine_from(flat.T @ matrix @ flat, flat.T @ moved)

    def lifted(self, transform: sitk.Transform, height: float) -> sitk.AffineTransform:
        """A linear 2-D transform in this plane as one of space, to the slice at a height in mm."""
        (matrix, shift), flat, normal = affine_parts(transform), self.axes[:, :2], self.axes[:, 2]
        whole = flat @ matrix @ flat.T + np.outer(normal, normal)
        end = self.point - whole @ self.point + flat @ shift + height * normal
        return affine_from(whole, end)
