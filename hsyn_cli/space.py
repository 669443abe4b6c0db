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

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # `coordinates` of the fixed and of the moving grid
Box = tuple[tuple[int, ...], tuple[int, ...]]  # first index x, y, z, and the index after the last


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie: size, spacing (x, y, z; mm), origin (LPS, mm), direction.

    The direction is a row-major 3 x 3 matrix.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

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
        index = self.indices(points)
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

    def corners(self) -> Array:
        """(8, 3): the centres of the corner voxels, mm LPS."""
        return self.points(np.array(list(itertools.product(*[(0.0, n - 1.0) for n in self.size]))))

    def covered(self, points: Array) -> Box:
        """The part of the grid in the box around `points` (N, 3), mm LPS.

        It is one voxel wider on each side, and at least 2 voxels wide.
        """
        index, last = self.indices(points), np.array(self.size) - 2
        first = np.clip(np.floor(index.min(0)).astype(int) - 1, 0, last)
        end = np.clip(np.ceil(index.max(0)).astype(int) + 2, first + 2, last + 2)
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
    interpolate.

    Args:
        image: the grid to follow (the fixed image's).
        box: (first, last) index of the content, (x, y, z), inclusive.
        spacing: voxel size in mm.
        margin: mm added on each side of the box.
        multiple: sizes are rounded up to a multiple of this many voxels.
    """
    axes = nearest_lps(image.axes)
    corners = np.array(list(itertools.product(*zip(*box, strict=True))))
    # In mm from voxel (0, 0, 0), along the new axes.
    along = (image.points(corners) - np.array(image.origin)) @ axes
    low = np.floor((along.min(0) - margin) / spacing + 1e-6)
    count = np.ceil((along.max(0) + margin) / spacing - 1e-6) - low + 1
    size = (np.ceil(count / multiple) * multiple).astype(int)
    low -= (size - count) // 2
    origin = np.array(image.origin) + axes @ (low * spacing)
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (spacing,) * 3,
        (origin[0], origin[1], origin[2]),
        tuple(axes.ravel()),
    )


LEAST_VOXELS_PER_AXIS = 8


def shrink_factors(grid: Grid, mm: float) -> list[int]:
    """The numbers of voxels (x, y, z), at least 1, to average into voxels of at most `mm`.

    Each axis keeps LEAST_VOXELS_PER_AXIS voxels, if it has so many.
    """
    sizes = zip(grid.spacing, grid.size, strict=True)
    return [max(1, min(int(mm / s + 1e-6), n // LEAST_VOXELS_PER_AXIS)) for s, n in sizes]


def strided(grid: Grid, stride: float) -> Grid:
    """The grid of a field with `stride` on `grid` (see the module); sizes must divide by it."""
    if any(n % stride for n in grid.size):
        raise ValueError(f"grid {grid.size} does not divide by {stride}")
    first = grid.points(np.full(3, (stride - 1) / 2))
    size = [round(n / stride) for n in grid.size]
    spacing = [s * stride for s in grid.spacing]
    return Grid(
        (size[0], size[1], size[2]),
        (spacing[0], spacing[1], spacing[2]),
        (first[0], first[1], first[2]),
        grid.direction,
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


def from_xyz(vectors: NDArray[Any]) -> NDArray[Any]:
    """(X, Y, Z, 3), axes as in nibabel -> (Z, Y, X, 3). Its own inverse."""
    swapped: NDArray[Any] = vectors.transpose(2, 1, 0, 3)
    return swapped


RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS mm -> RAS mm, and back
SPACES = {  # of NRRD: their coordinates times these are LPS
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip


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


def affine_parts(transform: Any) -> tuple[Array, Array]:
    """(A, t) of a SimpleITK linear transform, so that point -> A @ point + t, in mm LPS."""
    t = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    a = np.stack([np.array(transform.TransformPoint(tuple(e))) - t for e in np.eye(3)], axis=1)
    return a, t


def affine_from(matrix: Array, translation: Array) -> sitk.AffineTransform:
    """point -> matrix @ point + translation, mm LPS."""
    import SimpleITK as sitk

    out = sitk.AffineTransform(3)
    out.SetMatrix(matrix.ravel().tolist())
    out.SetTranslation(translation.tolist())
    return out
