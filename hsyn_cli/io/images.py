"""Read images, masks, label maps and fields, with every check that a single file allows.

All are SimpleITK images: points in mm, LPS; sizes in (x, y, z). An error is one line with the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import files, nifti
from hsyn_cli.io.checks import (
    MIN_SIZE,
    check_content,
    check_direction,
    check_field,
    check_finite,
    check_grid,
    check_scalar,
    check_shape,
    orientation_warnings,
    read_error,
)
from hsyn_cli.space import Grid

EXACT_IN_FLOAT = 2**24  # float32 cannot hold all integers above this

ImageLike: TypeAlias = "sitk.Image | str | os.PathLike[str]"  # an image in the Python API

# ITK's C++ warnings would appear on stderr beside the error line.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class Scan:
    """An image, its file and the SHA-256 of the file. `warnings`: lines for the report."""

    image: sitk.Image
    path: Path
    sha256: str
    warnings: tuple[str, ...] = ()


def read_image(path: Path, what: str = "image") -> Scan:
    """A 3-D scalar image as float32, finite and not constant. `what`: its role in messages.

    Raises InputError (missing, unreadable, truncated, not 3-D, thin, constant, NaN) or
    GeometryError (sheared or singular direction).
    """
    scan = _read(path, what, sitk.sitkFloat32)
    check_scalar(scan.image, f"{what} {path}")
    return scan


def read_mask(path: Path, reference: sitk.Image, what: str = "mask") -> Scan:
    """A mask as uint8, 1 where the file is not 0, on the grid of `reference`.

    Raises the errors of `read_image`, InputError for an empty mask, and GeometryError for another
    grid.
    """
    scan = _read(path, what, None)
    mask = _checked_mask(scan.image, reference, f"{what} {path}")
    return Scan(mask, scan.path, scan.sha256, scan.warnings)


def _checked_mask(image: sitk.Image, reference: sitk.Image, name: str) -> sitk.Image:
    check_grid(image, reference, name)
    mask = sitk.Cast(image != 0, sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(mask).any():
        text = f"{name} is empty (every voxel is 0)"
        raise InputError(text, "a mask must be nonzero where the image counts")
    return mask


def read_any(path: Path, what: str = "image") -> Scan:
    """A 3-D image of scalars or vectors in its own pixel type, finite; it may be thin or constant.

    Raises the errors of `read_image`.
    """
    scan = _read(path, what, None, components=None, least=1)
    if "float" in scan.image.GetPixelIDTypeAsString():
        values = sitk.GetArrayViewFromImage(scan.image)
        check_finite(values, float(values.min()), float(values.max()), f"{what} {path}")
    return scan


def read_labels(path: Path, reference: sitk.Image | None, what: str = "label map") -> Scan:
    """A label map with the pixel type of `whole_numbers`, on the grid of `reference` if given.

    Raises the errors of `read_image` and `whole_numbers`, and GeometryError for another grid.
    """
    scan = _read(path, what, None)
    if reference is not None:
        check_grid(scan.image, reference, f"{what} {path}")
    return whole_numbers(scan, what)


def whole_numbers(scan: Scan, what: str = "label map") -> Scan:
    """A label map in its own integer type, or in int32 or int64 if the file holds floats.

    Raises InputError if a value is fractional.
    """
    path = scan.path
    if "float" not in scan.image.GetPixelIDTypeAsString():
        return scan
    values = sitk.GetArrayViewFromImage(scan.image)
    low, high = float(values.min()), float(values.max())
    check_finite(values, low, high, f"{what} {path}")
    if not np.array_equal(values, np.rint(values)):
        raise InputError(
            f"{what} {path} holds fractional values", "give a map of whole-number ids, not an image"
        )
    warnings = scan.warnings
    if max(-low, high) >= EXACT_IN_FLOAT and values.dtype == np.float32:
        warnings += (
            f"{what} {path} stores ids above {EXACT_IN_FLOAT} as float32: some may already be "
            "rounded",
        )
    integer = sitk.sitkInt32 if low >= -(2**31) and high < 2**31 else sitk.sitkInt64
    return Scan(sitk.Cast(scan.image, integer), scan.path, scan.sha256, warnings)


def read_field(path: Path, what: str = "displacement field", *, any_intent: bool = False) -> Scan:
    """A displacement field as a float32 vector image, mm, LPS. Raises the errors of `read_image`.

    `any_intent`: also read a NIfTI file with three numbers per voxel whose intent is another one,
    and return the numbers as stored.
    """
    scan = _read(path, what, sitk.sitkVectorFloat32, components=3, any_intent=any_intent)
    values = sitk.GetArrayViewFromImage(scan.image)
    check_finite(values, float(values.min()), float(values.max()), f"{what} {path}")
    return scan


def read_grid(path: Path, what: str = "reference image") -> Grid:
    """The grid of a 3-D image or field from its header alone. Raises the errors of `read_image`."""
    name = f"{what} {path}"
    files.check_file(path, what)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise read_error(name, str(error), error) from error
    if reader.GetDimension() < 3:
        raise InputError(f"{name} is {reader.GetDimension()}-D, not 3-D", "give a volume")
    n = reader.GetDimension()
    axes = np.array(reader.GetDirection()).reshape(n, n)[:3, :3]
    grid = Grid(
        reader.GetSize()[:3],
        reader.GetSpacing()[:3],
        reader.GetOrigin()[:3],
        tuple(axes.ravel().tolist()),
    )
    check_direction(grid, name)
    return grid


def header_warnings(path: Path, what: str) -> tuple[str, ...]:
    """`Scan.warnings` about the header of a file that passed all checks."""
    return orientation_warnings(read_grid(path, what), nifti.read(path), f"{what} {path}")


def as_image(source: ImageLike, what: str) -> sitk.Image:
    """`read_image` for a path; the same checks for an image in memory."""
    if not isinstance(source, sitk.Image):
        return read_image(Path(source), what).image
    if source.GetDimension() != 3 or source.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"the {what} given is no scalar 3-D image", "give one volume")
    check_scalar(source, f"the {what} given")
    return source


def as_mask(source: ImageLike, reference: sitk.Image, what: str) -> sitk.Image:
    """`read_mask` for a path; the same checks for a mask in memory."""
    if not isinstance(source, sitk.Image):
        return read_mask(Path(source), reference, what).image
    if source.GetDimension() != 3 or source.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"the {what} given is no scalar 3-D image", "give one volume")
    return _checked_mask(source, reference, f"the {what} given")


def as_field(source: ImageLike, what: str = "displacement field") -> sitk.Image:
    """`read_field` for a path; the same checks for a field in memory."""
    if not isinstance(source, sitk.Image):
        return read_field(Path(source), what).image
    check_field(source, f"the {what} given")
    return source


def as_labels(source: ImageLike, what: str) -> sitk.Image:
    """`read_labels` for a path, on any grid; the same checks for a label map in memory."""
    if not isinstance(source, sitk.Image):
        return read_labels(Path(source), None, what).image
    return whole_numbers(Scan(source, Path("in memory"), ""), what).image


def as_grid(source: ImageLike, what: str = "reference image") -> Grid:
    """The grid of an image or of a file."""
    return Grid.of(source) if isinstance(source, sitk.Image) else read_grid(Path(source), what)


def _read(
    path: Path,
    what: str,
    pixel: int | None,
    components: int | None = 1,
    least: int = MIN_SIZE,
    any_intent: bool = False,
) -> Scan:
    """Read a 3-D image and check its content and geometry.

    Args:
        pixel: type to cast to; None: keep the type of the file.
        components: numbers per voxel; None: any.
        least: voxels along each axis.
        any_intent: accept a NIfTI file whose intent does not mark its vectors as a field.
    """
    name = f"{what} {path}"
    check = nifti.NonFinite()
    mark = files.fingerprint(path, what, check)
    check_content(name, mark.length, check)
    try:
        image = _execute(path, name, pixel, components, least, any_intent)
    except RuntimeError as error:
        raise read_error(name, str(error), error) from error
    check_direction(Grid.of(image), name)
    return Scan(image, path, mark.sha256, orientation_warnings(Grid.of(image), check.header, name))


def _execute(
    path: Path, name: str, pixel: int | None, components: int | None, least: int, any_intent: bool
) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_shape(reader, name, components, nifti.read(path), least, any_intent)
    reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
    if pixel is not None:
        reader.SetOutputPixelType(pixel)
    stacked = components == 3 and reader.GetNumberOfComponents() == 1
    return _stacked(reader) if stacked else reader.Execute()


def _stacked(reader: Any) -> sitk.Image:
    """Read three volumes along the last axis as one vector image."""
    reader.SetOutputPixelType(sitk.sitkFloat32)
    parts = []
    for k in range(3):
        reader.SetExtractIndex([*[0] * (reader.GetDimension() - 1), k])
        parts.append(reader.Execute())
    return sitk.Compose(parts)
