"""Images, masks, label maps and fields: read with every check a single file allows, and written.

Everything is a SimpleITK object: points in mm, LPS; sizes in (x, y, z). Errors name the file on one line.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli import files, nifti
from hsyn_cli.errors import GeometryError, InputError, MemoryLimitError, OutputError
from hsyn_cli.space import Grid

MIN_SIZE = 4  # voxels along each axis that smoothing and derivatives need
SHEAR_TOLERANCE = 1e-3  # largest entry of |direction^T direction - 1|
EXACT_IN_FLOAT = 2**24  # integers from here on are not all kept by float32
FIELD_HINT = (
    "a field holds 3-component vectors on a 3-D grid; in NIfTI dim = 5,x,y,z,1,3 with intent 1007 (vector); "
    "`hsyn convert` makes one of other kinds"
)
FIELD_INTENTS = (
    nifti.INTENT_VECTOR,
    nifti.INTENT_DISPLACEMENT,
)  # ITK turns the RAS vectors of the latter to LPS

ImageLike: TypeAlias = "sitk.Image | str | os.PathLike[str]"  # what the Python API takes for an image

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's C++ warnings would go to stderr past the error line


@dataclass(frozen=True)
class Scan:
    """An image, the file it came from, and the SHA-256 of that file. `warnings` are lines for the report."""

    image: sitk.Image
    path: Path
    sha256: str
    warnings: tuple[str, ...] = ()


def read_image(path: Path, what: str = "image") -> Scan:
    """A 3-D scalar image as float32, finite and not constant. `what` names its role in messages.

    Raises InputError (missing, unreadable, truncated, not 3-D, thin, constant, NaN) or GeometryError
    (sheared or singular direction).
    """
    scan = _read(path, what, sitk.sitkFloat32)
    _check_scalar(scan.image, f"{what} {path}")
    return scan


def read_mask(path: Path, reference: sitk.Image, what: str = "mask") -> Scan:
    """A mask as uint8, 1 where the file is not 0, on the grid of `reference`.

    Raises as `read_image`; InputError if it is empty, GeometryError if its grid is another one.
    """
    scan = _read(path, what, None)
    _check_grid(scan, reference, what)
    mask = sitk.Cast(scan.image != 0, sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(
            f"{what} {path} is empty (every voxel is 0)", "a mask is not 0 where the image counts"
        )
    return Scan(mask, scan.path, scan.sha256, scan.warnings)


def read_any(path: Path, what: str = "image") -> Scan:
    """A 3-D image of scalars or vectors on its own pixel type, finite; it may be thin or constant.

    Raises as `read_image`.
    """
    scan = _read(path, what, None, components=None, least=1)
    if "float" in scan.image.GetPixelIDTypeAsString():
        values = sitk.GetArrayViewFromImage(scan.image)
        _check_finite(values, float(values.min()), float(values.max()), f"{what} {path}")
    return scan


def read_labels(path: Path, reference: sitk.Image | None, what: str = "label map") -> Scan:
    """A label map on the grid of `reference`, if there is one, as `whole_numbers` has it.

    Raises as `read_image` and `whole_numbers`; GeometryError if its grid is another one.
    """
    scan = _read(path, what, None)
    if reference is not None:
        _check_grid(scan, reference, what)
    return whole_numbers(scan, what)


def whole_numbers(scan: Scan, what: str = "label map") -> Scan:
    """A label map on its own integer type (int32 or int64 where the file holds whole numbers as floats).

    Raises InputError if values are fractional.
    """
    path = scan.path
    if "float" not in scan.image.GetPixelIDTypeAsString():
        return scan
    values = sitk.GetArrayViewFromImage(scan.image)
    low, high = float(values.min()), float(values.max())
    _check_finite(values, low, high, f"{what} {path}")
    if not np.array_equal(values, np.rint(values)):
        raise InputError(
            f"{what} {path} holds fractional values", "give a map of whole-number ids, not an image"
        )
    warnings = scan.warnings
    if max(-low, high) >= EXACT_IN_FLOAT and values.dtype == np.float32:
        warnings += (
            f"{what} {path} stores ids above {EXACT_IN_FLOAT} as float32: some may already be rounded",
        )
    integer = sitk.sitkInt32 if low >= -(2**31) and high < 2**31 else sitk.sitkInt64
    return Scan(sitk.Cast(scan.image, integer), scan.path, scan.sha256, warnings)


def read_field(path: Path, what: str = "displacement field", *, any_intent: bool = False) -> Scan:
    """A displacement field as a float32 vector image, mm, LPS. Raises as `read_image`.

    `any_intent`: also a NIfTI file that holds three numbers per voxel and does not say that they are such vectors; they are
    given as they are stored.
    """
    scan = _read(path, what, sitk.sitkVectorFloat32, components=3, any_intent=any_intent)
    values = sitk.GetArrayViewFromImage(scan.image)
    _check_finite(values, float(values.min()), float(values.max()), f"{what} {path}")
    return scan


def read_grid(path: Path, what: str = "reference image") -> Grid:
    """Where the voxels of a 3-D image or field lie, from its header alone. Raises as `read_image`."""
    name = f"{what} {path}"
    files.check_file(path, what)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _read_error(name, str(error), error) from error
    if reader.GetDimension() < 3:
        raise InputError(f"{name} is {reader.GetDimension()}-D, not 3-D", "give a volume")
    n = reader.GetDimension()
    axes = np.array(reader.GetDirection()).reshape(n, n)[:3, :3]
    grid = Grid(
        reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(axes.ravel().tolist())
    )
    _check_direction(grid, name)
    return grid


def header_warnings(path: Path, what: str) -> tuple[str, ...]:
    """The lines of `Scan.warnings` on the header of a file that has been read without trouble."""
    return _orientation_warnings(read_grid(path, what), nifti.read(path), f"{what} {path}")


def as_image(source: ImageLike, what: str) -> sitk.Image:
    """`read_image` of a path; an image in memory is held to the same rules."""
    if not isinstance(source, sitk.Image):
        return read_image(Path(source), what).image
    if source.GetDimension() != 3 or source.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"the {what} given is no scalar 3-D image", "give one volume")
    _check_scalar(source, f"the {what} given")
    return source


def as_field(source: ImageLike, what: str = "displacement field") -> sitk.Image:
    """`read_field` of a path; a field in memory is held to the same rules."""
    if not isinstance(source, sitk.Image):
        return read_field(Path(source), what).image
    check_field(source, f"the {what} given")
    return source


def as_labels(source: ImageLike, what: str) -> sitk.Image:
    """`read_labels` of a path, on any grid; a label map in memory is held to the same rules."""
    if not isinstance(source, sitk.Image):
        return read_labels(Path(source), None, what).image
    return whole_numbers(Scan(source, Path("in memory"), ""), what).image


def check_field(field: sitk.Image, name: str) -> None:
    """Raise InputError if `field` is no vector image or holds NaN: a point would be lost without a word."""
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(f"{name} is not a displacement field", FIELD_HINT)
    values = sitk.GetArrayViewFromImage(field)
    if not np.isfinite((values.min(), values.max())).all():  # five times as fast as asking every value
        raise InputError(f"{name} holds NaN or infinite values", "replace them, e.g. by 0, first")


def _check_scalar(image: sitk.Image, name: str) -> None:
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    _check_finite(values, low, high, name)
    if low == high:
        content = "all zeros" if low == 0 else f"constant (every voxel is {low:g})"
        raise InputError(f"{name} is {content}", "check that it is the right one and was exported completely")


def as_grid(source: ImageLike, what: str = "reference image") -> Grid:
    """The grid of an image, or of the file at a path."""
    return Grid.of(source) if isinstance(source, sitk.Image) else read_grid(Path(source), what)


def write_image(image: sitk.Image, path: Path, intent: int | None = None) -> None:
    """Write an image, whole or not at all, in the format of its extension; raises OutputError.

    A vector image becomes NIfTI intent 1007, components x, y, z in mm, LPS; `intent` puts another one into the header of
    a NIfTI file, and changes no value. Of NIfTI ITK writes the header alone: its own zlib takes many times as long as isal.
    """
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    with files.replacing(path) as temporary:
        files.check_space(temporary.parent, size)
        if not path.name.endswith((".nii", ".nii.gz")):
            _write_by_itk(image, temporary, path)
            return
        head = _nifti_head(image, temporary.with_name("head.nii"), path, intent)
        values = sitk.GetArrayViewFromImage(image)
        planes = values[None] if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(values, -1, 0)
        with files.writing(temporary) as write:
            write(head)
            for plane in planes:
                write(np.ascontiguousarray(plane).data)


def _write_by_itk(image: sitk.Image, target: Path, path: Path) -> None:
    """`path`: the name to tell in an error."""
    try:
        sitk.WriteImage(image, str(target), useCompression=target.suffix != ".nii")
    except RuntimeError as error:
        text = one_line(error).replace(str(target), str(path))
        raise OutputError(f"{path}: cannot be written: {text}", "is the disk full?") from error


def _nifti_head(image: sitk.Image, aside: Path, path: Path, intent: int | None) -> bytes:
    """As ITK writes it, of a small image like this one, to `aside`."""
    shape = image.GetSize()
    small = sitk.Image([min(n, 2) for n in shape], image.GetPixelID(), image.GetNumberOfComponentsPerPixel())
    small.SetSpacing(image.GetSpacing())
    small.SetOrigin(image.GetOrigin())
    small.SetDirection(image.GetDirection())
    for key in image.GetMetaDataKeys():
        small.SetMetaData(key, image.GetMetaData(key))
    _write_by_itk(small, aside, path)
    if intent is not None:
        nifti.set_intent(aside, intent)
    with aside.open("rb") as stream:
        head = nifti.read_head(stream)
    aside.unlink()
    return nifti.with_size(head, shape)


def _read(
    path: Path,
    what: str,
    pixel: int | None,
    components: int | None = 1,
    least: int = MIN_SIZE,
    any_intent: bool = False,
) -> Scan:
    """A 3-D image of `components` per voxel (None: any number) and at least `least` voxels along each axis.

    Cast to `pixel` or left on its type, its geometry checked. `any_intent`: vectors that do not say what they are will do.
    """
    name = f"{what} {path}"
    check = nifti.NonFinite()
    mark = files.fingerprint(path, what, check)
    check_content(name, mark.length, check)
    try:
        image = _execute(path, name, pixel, components, least, any_intent)
    except RuntimeError as error:
        raise _read_error(name, str(error), error) from error
    _check_direction(Grid.of(image), name)
    return Scan(image, path, mark.sha256, _orientation_warnings(Grid.of(image), check.header, name))


def _execute(
    path: Path, name: str, pixel: int | None, components: int | None, least: int, any_intent: bool
) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_shape(reader, name, components, nifti.read(path), least, any_intent)
    reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
    if pixel is not None:
        reader.SetOutputPixelType(pixel)
    stacked = components == 3 and reader.GetNumberOfComponents() == 1
    return _stacked(reader) if stacked else reader.Execute()


def _stacked(reader: Any) -> sitk.Image:
    """Three volumes along the last axis as one vector image."""
    reader.SetOutputPixelType(sitk.sitkFloat32)
    parts = []
    for k in range(3):
        reader.SetExtractIndex([*[0] * (reader.GetDimension() - 1), k])
        parts.append(reader.Execute())
    return sitk.Compose(parts)


def _check_shape(
    reader: Any,
    name: str,
    components: int | None,
    header: nifti.NiftiHeader | None,
    least: int,
    any_intent: bool,
) -> None:
    size = reader.GetSize()
    found = reader.GetNumberOfComponents()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} holds complex numbers", "give the magnitude")
    stacked = components == 3 and found == 1 and header is not None and header.stacks_vectors
    if stacked and header and header.intent == nifti.INTENT_DISPLACEMENT:  # ITK would negate single values
        raise InputError(
            f"{name} has intent 1006, but its vectors do not stand along the fifth axis",
            "save it as x, y, z, 1, 3, or without an intent",
        )
    if stacked and not any_intent:
        raise InputError(
            f"{name} does not say what its vectors are (intent {header.intent if header else 0}, not 1007)",
            "if they are mm in LPS: hsyn convert IN OUT --from itk; else --from ras, voxel or fsl",
        )
    foreign = found == 3 and header is not None and header.intent not in FIELD_INTENTS and not any_intent
    if components == 3 and ((found != 3 and not stacked) or foreign):
        shape = " x ".join(map(str, header.dim if header else size))
        intent = f", intent {header.intent}" if header else ""
        raise InputError(
            f"{name} is not a displacement field ({shape}, {found} component(s){intent})", FIELD_HINT
        )
    if components == 1 and found != 1:
        hint = "give one scalar image; for a displacement field use the option for fields"
        raise InputError(f"{name} has {found} components per voxel (colour or vectors), not one", hint)
    shape = " x ".join(map(str, size))
    if len(size) < 3:
        raise InputError(f"{name} is {len(size)}-D ({shape}), not 3-D", "give a volume, not a slice")
    if any(extent > 1 for extent in size[3:]) and not stacked:
        raise InputError(f"{name} is {len(size)}-D ({shape}), not 3-D", "extract one volume first")
    thin = min(size[:3])
    if thin < least:
        thickness = "one voxel" if thin == 1 else f"{thin} voxels"
        hint = f"at least {least} voxels are needed along every axis"
        raise InputError(f"{name} is only {thickness} thick ({shape})", hint)


def check_content(name: str, length: int, check: nifti.NonFinite) -> None:
    """Raise InputError if a NIfTI file shown to `check` has fewer bytes than its header tells, or holds NaN."""
    if check.header and length < check.header.length:
        missing = f"{length} of {check.header.length} bytes"
        raise InputError(f"{name} is truncated ({missing})", "copy or download the file again")
    if check.count:
        raise not_finite(name, check.count)


def _check_finite(values: np.ndarray[Any, Any], low: float, high: float, name: str) -> None:
    if not (np.isfinite(low) and np.isfinite(high)):
        raise not_finite(name, int((~np.isfinite(values)).sum()))


def not_finite(name: str, count: int) -> InputError:
    """The error of a file that holds NaN or infinity."""
    return InputError(f"{name} holds {count} NaN or infinite value(s)", "replace them, e.g. by 0, first")


def _check_direction(grid: Grid, name: str) -> None:
    if not np.isfinite((*grid.spacing, *grid.origin, *grid.direction)).all() or min(grid.spacing) <= 0:
        raise GeometryError(
            f"{name} has a header without usable spacing, origin or direction", "repair the header"
        )
    if np.abs(grid.axes.T @ grid.axes - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise GeometryError(f"{name} has sheared axes", "resample it to a grid with perpendicular axes")


def _check_grid(scan: Scan, reference: sitk.Image, what: str) -> None:
    own, other = Grid.of(scan.image), Grid.of(reference)
    if not own.same_as(other):
        detail = "size " + " x ".join(map(str, own.size)) + " against " + " x ".join(map(str, other.size))
        if own.size == other.size:
            detail = "same size, but another spacing, origin or direction"
        raise GeometryError(
            f"{what} {scan.path} lies on another grid than its image ({detail})", "resample it first"
        )


def _orientation_warnings(grid: Grid, header: nifti.NiftiHeader | None, name: str) -> tuple[str, ...]:
    if header is None:
        return ()
    if header.qform is None and header.sform is None:
        return (
            f"{name}: the header gives no orientation (qform and sform codes are 0); LPS axes are assumed",
        )
    apart = header.disagreement()
    if header.qform is None or header.sform is None or apart <= 0.1 * min(grid.spacing):
        return ()
    used = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack([grid.index_to_point, grid.origin])  # RAS
    to_q, to_s = (float(np.abs(used - form[:3]).max()) for form in (header.qform, header.sform))
    choice = "sform" if to_s < to_q else "qform"
    return (f"{name}: sform and qform disagree by up to {apart:.1f} mm; the {choice} is used",)


def _read_error(name: str, text: str, error: Exception) -> InputError | GeometryError | MemoryLimitError:
    if "orthonormal" in text or "Bad direction" in text:
        return GeometryError(
            f"{name} has a singular or sheared direction", "repair the header or resample the image"
        )
    if "allocate" in text or "bad_alloc" in text:
        return MemoryLimitError(
            f"{name} does not fit into memory", "use a machine with more, or resample it coarser"
        )
    if "Unable to determine ImageIO" in text:
        if any(ending in name for ending in (".mat", ".txt", ".tfm")):
            return InputError(
                f"{name} is no image file", "of a transform, `hsyn compose -t FILE -r IMAGE` makes a field"
            )
        field = ".h5" in name
        hint = (
            "`hsyn convert` makes an image file of a field in it"
            if field
            else "use NIfTI, NRRD, MHA or another such format"
        )
        return InputError(f"{name} is not an image that SimpleITK can read", hint)
    return InputError(f"{name} cannot be read: {one_line(error)}", "check that the file is complete")


def one_line(error: Exception) -> str:
    """What ITK meant, without its source path, class and address."""
    text = re.split(r"(?:ITK|sitk::)\s*ERROR:", str(error))[-1]
    return re.sub(r"\w+\(0x[0-9a-f]+\):", "", " ".join(text.split())).strip()[:200]
