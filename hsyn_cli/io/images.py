"""Read images, masks, label maps and fields, with every check that a single file allows.

All are SimpleITK images: points in mm, LPS; sizes in (x, y, z). An error is one line with the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import fields_said, headers, nan, voxels
from hsyn_cli.io.checks import (
    MIN_SIZE,
    check_direction,
    check_field,
    check_finite,
    check_grid,
    check_says_field,
    check_scalar,
    check_shape,
)
from hsyn_cli.io.composites import total_field
from hsyn_cli.io.endings import HDF5, IMAGES, ends, quoted
from hsyn_cli.io.headers import INTENT_DISPLACEMENT, Header
from hsyn_cli.io.transforms import read_any_transform
from hsyn_cli.space import Grid, flip_ras
from hsyn_cli.space.planes import raised, with_third

EXACT_IN_FLOAT = 2**24  # float32 cannot hold all integers above this

ImageLike: TypeAlias = "sitk.Image | str | os.PathLike[str]"  # an image in the Python API

# ITK's C++ warnings would appear on stderr beside the error line.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class Scan:
    """An image, its file and the SHA-256 of the file. `warnings`: lines for the report.

    Of a header and its voxels in two files, the SHA-256 is that of both, one after the other.
    """

    image: sitk.Image
    path: Path
    sha256: str
    warnings: tuple[str, ...] = ()


def read_image(path: Path, what: str = "image") -> Scan:
    """A scalar image as float32, finite and not constant. `what`: its role in messages.

    NaN that reaches the border of the image is background and becomes dark, with a warning.
    Raises InputError (missing, unreadable, truncated, not 2-D or 3-D, thin, constant, NaN) or
    GeometryError (sheared or singular direction).
    """
    scan = _without_nan(_read(path, what, sitk.sitkFloat32), what)
    check_scalar(scan.image, f"{what} {path}")
    return scan


def _without_nan(scan: Scan, what: str) -> Scan:
    """A scalar image in which NaN at the border is replaced. Raises InputError for other NaN."""
    image, lines = nan.as_background(scan.image, f"{what} {scan.path}")
    return Scan(image, scan.path, scan.sha256, scan.warnings + lines)


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
    values = sitk.GetArrayViewFromImage(image)
    check_finite(values, float(values.min()), float(values.max()), name)
    mask = Grid.of(image).stamp(sitk.Cast(image != 0, sitk.sitkUInt8))
    if not sitk.GetArrayViewFromImage(mask).any():
        text = f"{name} is empty (every voxel is 0)"
        raise InputError(text, "a mask must be nonzero where the image counts")
    return mask


def read_any(path: Path, what: str = "image") -> Scan:
    """An image of scalars or vectors in its own pixel type, finite; it may be thin or constant.

    Raises the errors of `read_image`.
    """
    scan = _read(path, what, None, components=None, least=1)
    if scan.image.GetNumberOfComponentsPerPixel() == 1:
        return _without_nan(scan, what)
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
    if max(-low, high) >= 2**63:
        raise InputError(f"{what} {path} holds ids beyond 64 bits", "check its scaling (scl_slope)")
    warnings = scan.warnings
    if max(-low, high) >= EXACT_IN_FLOAT and values.dtype == np.float32:
        warnings += (
            f"{what} {path} stores ids above {EXACT_IN_FLOAT} as float32: some may already be "
            "rounded",
        )
    integer = sitk.sitkInt32 if low >= -(2**31) and high < 2**31 else sitk.sitkInt64
    labels = Grid.of(scan.image).stamp(sitk.Cast(scan.image, integer))
    return Scan(labels, scan.path, scan.sha256, warnings)


def read_field(path: Path, what: str = "displacement field", *, either_way: bool = False) -> Scan:
    """A displacement field as a float32 vector image, mm, LPS; of .h5, see `total_field`.

    `either_way`: also read a field that says that it leads from moving to fixed points.
    Raises the errors of `read_image`, and InputError for vectors that are no displacements.
    """
    name = f"{what} {path}"
    if ends(path, HDF5):
        transform, sha256, dimension = read_any_transform(path, what)
        field = total_field(transform, dimension, path, what)
        image = Grid.of(field).stamp(sitk.Cast(field, sitk.sitkVectorFloat32))
        return Scan(image, path, sha256)
    scan, header = _read_vectors(path, what, named=False)
    if fields_said.points_back(header):
        text = f"{name} says that it leads from moving to fixed points (modeling)"
        if not either_way:
            raise InputError(text, f"invert it first: hsyn invert {quoted(path)} -o field.nii.gz")
        scan = Scan(scan.image, path, scan.sha256, (*scan.warnings, text))
    if header.intent.code == INTENT_DISPLACEMENT:
        flipped = sitk.GetArrayFromImage(scan.image)
        image = Grid.of(scan.image).stamp(sitk.GetImageFromArray(flip_ras(flipped), isVector=True))
        return Scan(image, path, scan.sha256, scan.warnings)
    form = None if header.intent.name == fields_said.NAME else fields_said.absolute(scan.image)
    if form is not None:
        raise fields_said.seem_positions(name, path, form, "itk")
    return scan


def says_displacements(path: Path) -> bool:
    """True for an image file that says of its vectors that they are displacements."""
    return ends(path, IMAGES) and headers.read(path).intent.name == fields_said.NAME


def read_vectors(path: Path, named: bool) -> tuple[Scan, Header]:
    """Three numbers per voxel as the file has them, float32; its header.

    `named`: the user said what they are, so that the header has no say.
    """
    return _read_vectors(path, "displacement field", named)


def _read_vectors(path: Path, what: str, named: bool) -> tuple[Scan, Header]:
    name = f"{what} {path}"
    header = headers.read(path, what)
    if not named:
        check_says_field(header, name)
    check_shape(header, name, 3, MIN_SIZE)
    scan = _load(header, what, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(scan.image)
    check_finite(values, float(values.min()), float(values.max()), name)
    if scan.image.GetPixelID() != sitk.sitkVectorFloat32:
        image = Grid.of(scan.image).stamp(sitk.Cast(scan.image, sitk.sitkVectorFloat32))
        scan = Scan(image, path, scan.sha256, scan.warnings)
    return scan, header


def read_grid(path: Path, what: str = "reference image") -> Grid:
    """The grid of an image or field from its header alone. Raises the errors of `read_image`."""
    return _checked_header(path, what).grid


def header_warnings(path: Path, what: str) -> tuple[str, ...]:
    """`Scan.warnings` about the header of a file that passed all checks."""
    if ends(path, HDF5):
        return ()
    return _notes(headers.read(path, what), what)


def _notes(header: Header, what: str) -> tuple[str, ...]:
    return tuple(f"{what} {header.path}: {note}" for note in header.notes)


def _checked_header(path: Path, what: str) -> Header:
    header = headers.read(path, what)
    name = f"{what} {path}"
    check_direction(header.grid, name)
    if header.axes < 2:
        raise InputError(f"{name} is 1-D ({header.shape}), not 2-D or 3-D", "give an image")
    return header


def as_image(source: ImageLike, what: str) -> sitk.Image:
    """`read_image` for a path; the same checks for an image in memory."""
    if not isinstance(source, sitk.Image):
        return read_image(Path(source), what).image
    source = _scalar(source, what)
    check_scalar(source, f"the {what} given")
    return source


def _scalar(source: sitk.Image, what: str) -> sitk.Image:
    """A scalar 2-D or 3-D image in memory as `raised`. Raises InputError for any other."""
    if source.GetDimension() not in (2, 3) or source.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"the {what} given is no scalar 2-D or 3-D image", "give one volume")
    return raised(source)


def as_mask(source: ImageLike, reference: sitk.Image, what: str) -> sitk.Image:
    """`read_mask` for a path; the same checks for a mask in memory."""
    if not isinstance(source, sitk.Image):
        return read_mask(Path(source), reference, what).image
    return _checked_mask(_scalar(source, what), reference, f"the {what} given")


def as_field(source: ImageLike, what: str = "displacement field") -> sitk.Image:
    """`read_field` for a path; the same checks for a field in memory."""
    if not isinstance(source, sitk.Image):
        return read_field(Path(source), what).image
    source = raised(source)
    check_field(source, f"the {what} given")
    return source


def as_labels(source: ImageLike, what: str) -> sitk.Image:
    """`read_labels` for a path, on any grid; the same checks for a label map in memory."""
    if not isinstance(source, sitk.Image):
        return read_labels(Path(source), None, what).image
    return whole_numbers(Scan(raised(source), Path("in memory"), ""), what).image


def as_grid(source: ImageLike, what: str = "reference image") -> Grid:
    """The grid of an image or of a file."""
    if isinstance(source, sitk.Image):
        return Grid.of(raised(source))
    return read_grid(Path(source), what)


def _read(
    path: Path, what: str, pixel: int | None, components: int | None = 1, least: int = MIN_SIZE
) -> Scan:
    """Read an image and check its shape and geometry.

    Args:
        pixel: sitk.sitkFloat32; None: keep the type of the file.
        components: numbers per voxel; None: any.
        least: voxels along each axis.
    """
    header = headers.read(path, what)
    check_shape(header, f"{what} {path}", components, least)
    return _load(header, what, pixel)


def _load(header: Header, what: str, pixel: int | None) -> Scan:
    name = f"{what} {header.path}"
    check_direction(header.grid, name)
    image, sha256 = voxels.load(header, what, pixel)
    if header.grid.dimension == 2 and image.GetNumberOfComponentsPerPixel() == 2:
        image = header.grid.stamp(with_third(image))
    if header.intent.code == INTENT_DISPLACEMENT and header.components == 3 and pixel is None:
        flipped = flip_ras(sitk.GetArrayFromImage(image))
        image = header.grid.stamp(sitk.GetImageFromArray(flipped, isVector=True))
    return Scan(image, header.path, sha256, _notes(header, what))
