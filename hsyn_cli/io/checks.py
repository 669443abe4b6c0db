"""Checks of images and their headers. Each raises one clear error."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError, MemoryLimitError
from hsyn_cli.io import fields_said
from hsyn_cli.io.endings import LTA, TRANSFORMS, ends, quoted
from hsyn_cli.io.headers import INTENT_DISPLACEMENT, INTENT_VECTOR, Header
from hsyn_cli.space import Grid

MIN_SIZE = 4  # voxels along each axis; smoothing and derivatives need so many
SHEAR_TOLERANCE = 1e-3  # largest entry of |direction^T direction - 1|
FIELD_HINT = (
    "a field holds 3-component vectors on a 3-D grid; in NIfTI dim = 5,x,y,z,1,3 with intent 1007 "
    "(vector), in 2-D 5,x,y,1,1,2; `hsyn convert` makes one from fields of other kinds"
)
FIELD_INTENTS = (INTENT_VECTOR, INTENT_DISPLACEMENT)


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


def check_shape(header: Header, name: str, components: int | None, least: int) -> None:
    """Raise InputError unless a file has the shape that `images._read` wants.

    `components`: numbers per voxel, None: any number. `least`: voxels along each axis.
    """
    vectors = header.components == header.grid.dimension or header.stacks_vectors
    wrong = header.coloured or not vectors
    if components == 3 and wrong:
        raise InputError(f"{name} is not a displacement field ({_content(header)})", FIELD_HINT)
    if components == 1 and header.components != 1:
        hint = "give one scalar image; for a displacement field use the option for fields"
        raise InputError(
            f"{name} has {header.components} components per voxel (colour or vectors), not one",
            hint,
        )
    if header.axes < 2:
        raise InputError(f"{name} is 1-D ({header.shape}), not 2-D or 3-D", "give an image")
    if header.volumes > 1 and not (components == 3 and header.stacks_vectors):
        raise InputError(
            f"{name} is {len(header.dim)}-D ({header.shape}), not 3-D", "extract one volume first"
        )
    sides = list(header.dim[:3])
    if sides.count(1) == 1:  # a single slice
        sides.remove(1)
    thin = min(sides)
    if thin < least:
        thickness = "one voxel" if thin == 1 else f"{thin} voxels"
        hint = f"an image needs at least {least} voxels along every axis, or is a single slice"
        raise InputError(f"{name} is only {thickness} thick ({header.shape})", hint)


def check_says_field(header: Header, name: str) -> None:
    """Raise InputError unless the header says that the vectors are mm in LPS or RAS."""
    form = fields_said.form_of(header)
    if form not in (None, "ras"):
        raise InputError(
            f"{name} holds {fields_said.SAID[form]}, not displacements in mm, LPS",
            f"convert it: hsyn convert {quoted(header.path)} field.nii.gz --from {form}",
        )
    refused = fields_said.refusal(header)
    if refused:
        raise InputError(f"{name} {refused[0]}", refused[1])
    if header.mm != 1:
        raise GeometryError(
            f"{name} holds vectors on a grid that is not in mm", "save it in mm first"
        )
    if header.dtype is None or header.encoding or header.intent.code == INTENT_DISPLACEMENT:
        return
    if header.stacks_vectors and (header.dim[3:] == (3,) or header.intent.code != INTENT_VECTOR):
        raise InputError(
            f"{name} does not say what its vectors are ({_content(header)})",
            f"if they are mm in LPS: hsyn convert {quoted(header.path)} field.nii.gz --from itk; "
            "else --from ras, voxel, fsl or spm",
        )
    if header.intent.code not in FIELD_INTENTS:
        raise InputError(f"{name} is not a displacement field ({_content(header)})", FIELD_HINT)


def _content(header: Header) -> str:
    said = f", intent {header.intent.code}" if not header.encoding else ""
    return f"{header.shape}, {header.components} component(s){', colours' * header.coloured}{said}"


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


def read_error(
    name: str, text: str, error: Exception
) -> InputError | GeometryError | MemoryLimitError:
    """Return the error for a file that ITK failed to read with the message `text`."""
    if "orthonormal" in text or "Bad direction" in text:
        return GeometryError(
            f"{name} has a singular or sheared direction", "repair the header or resample the image"
        )
    if isinstance(error, MemoryError) or "allocate" in text or "bad_alloc" in text:
        return MemoryLimitError(
            f"{name} does not fit into memory",
            "use a machine with more, or resample the image coarser",
        )
    if "Unable to determine ImageIO" in text:
        if ends(name, TRANSFORMS):
            return InputError(
                f"{name} is a transform, no image file",
                "make one: hsyn compose -t FILE -r IMAGE -o field.nii.gz",
            )
        hint = "use NIfTI, NRRD, MHA or another such format"
        if ends(name, LTA):
            hint = "convert FreeSurfer's affine first: hsyn convert FILE.lta affine.tfm"
        return InputError(f"{name} is not an image that hsyn can read", hint)
    return InputError(
        f"{name} cannot be read: {one_line(error)}", "check that the file is complete"
    )


def one_line(error: Exception) -> str:
    """The message of an ITK error without its source path, class and address."""
    text = re.split(r"(?:ITK|sitk::)\s*ERROR:", str(error))[-1]
    return re.sub(r"\w+\(0x[0-9a-f]+\):", "", " ".join(text.split())).strip()[:200]
