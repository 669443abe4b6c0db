"""Images through a transform: one volume (`move`), or a file of one volume or many (`move_file`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli import chain as chains
from hsyn_cli import files, images, labels, lanczos, points, series
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.space import Array, Grid, mapped_points

INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "bspline": sitk.sitkBSpline,  # third order
}
EXACT = ("nearest", "label")  # give no value that the image has not
DOUBLE = (sitk.sitkFloat64, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkUInt64)
HALF = 0.4  # voxels to each side over which the Jacobian is taken


@dataclass(frozen=True)
class Settings:
    """How to interpolate. `default`: the value outside the image. `reorient`: turn vectors with the transform.

    Labels and nearest neighbour keep the image's pixel type; the others give float32, or with `keep_type` its own
    type again, rounded.
    """

    interpolation: str = "linear"
    default: float = 0.0
    keep_type: bool = False
    reorient: bool = False

    def __post_init__(self) -> None:
        known = (*INTERPOLATORS, "lanczos", "label")
        if self.interpolation not in known:
            raise UsageError(
                f"unknown interpolation {self.interpolation!r}", f"choose one of {', '.join(known)}"
            )


@dataclass(frozen=True)
class Moved:
    """What became of one file: `count` volumes or points. `changes`: of the labels of a map of one volume."""

    path: Path
    sha256: str
    count: int
    changes: tuple[labels.Change, ...] = ()
    warnings: tuple[str, ...] = ()


def move_file(
    path: Path,
    out: Path,
    chain: chains.Chain,
    reference: Grid,
    settings: Settings,
    progress: Callable[[float], None],
) -> Moved:
    """Read an image or a 4-D series, check that it meets the reference, move it, write it to `out`.

    `progress` is told the share done. Raises InputError, GeometryError, UsageError, OutputError.
    """
    transform = chain.transform
    found = series.find(path)
    if found is not None:
        chains.check_image(chain, reference, images.read_grid(path), str(path))
        volumes = series.volumes(found, out.parent)
        series.write(_each(volumes, found, reference, transform, settings, progress), found, out)
        return Moved(path, found.sha256, found.count)
    scan = images.read_any(path)
    if settings.interpolation == "label":
        scan = images.whole_numbers(scan)
    told = scan.warnings
    chains.check_image(chain, reference, Grid.of(scan.image), str(path))
    moved = move(scan.image, reference, transform, settings)
    changes: tuple[labels.Change, ...] = ()
    if settings.interpolation in EXACT and scan.image.GetNumberOfComponentsPerPixel() == 1:
        try:
            before, after = (images.whole_numbers(images.Scan(i, path, "")) for i in (scan.image, moved))
            changes = labels.changes(before.image, after.image)
        except InputError:
            told += (f"{path} holds fractional values: moved as an image, not as labels",)
    progress(0.9)
    images.write_image(moved, out)
    return Moved(path, scan.sha256, 1, changes, told)


def move_point_file(path: Path, out: Path, chain: chains.Chain) -> Moved:
    """The points of a CSV or VTK file through the chain, to `out`. Raises InputError, GeometryError, OutputError."""
    file = points.read(path)
    moved, warnings = chains.move_points(chain, file.points)
    files.write_bytes(out, file.rewritten(moved))
    return Moved(path, file.sha256, len(moved), (), warnings)


def _each(
    volumes: Iterator[sitk.Image],
    found: series.Series,
    reference: Grid,
    transform: sitk.Transform,
    settings: Settings,
    progress: Callable[[float], None],
) -> Iterator[sitk.Image]:
    for k, volume in enumerate(volumes):
        progress(k / found.count)
        if settings.interpolation == "label":
            volume = images.whole_numbers(images.Scan(volume, found.path, "")).image
        yield move(volume, reference, transform, settings)


def move(image: sitk.Image, reference: Grid, transform: sitk.Transform, settings: Settings) -> sitk.Image:
    """`image` at transform(p) for every voxel p of `reference`. Raises UsageError for settings that do not fit it."""
    parts = image.GetNumberOfComponentsPerPixel()
    exact = settings.interpolation in EXACT
    if settings.reorient and parts != 3:
        raise UsageError("--reorient turns 3-component vectors; this is another image", "leave it out")
    if exact or settings.keep_type:
        _check_default(image, settings.default)
    if settings.interpolation == "label":
        if parts != 1:
            raise UsageError(
                "a label map has one value per voxel, not vectors", "choose another --interpolation"
            )
        return labels.resample(image, reference, transform, int(settings.default))
    moved = _resample(image, reference, transform, settings)
    if settings.reorient:
        moved = _reorient(moved, reference, transform)
    return _rounded(moved, image) if settings.keep_type and not exact else moved


def _resample(
    image: sitk.Image, reference: Grid, transform: sitk.Transform, settings: Settings
) -> sitk.Image:
    """Vectors component by component: ITK has B-splines for scalars only."""
    parts = image.GetNumberOfComponentsPerPixel()
    if parts > 1:
        each = (sitk.VectorIndexSelectionCast(image, k) for k in range(parts))
        return sitk.Compose([_resample(part, reference, transform, settings) for part in each])
    pixel = image.GetPixelID()
    if settings.interpolation not in EXACT:
        pixel = sitk.sitkFloat64 if settings.keep_type and pixel in DOUBLE else sitk.sitkFloat32
    if settings.interpolation == "lanczos":
        return lanczos.resample(image, reference, transform, settings.default, pixel)
    grid = (reference.origin, reference.spacing, reference.direction)
    how = INTERPOLATORS[settings.interpolation]
    return sitk.Resample(image, reference.size, transform, how, *grid, settings.default, pixel)


def _reorient(vectors: sitk.Image, reference: Grid, transform: sitk.Transform) -> sitk.Image:
    """Vectors (mm LPS) turned from the input image's frame to the reference's by the local rotation; lengths kept.

    With the transform's Jacobian J = U S V^T that rotation is V U^T: the finite strain of the inverse.
    """
    out = sitk.GetArrayFromImage(vectors)
    out = out.astype(np.result_type(out, np.float32), copy=False)
    to_index = np.linalg.inv(reference.index_to_point)
    for z in range(reference.size[2]):
        slab = reference.slab(z, z + 1)
        columns = [_difference(transform, slab, axis) for axis in np.eye(3)]
        u, _, vt = np.linalg.svd(np.stack(columns, axis=-1) @ to_index)
        out[z] = np.einsum("...ji,...kj,...k->...i", vt, u, out[z : z + 1].astype(np.float64))[0]
    return reference.stamp(sitk.GetImageFromArray(out, isVector=True))


def _difference(transform: sitk.Transform, grid: Grid, axis: Array) -> Array:
    """d transform(p) / d index along one index axis, at the voxels of `grid`, (Z, Y, X, 3)."""
    ahead, behind = (mapped_points(transform, grid.shifted(axis * step)) for step in (HALF, -HALF))
    slope: Array = (ahead - behind) / (2 * HALF)
    return slope


def _rounded(moved: sitk.Image, like: sitk.Image) -> sitk.Image:
    """`moved` on the pixel type of `like`; integers are rounded and held within their type's range."""
    dtype = _dtype(like)
    values: NDArray[Any] = sitk.GetArrayViewFromImage(moved)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    vector = like.GetNumberOfComponentsPerPixel() > 1
    return Grid.of(moved).stamp(sitk.GetImageFromArray(values.astype(dtype), isVector=vector))


def _check_default(image: sitk.Image, default: float) -> None:
    """Raise UsageError if the pixel type of `image` has no such value."""
    dtype = _dtype(image)
    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    if not (math.isfinite(default) and default == int(default) and limits.min <= default <= limits.max):
        text = f"--default-value {default:g} is no value of {dtype.name} voxels"
        raise UsageError(text, "choose a whole number in their range")


def _dtype(image: sitk.Image) -> np.dtype[Any]:
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(image).dtype
    return dtype
