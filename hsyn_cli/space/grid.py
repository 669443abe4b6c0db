"""Grids in space, and the fields on them; see the package for all conventions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

Array = NDArray[np.float64]
Box = tuple[tuple[int, ...], tuple[int, ...]]  # first index x, y, z, and the index after the last
DIMENSION = "hsyn.dimension"  # key of 3-D images that hold a 2-D one


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie: size, spacing (x, y, z; mm), origin (LPS, mm), direction.

    The direction is a row-major 3 x 3 matrix. `dimension`: 2 for a 2-D image, see `planes`.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    dimension: int = 3

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of an image; that of a 2-D image as in `planes`."""
        place = (image.GetSize(), image.GetSpacing(), image.GetOrigin())
        if image.GetDimension() == 2:
            (size, spacing, origin), axes = place, np.eye(3)
            axes[:2, :2] = np.reshape(image.GetDirection(), (2, 2))
            return cls((*size, 1), (*spacing, 1.0), (*origin, 0.0), tuple(axes.ravel().tolist()), 2)
        return cls(*place, image.GetDirection(), 2 if image.HasMetaDataKey(DIMENSION) else 3)

    @property
    def normal(self) -> int | None:
        """The index axis along which a single slice has its one voxel; None for a volume."""
        thin = [k for k, n in enumerate(self.size) if n == 1]
        return thin[0] if len(thin) == 1 else None

    @property
    def voxel(self) -> float:
        """The mean voxel size in mm; of a slice, that in its plane."""
        sides = [s for k, s in enumerate(self.spacing) if k != self.normal]
        return float(np.prod(sides) ** (1 / len(sides)))

    @property
    def axes(self) -> Array:
        """(3, 3); column k is the unit vector of index axis k in LPS."""
        return np.array(self.direction).reshape(3, 3)

    @property
    def index_to_point(self) -> Array:
        """(3, 3) matrix M with point = origin + M @ index."""
        matrix: Array = self.axes * np.array(self.spacing)
        return matrix

    def points(self, index: Array) -> Array:
        """(..., 3) indices in x, y, z -> (..., 3) LPS points in mm."""
        points: Array = index @ self.index_to_point.T + np.array(self.origin)
        return points

    def indices(self, points: Array) -> Array:
        """(..., 3) LPS points in mm -> (..., 3) continuous indices in x, y, z."""
        index: Array = (points - np.array(self.origin)) @ np.linalg.inv(self.index_to_point).T
        return index

    def contains(self, points: Array) -> NDArray[np.bool_]:
        """(..., 3) LPS points in mm -> (...): True within half a voxel of the outermost centres.

        ITK interpolates there.
        """
        return self.holds(self.indices(points))

    def holds(self, index: Array) -> NDArray[np.bool_]:
        """The same of (..., 3) continuous indices x, y, z."""
        inside = (index >= -0.5) & (index < np.array(self.size) - 0.5)
        return np.asarray(inside.all(-1))

    def shifted(self, index: Array) -> Grid:
        """The grid moved by `index` voxels (x, y, z), which may be fractions."""
        x, y, z = self.points(index).tolist()
        return replace(self, origin=(x, y, z))

    def scaled(self, factor: float) -> Grid:
        """The grid whose points lie `factor` times as far from the origin of space."""
        (sx, sy, sz), (x, y, z) = self.spacing, self.origin
        return replace(
            self,
            spacing=(sx * factor, sy * factor, sz * factor),
            origin=(x * factor, y * factor, z * factor),
        )

    def slab(self, first: int, last: int) -> Grid:
        """The voxels with first <= z < last."""
        moved = self.shifted(np.array([0.0, 0.0, first]))
        return replace(moved, size=(*self.size[:2], last - first))

    def corners(self, sides: bool = False) -> Array:
        """(8, 3): the centres of the corner voxels, mm LPS.

        `sides`: of a single slice, those of its two sides.
        """
        half = [0.5 if sides and k == self.normal else 0.0 for k in range(3)]
        ends = [(-h, n - 1.0 + h) for n, h in zip(self.size, half, strict=True)]
        return self.points(np.array(list(itertools.product(*ends))))

    def covered(self, points: Array) -> Box:
        """The part of the grid in the box around `points` (N, 3), mm LPS.

        It is one voxel wider on each side, and at least 2 voxels wide if the grid is.
        """
        index, size = self.indices(points), np.array(self.size)
        least = np.minimum(size, 2)
        first = np.clip(np.floor(index.min(0)).astype(int) - 1, 0, size - least)
        end = np.clip(np.ceil(index.max(0)).astype(int) + 2, first + least, size)
        return tuple(map(int, first)), tuple(map(int, end))

    def part(self, box: Box) -> tuple[Grid, tuple[slice, ...]]:
        """The grid of a box, and the slices of its voxels in (1, C, Z, Y, X)."""
        first, end = box
        size = [b - a for a, b in zip(first, end, strict=True)]
        zyx = (slice(a, b) for a, b in zip(first[::-1], end[::-1], strict=True))
        grid = replace(self.shifted(np.array(first, float)), size=(size[0], size[1], size[2]))
        return grid, (slice(None), slice(None), *zyx)

    def thinned(self, most: int) -> Grid:
        """Every k-th voxel along each axis, with the smallest k that leaves at most `most`."""
        x, y, z = (-(-n // most) for n in self.size)
        (nx, ny, nz), (sx, sy, sz) = self.size, self.spacing
        return replace(
            self, size=(-(-nx // x), -(-ny // y), -(-nz // z)), spacing=(sx * x, sy * y, sz * z)
        )

    def coarser(self, mm: float) -> Grid:
        """A grid with the same corner voxels, and voxels as near to `mm` as that allows, not above.

        An axis with larger voxels stays.
        """
        sides = list(zip(self.size, self.spacing, strict=True))
        x, y, z = (n if s >= mm or n == 1 else ceil((n - 1) * s / mm - 1e-6) + 1 for n, s in sides)
        sx, sy, sz = (
            s * (n - 1) / (m - 1) if m > 1 else s
            for (n, s), m in zip(sides, (x, y, z), strict=True)
        )
        return replace(self, size=(x, y, z), spacing=(sx, sy, sz))

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """True if the sizes match and no corner voxels lie more than `tolerance` voxels apart."""
        if self.size != other.size:
            return False
        apart = np.abs(self.corners() - other.corners()).max()
        return bool(apart <= tolerance * min(self.spacing))

    def empty_image(self, pixel: int) -> sitk.Image:
        """A SimpleITK image of zeros on this grid; `pixel` is a sitk pixel id."""
        import SimpleITK as sitk

        return self.stamp(sitk.Image(list(self.size), pixel))

    def stamp(self, image: sitk.Image) -> sitk.Image:
        """Give `image` (same size) this grid's geometry, in place, and return it."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        if self.dimension == 2:
            image.SetMetaData(DIMENSION, "2")
        return image


def nearest_lps(direction: Array) -> Array:
    """The columns of `direction` (3, 3), permuted and flipped to lie nearest to L, P, S."""
    best = max(
        itertools.permutations(range(3)),
        key=lambda p: sum(abs(direction[k, p[k]]) for k in range(3)),
    )
    axes = direction[:, list(best)]
    facing: Array = axes * np.where(np.diag(axes) < 0, -1.0, 1.0)
    return facing


def working_grid(
    image: Grid, box: tuple[Array, Array], spacing: float, margin: float, multiple: int
) -> Grid:
    """An isotropic grid over a box of `image`, along the axes of `image` nearest to L, P, S.

    If `image` itself has that spacing, the voxel centres of both coincide, and resampling does not
    interpolate. Over a slice, the grid is a slice whose normal is its last axis.

    Args:
        image: the grid to follow (the fixed image's).
        box: (first, last) index of the content, (x, y, z), inclusive.
        spacing: voxel size in mm.
        margin: mm added on each side of the box.
        multiple: sizes are rounded up to a multiple of this many voxels.
    """
    axes = nearest_lps(image.axes)
    many = np.ones(3, bool)
    if image.normal is not None:
        across = int(np.abs(image.axes[:, image.normal] @ axes).argmax())
        axes = axes[:, [*(k for k in range(3) if k != across), across]]
        many[2] = False
    corners = np.array(list(itertools.product(*zip(*box, strict=True))))
    # In mm from voxel (0, 0, 0), along the new axes.
    along = (image.points(corners) - np.array(image.origin)) @ axes
    low = np.where(many, np.floor((along.min(0) - margin) / spacing + 1e-6), 0)
    count = np.ceil((along.max(0) + margin) / spacing - 1e-6) - low + 1
    size = np.where(many, np.ceil(count / multiple) * multiple, 1).astype(int)
    low -= np.where(many, (size - count) // 2, 0)
    origin = np.array(image.origin) + axes @ (low * spacing)
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (spacing,) * 3,
        (origin[0], origin[1], origin[2]),
        tuple(axes.ravel()),
        image.dimension,
    )


LEAST_VOXELS_PER_AXIS = 8


def shrink_factors(grid: Grid, mm: float) -> list[int]:
    """The numbers of voxels (x, y, z), at least 1, to average into voxels of at most `mm`.

    Each axis keeps LEAST_VOXELS_PER_AXIS voxels, if it has so many.
    """
    sizes = zip(grid.spacing, grid.size, strict=True)
    return [max(1, min(int(mm / s + 1e-6), n // LEAST_VOXELS_PER_AXIS)) for s, n in sizes]


def strided(grid: Grid, stride: float) -> Grid:
    """The grid of a field with `stride` on `grid` (see the package); sizes must divide by it."""
    if any(n % stride for n in grid.size if n > 1):
        raise ValueError(f"grid {grid.size} does not divide by {stride}")
    first = grid.points(np.where(np.array(grid.size) > 1, (stride - 1) / 2, 0.0))
    size = [round(n / stride) if n > 1 else 1 for n in grid.size]
    spacing = [s * stride for s in grid.spacing]
    return Grid(
        (size[0], size[1], size[2]),
        (spacing[0], spacing[1], spacing[2]),
        (first[0], first[1], first[2]),
        grid.direction,
        grid.dimension,
    )


def field_to_lps(field: NDArray[np.float32], grid: Grid) -> sitk.Image:
    """(3, Z, Y, X) field in mm along the axes of `grid` -> SimpleITK vector image, mm LPS."""
    import SimpleITK as sitk

    lps = np.tensordot(grid.axes.astype(np.float32), field, axes=1)  # (3, Z, Y, X)
    values = np.ascontiguousarray(np.moveaxis(lps, 0, -1))
    return grid.stamp(sitk.GetImageFromArray(values, isVector=True))


def field_from_lps(image: sitk.Image) -> NDArray[np.float32]:
    """SimpleITK vector image, mm LPS -> (3, Z, Y, X) float32, mm along the image's own axes."""
    import SimpleITK as sitk

    lps = sitk.GetArrayViewFromImage(image)  # (Z, Y, X, 3)
    axes = np.array(image.GetDirection()).reshape(3, 3).astype(np.float32)
    values = np.tensordot(np.linalg.inv(axes), lps, axes=(1, 3))
    return np.ascontiguousarray(values, dtype=np.float32)


def affine_parts(transform: Any) -> tuple[Array, Array]:
    """(A, t) of a SimpleITK linear transform, so that point -> A @ point + t, in mm LPS."""
    each = np.eye(transform.GetDimension())
    t = np.array(transform.TransformPoint((0.0,) * len(each)))
    a = np.stack([np.array(transform.TransformPoint(tuple(e))) - t for e in each], axis=1)
    return a, t


def affine_from(matrix: Array, translation: Array) -> sitk.AffineTransform:
    """point -> matrix @ point + translation, mm LPS."""
    import SimpleITK as sitk

    out = sitk.AffineTransform(len(translation))
    out.SetMatrix(matrix.ravel().tolist())
    out.SetTranslation(translation.tolist())
    return out
