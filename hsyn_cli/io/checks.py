"""Checks of images and their headers. Each raises one clear error."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError, MemoryLimitError
from hsyn_cli.io import nifti
from hsyn_cli.io.endings import HDF5, TRANSFORMS, ends
from hsyn_cli.space import Grid

MIN_SIZE = 4  # voxels along each axis; smoothing and derivatives need so many
SHEAR_TOLERANCE = 1e-3  # largest entry of |direction^T direction - 1|
FIELD_HINT = (
    "a field holds 3-component vectors on a 3-D grid; in NIfTI dim = 5,x,y,z,1,3 with intent 1007 "
    "(vector); `hsyn convert` makes one from fields of other kinds"
)
# ITK turns the RAS vectors of INTENT_DISPLACEMENT to LPS.
FIELD_INTENTS = (nifti.INTENT_VECTOR, nifti.INTENT_DISPLACEMENT)


def check_field(field: sitk.Image, name: str) -> None:
    """Raise InputError if `field` is no vector image or holds NaN, which silently loses points."""
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(f"{name} is not a displacement field", FIELD_HINT)
    values = sitk.GetArrayViewFromImage(field)
    # Five times as fast as a check of every value.
    if not np.isfinite((values.min(), values.max())).all():
        raise InputError(f"{name} holds NaN or infinite values", "replace them, e.g. by 0, first")


def check_scalar(image: sitk.Image, name: str) -> None:
    """Raise InputError if a scalar image holds NaN or infinity, or is constant."""
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    check_finite(values, low, high, name)
    if low == high:
        content = "all zeros" if low == 0 else f"constant (every voxel is {low:g})"
        raise InputError(
            f"{name} is {content}", "check that it is the right one and was exported completely"
        )


def check_shape(
    reader: Any,
    name: str,
    components: int | None,
    header: nifti.NiftiHeader | None,
    least: int,
    any_intent: bool,
) -> None:
    """Raise InputError unless the file of `reader` has the shape that `images._read` wants."""
    size = reader.GetSize()
    parts = reader.GetNumberOfComponents()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} holds complex numbers", "give the magnitude")
    stacked = components == 3 and parts == 1 and header is not None and header.stacks_vectors
    # ITK would negate single values.
    if stacked and header and header.intent == nifti.INTENT_DISPLACEMENT:
        raise InputError(
            f"{name} has intent 1006, but its vectors do not stand along the fifth axis",
            "save it as x, y, z, 1, 3, or without an intent",
        )
    if stacked and not any_intent:
        intent = f"intent {header.intent if header else 0}, not 1007"
        raise InputError(
            f"{name} does not say what its vectors are ({intent})",
            "if they are mm in LPS: hsyn convert IN OUT --from itk; else --from ras, voxel or fsl",
        )
    foreign = (
        parts == 3 and header is not None and header.intent not in FIELD_INTENTS and not any_intent
    )
    if components == 3 and ((parts != 3 and not stacked) or foreign):
        shape = " x ".join(map(str, header.dim if header else size))
        intent = f", intent {header.intent}" if header else ""
        raise InputError(
            f"{name} is not a displacement field ({shape}, {parts} component(s){intent})",
            FIELD_HINT,
        )
    if components == 1 and parts != 1:
        hint = "give one scalar image; for a displacement field use the option for fields"
        raise InputError(
            f"{name} has {parts} components per voxel (colour or vectors), not one", hint
        )
    shape = " x ".join(map(str, size))
    if len(size) < 3:
        raise InputError(
            f"{name} is {len(size)}-D ({shape}), not 3-D", "give a volume, not a slice"
        )
    if any(extent > 1 for extent in size[3:]) and not stacked:
        raise InputError(f"{name} is {len(size)}-D ({shape}), not 3-D", "extract one volume first")
    thin = min(size[:3])
    if thin < least:
        thickness = "one voxel" if thin == 1 else f"{thin} voxels"
        hint = f"an image needs at least {least} voxels along every axis"
        raise InputError(f"{name} is only {thickness} thick ({shape})", hint)


def check_content(name: str, length: int, check: nifti.NonFinite) -> None:
    """Raise InputError if a NIfTI file is shorter than its header says, or holds NaN or infinity.

    `length`: bytes of the gunzipped file, all of which went through `check`.
    """
    if check.header and length < check.header.length:
        missing = f"{length} of {check.header.length} bytes"
        raise InputError(f"{name} is truncated ({missing})", "copy or download the file again")
    if check.count:
        raise not_finite(name, check.count)


def check_finite(values: np.ndarray[Any, Any], low: float, high: float, name: str) -> None:
    """Raise InputError if `values` hold NaN or infinity; `low`, `high`: their extremes."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise not_finite(name, int((~np.isfinite(values)).sum()))


def not_finite(name: str, count: int) -> InputError:
    """Return the error for a file that holds NaN or infinity."""
    return InputError(
        f"{name} holds {count} NaN or infinite value(s)", "replace them, e.g. by 0, first"
    )


def check_direction(grid: Grid, name: str) -> None:
    """Raise GeometryError unless the geometry is usable and the axes are perpendicular."""
    if (
        not np.isfinite((*grid.spacing, *grid.origin, *grid.direction)).all()
        or min(grid.spacing) <= 0
    ):
        raise GeometryError(
            f"{name}: the header lacks a usable spacing, origin or direction", "repair the header"
        )
    if np.abs(grid.axes.T @ grid.axes - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise GeometryError(
            f"{name} has sheared axes", "resample it to a grid with perpendicular axes"
        )


def check_grid(image: sitk.Image, reference: sitk.Image, name: str) -> None:
    """Raise GeometryError unless both images lie on one grid."""
    own, other = Grid.of(image), Grid.of(reference)
    if not own.same_as(other):
        sizes = (" x ".join(map(str, grid.size)) for grid in (own, other))
        detail = f"size {' against '.join(sizes)}"
        if own.size == other.size:
            detail = "same size, but another spacing, origin or direction"
        raise GeometryError(
            f"{name} lies on another grid than its image ({detail})", "resample it first"
        )


def orientation_warnings(
    grid: Grid, header: nifti.NiftiHeader | None, name: str
) -> tuple[str, ...]:
    """A warning if a NIfTI header gives no orientation, or two that disagree."""
    if header is None:
        return ()
    if header.qform is None and header.sform is None:
        codes = "qform and sform codes are 0"
        return (f"{name}: the header gives no orientation ({codes}); hsyn assumes LPS axes",)
    apart = header.disagreement()
    if header.qform is None or header.sform is None or apart <= 0.1 * min(grid.spacing):
        return ()
    used = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack([grid.index_to_point, grid.origin])  # RAS
    to_q, to_s = (float(np.abs(used - form[:3]).max()) for form in (header.qform, header.sform))
    choice = "sform" if to_s < to_q else "qform"
    return (f"{name}: sform and qform disagree by up to {apart:.1f} mm; the {choice} is used",)


def read_error(
    name: str, text: str, error: Exception
) -> InputError | GeometryError | MemoryLimitError:
    """Return the error for a file that ITK failed to read with the message `text`."""
    if "orthonormal" in text or "Bad direction" in text:
        return GeometryError(
            f"{name} has a singular or sheared direction", "repair the header or resample the image"
        )
    if "allocate" in text or "bad_alloc" in text:
        return MemoryLimitError(
            f"{name} does not fit into memory",
            "use a machine with more, or resample the image coarser",
        )
    if "Unable to determine ImageIO" in text:
        if ends(name, TRANSFORMS) and not ends(name, HDF5):
            return InputError(
                f"{name} is no image file",
                "`hsyn compose -t FILE -r IMAGE` makes a field from a transform",
            )
        field = ends(name, HDF5)
        hint = (
            "`hsyn convert` makes an image file from a field in it"
            if field
            else "use NIfTI, NRRD, MHA or another such format"
        )
        return InputError(f"{name} is not an image that SimpleITK can read", hint)
    return InputError(
        f"{name} cannot be read: {one_line(error)}", "check that the file is complete"
    )


def one_line(error: Exception) -> str:
    """The message of an ITK error without its source path, class and address."""
    text = re.split(r"(?:ITK|sitk::)\s*ERROR:", str(error))[-1]
    return re.sub(r"\w+\(0x[0-9a-f]+\):", "", " ".join(text.split())).strip()[:200]
