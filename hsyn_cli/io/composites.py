"""Several transforms in one .h5 file: ANTs' Composite.h5 and InverseComposite.h5.

The layout is that of itk::HDF5TransformIO: the group TransformGroup holds the composite as "0" and
its parts as "1", "2", and so on. Of the parts, ITK applies the last one first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, checks
from hsyn_cli.io.endings import quoted
from hsyn_cli.space import Grid, affine_parts
from hsyn_cli.space.planes import flattened, lowered, raised_transform

PIECE = 2**20  # values that are compressed together
LEVEL = 4  # of zlib; with `shuffle`, higher levels gain 1 %
MADE_BY = {"ITKVersion": "5.4.0", "HDFVersion": "1.12.1", "OSName": "hsyn", "OSVersion": "0"}

Step: TypeAlias = "sitk.Transform | sitk.Image"  # an image holds displacements, mm LPS
Part = tuple[str, NDArray[np.float32], NDArray[np.float64]]


def in_order(transform: sitk.Transform) -> list[sitk.Transform]:
    """The parts of a transform, in the order in which points go through them."""
    transform = transform.Downcast()
    if not isinstance(transform, sitk.CompositeTransform):
        return [transform]
    parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
    return [inner for part in reversed(parts) for inner in in_order(part)]


def field_of(transform: sitk.DisplacementFieldTransform, dimension: int) -> sitk.Image:
    """The vectors of a 3-D transform, float64, mm LPS; `dimension`: that of its file."""
    field = transform.GetDisplacementField()
    return flattened(Grid.of(field)).stamp(field) if dimension == 2 else field


def total_field(
    transform: sitk.Transform, dimension: int, path: Path, what: str = "transform"
) -> sitk.Image:
    """A field alone, or the total one of a field and transforms behind it; float64, mm LPS.

    It lies on the grid of that field. `dimension`: of the file at `path`. Raises InputError if a
    file does not begin with a field.
    """
    parts = in_order(transform)
    first, rest = parts[0] if parts else None, parts[1:]
    if not isinstance(first, sitk.DisplacementFieldTransform):
        names = ", then ".join(part.GetName() for part in parts) or "nothing"
        raise InputError(
            f"{what} {path} holds {names}, which lies on no grid of its own",
            f"make it one field: hsyn compose -t {quoted(path)} -r IMAGE -o field.nii.gz",
        )
    field = field_of(first, dimension)
    checks.check_field(field, f"{what} {path}")
    if rest:
        grid = Grid.of(field)
        place = (grid.size, grid.origin, grid.spacing, grid.direction)
        total = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *place)
        field = grid.stamp(total)
    return field


def write_composite(steps: Sequence[Step], path: Path, dimension: int = 3) -> None:
    """Write linear transforms and displacement fields; points go through them in this order.

    As antsRegistration --float 1 and fMRIPrep do, the file holds float32, compressed; ITK's own
    writer gives float64, uncompressed. `dimension`: 2 writes what the steps do in the plane z = 0.
    The file appears whole or not at all. Raises UsageError for other transforms, OutputError.
    """
    import h5py

    memory = io.BytesIO()  # on a full disk, HDF5 crashes
    with h5py.File(memory, "w") as file:
        for name, text in MADE_BY.items():
            _write_text(file, name, text)
        group = file.create_group("TransformGroup")
        kind = f"float_{dimension}_{dimension}"
        _write_text(group, "0/TransformType", f"CompositeTransform_{kind}")
        for k, (name, parameters, fixed) in enumerate(_parts(steps[::-1], dimension), 1):
            _write_text(group, f"{k}/TransformType", f"{name}_{kind}")
            group.create_dataset(f"{k}/TransformFixedParameters", data=fixed)
            group.create_dataset(
                f"{k}/TransformParameters", data=parameters, chunks=(min(PIECE, len(parameters)),),
                compression="gzip", compression_opts=LEVEL, shuffle=True,
            )  # fmt: skip
    atomic.write_bytes(path, memory.getvalue())


def _parts(steps: Sequence[Step], dimension: int) -> Iterator[Part]:
    """The kind, the parameters and the fixed parameters of each."""
    for step in steps:
        if isinstance(step, sitk.Transform):
            step = raised_transform(step).Downcast()
        if isinstance(step, sitk.DisplacementFieldTransform):
            step = field_of(step, dimension)
        if isinstance(step, sitk.Image):
            field = lowered(step)
            values = sitk.GetArrayViewFromImage(field).astype(np.float32, copy=False).ravel()
            place = (field.GetSize(), field.GetOrigin(), field.GetSpacing(), field.GetDirection())
            yield "DisplacementFieldTransform", values, np.concatenate(place).astype(float)
        elif step.IsLinear():
            matrix, shift = affine_parts(step)
            matrix, shift = matrix[:dimension, :dimension], shift[:dimension]
            values = np.concatenate([matrix.ravel(), shift]).astype(np.float32)
            yield "AffineTransform", values, np.zeros(dimension)
        else:
            raise UsageError(
                f"a {step.GetName()} is neither linear nor a displacement field",
                "make one field: end the name of -o in .nii.gz, and give -r",
            )


def _write_text(group: Any, name: str, text: str) -> None:
    import h5py

    group.create_dataset(name, data=[text.encode()], dtype=h5py.string_dtype("ascii"))
