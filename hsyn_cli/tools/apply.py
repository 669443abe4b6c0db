"""Move images through a transform or a chain of transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.errors import UsageError
from hsyn_cli.io import images
from hsyn_cli.io.images import ImageLike, as_labels
from hsyn_cli.space import Array, Grid
from hsyn_cli.space.planes import lowered, raised
from hsyn_cli.tools import chain, gaussian, held, labels, sinc
from hsyn_cli.tools.chain import Given
from hsyn_cli.tools.mapping import mapped_points

INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "bspline": sitk.sitkBSpline,  # third order
    **{f"bspline{k}": getattr(sitk, f"sitkBSpline{k}") for k in range(1, 6)},
}
GAUSSIAN = {"gaussian": 1.0, "multilabel": 4.0}  # {name: where ANTs cuts it off, in sigmas}
FOR_LABELS = ("label", "multilabel")
EXACT = ("nearest", *FOR_LABELS)  # they give only values of the image
DOUBLE = (sitk.sitkFloat64, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkUInt64)
PIXELS = ("int8", "uint8", "int16", "int32", "float32", "float64")  # of `Settings.pixel`
HALF = 0.4  # voxels to each side in the difference for the Jacobian


@dataclass(frozen=True)
class Settings:
    """Settings of the interpolation.

    Attributes:
        interpolation: one of INTERPOLATORS, GAUSSIAN or `sinc.WINDOWS`, or "label".
        default: the value outside the image.
        keep_type: round to the pixel type of the image; else the result is float32. "nearest" and
            "label" always keep the type.
        reorient: rotate vectors with the transform.
        pixel: one of PIXELS, which the result gets, rounded; "": as `keep_type` says.
        sigma, alpha: of GAUSSIAN, see `gaussian.Window`; alpha None: as there.
        holds: what the image must hold, one of `held.HOLDS`; "": anything.
    """

    interpolation: str = "linear"
    default: float = 0.0
    keep_type: bool = False
    reorient: bool = False
    pixel: str = ""
    holds: str = ""
    sigma: tuple[float, ...] = ()
    alpha: float | None = None

    def __post_init__(self) -> None:
        known = (*INTERPOLATORS, *GAUSSIAN, *sinc.WINDOWS, "label")
        if self.interpolation not in known:
            raise UsageError(
                f"unknown interpolation {self.interpolation!r}", f"choose one of {', '.join(known)}"
            )
        if self.pixel not in ("", *PIXELS):
            raise UsageError(
                f"unknown pixel type {self.pixel!r}", f"choose one of {', '.join(PIXELS)}"
            )
        if self.holds not in ("", *held.HOLDS):
            hint = f"choose one of {', '.join(held.HOLDS)}"
            raise UsageError(f"unknown content {self.holds!r}", hint)

    def window(self, grid: Grid) -> gaussian.Window:
        """Of a GAUSSIAN, for an image on `grid`. Raises UsageError."""
        alpha = GAUSSIAN[self.interpolation] if self.alpha is None else self.alpha
        numbers = "x".join(f"{v:g}" for v in self.sigma) or "(a voxel)"
        text = (
            f"{self.interpolation} cannot have the sigma {numbers} mm, cut off at {alpha:g} of it"
        )
        positive = all(0 < v < math.inf for v in (alpha, *self.sigma))
        if len(self.sigma) not in (0, 1, grid.dimension) or not positive:
            raise UsageError(text, "give one above 0, or one per axis")
        sigma = (*self.sigma, *self.sigma[:1] * (len(self.sigma) == 2))
        window = gaussian.Window.of(grid, sigma, alpha)
        near, far = window.cut[: grid.dimension].min(), window.cut[: grid.dimension].max()
        if near < gaussian.NEAREST or far > gaussian.FARTHEST:
            reach = near if near < gaussian.NEAREST else far
            hint = f"give others, that reach {gaussian.NEAREST:g} to {gaussian.FARTHEST} voxels"
            raise UsageError(f"{text}: it reaches {reach:.3g} voxels", hint)
        return window


def move(
    image: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    settings: Settings,
    progress: Callable[[float], None] = lambda share: None,
) -> sitk.Image:
    """Sample `image` at transform(p) for every voxel p of `reference`.

    `progress` gets the share done, of the slow GAUSSIAN. Raises UsageError for settings that do not
    fit the image.
    """
    parts = image.GetNumberOfComponentsPerPixel()
    exact = settings.interpolation in EXACT
    if settings.reorient and parts != 3:
        raise UsageError(
            "--reorient rotates 3-component vectors, which this image has not", "omit --reorient"
        )
    pixel = np.dtype(settings.pixel) if settings.pixel else None
    if pixel is not None:
        _check_default(pixel, settings.default)
        _check_range(image, pixel)
    elif settings.keep_type and not exact:
        pixel = _dtype(image)
    if exact or settings.keep_type:
        _check_default(_dtype(image), settings.default)
    if settings.interpolation in FOR_LABELS:
        if parts != 1:
            raise UsageError(
                "a label map has one value per voxel, not vectors", "choose another --interpolation"
            )
        given = (image, reference, transform, int(settings.default))
        if settings.interpolation == "label":
            moved = labels.resample(*given)
        else:
            moved = gaussian.resample_labels(*given, settings.window(Grid.of(image)), progress)
    else:
        moved = reference.stamp(_resample(image, reference, transform, settings, progress))
    if settings.reorient:
        moved = _reorient(moved, reference, transform)
    return moved if pixel is None else _rounded(moved, pixel)


def _resample(
    image: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    settings: Settings,
    progress: Callable[[float], None],
) -> sitk.Image:
    """Resample vectors component by component: ITK has B-splines only for scalars."""
    parts = image.GetNumberOfComponentsPerPixel()
    if parts > 1:
        return sitk.Compose(
            [
                _resample(
                    sitk.VectorIndexSelectionCast(image, k), reference, transform, settings,
                    lambda share, k=k: progress((k + share) / parts),  # type: ignore[misc]
                )
                for k in range(parts)
            ]
        )  # fmt: skip
    pixel = image.GetPixelID()
    if settings.interpolation not in EXACT:
        double = settings.pixel in ("int32", "float64") or (settings.keep_type and pixel in DOUBLE)
        pixel = sitk.sitkFloat64 if double else sitk.sitkFloat32
    if settings.interpolation == "gaussian":
        window = settings.window(Grid.of(image))
        return gaussian.resample(
            image, reference, transform, settings.default, pixel, window, progress
        )
    if settings.interpolation in sinc.WINDOWS:
        given = (settings.default, pixel, settings.interpolation)
        return sinc.resample(image, reference, transform, *given)
    grid = (reference.origin, reference.spacing, reference.direction)
    interpolator = INTERPOLATORS[settings.interpolation]
    return sitk.Resample(
        image, reference.size, transform, interpolator, *grid, settings.default, pixel
    )


def _reorient(vectors: sitk.Image, reference: Grid, transform: sitk.Transform) -> sitk.Image:
    """Rotate vectors (mm LPS) from the frame of the input image to that of the reference.

    Lengths stay. With the transform's Jacobian J = U S V^T, the local rotation is V U^T: the finite
    strain of the inverse.
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


def _rounded(moved: sitk.Image, dtype: np.dtype[Any]) -> sitk.Image:
    """Convert to a pixel type; integers are rounded and clipped to their range."""
    values: NDArray[Any] = sitk.GetArrayViewFromImage(moved)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    vector = moved.GetNumberOfComponentsPerPixel() > 1
    return Grid.of(moved).stamp(sitk.GetImageFromArray(values.astype(dtype), isVector=vector))


def _check_default(dtype: np.dtype[Any], default: float) -> None:
    """Raise UsageError if the pixel type has no such value."""
    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    if not (
        math.isfinite(default) and default == int(default) and limits.min <= default <= limits.max
    ):
        text = f"--default-value {default:g} is no value for {dtype.name} voxels"
        raise UsageError(text, "choose a whole number in their range")


def _check_range(image: sitk.Image, dtype: np.dtype[Any]) -> None:
    """Raise UsageError if the values of `image` do not fit into an integer type."""
    if not np.issubdtype(dtype, np.integer):
        return
    values, limits = sitk.GetArrayViewFromImage(image), np.iinfo(dtype)
    low, high = float(values.min()), float(values.max())
    if round(low) < limits.min or round(high) > limits.max:
        text = f"the values, from {low:g} to {high:g}, do not fit into {dtype.name}"
        raise UsageError(text, "choose a larger pixel type")


def _dtype(image: sitk.Image) -> np.dtype[Any]:
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(image).dtype
    return dtype


def apply_field(
    image: ImageLike,
    transforms: Given | Sequence[Given],
    reference: ImageLike | None = None,
    *,
    interpolation: str = "linear",
    default: float = 0.0,
    keep_type: bool = False,
    reorient: bool = False,
) -> sitk.Image:
    """Sample `image` where the chain takes the voxels of `reference`.

    Args:
        transforms: one, or several in antsApplyTransforms' order, so the voxels go through the
            first one first: SimpleITK transforms, fields, paths, "[affine.mat,1]".
        reference: image whose grid the result gets; None: the grid of the first transform, if that
            is a field.
        interpolation: "linear", "nearest", "bspline", "lanczos", or "label" for label maps.
        default: value outside the image.
        keep_type: round to the pixel type of the image; else the result is float32. "nearest" and
            "label" always keep the type.
        reorient: rotate the vectors of a vector image.

    Raises:
        InputError, GeometryError, UsageError: see `errors`.
    """
    links = chain.read_any(transforms)
    grid = chain.grid_for(links, reference)
    in_memory = isinstance(image, sitk.Image)
    picture = raised(image) if in_memory else images.read_any(Path(image)).image
    if interpolation in FOR_LABELS:
        picture = as_labels(picture, "label map")
    chain.check_image(links, grid, Grid.of(picture), "given")
    settings = Settings(interpolation, default, keep_type, reorient)
    return lowered(move(picture, grid, links.transform, settings))
