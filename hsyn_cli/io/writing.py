"""Write images and fields, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic, fields_said, files, itk_calls
from hsyn_cli.io.checks import one_line
from hsyn_cli.io.endings import MGH, NIFTI, ends
from hsyn_cli.io.headers import INTENT_VECTOR, Intent, Timing
from hsyn_cli.space import Grid, to_ras
from hsyn_cli.space.planes import lowered, raised

LARGEST = 32767  # voxels along an axis of NIfTI-1
MM = 2  # NIfTI's code
SCANNER = 1
MGH_TYPES = {"uint8": "uint8", "int8": "int16", "int16": "int16", "uint16": "int32"}


def write_image(
    image: sitk.Image, path: Path, intent: Intent | None = None, *, stacked: bool = False
) -> None:
    """Write an image, whole or not at all, in the format of its extension; raises OutputError.

    A vector image in NIfTI gets intent 1007; with three components, x, y, z in mm, LPS, it gets
    the name Displacement. `intent` sets another one in the header and changes no value.
    `stacked`: vectors stand along the fourth axis, not the fifth. A slice that stands for a 2-D
    image is written as one, see `space.planes`.
    """
    image = raised(image)
    size = (
        image.GetNumberOfPixels()
        * image.GetNumberOfComponentsPerPixel()
        * image.GetSizeOfPixelComponent()
    )
    with atomic.replacing(path) as temporary:
        atomic.check_space(temporary.parent, size)
        if ends(path, NIFTI):
            _write_nifti(lowered(image), temporary, nifti_head(image, intent, stacked=stacked))
        elif ends(path, MGH):
            _write_mgh(image, temporary, path)
        else:
            _write_by_itk(lowered(image), temporary, path)


def nifti_head(
    image: sitk.Image,
    intent: Intent | None = None,
    *,
    series: tuple[int, Timing] | None = None,
    stacked: bool = False,
) -> bytes:
    """The bytes of a NIfTI-1 header, with those up to the voxels: qform, sform, mm, seconds.

    `series`: count of volumes and timing, for volumes like `image`. Raises OutputError.
    """
    import nibabel as nib

    grid, image = Grid.of(image), lowered(image)
    vectors = image.GetNumberOfComponentsPerPixel()
    shape = list(image.GetSize())
    if vectors > 1 or series is not None:
        shape = list(grid.size)
    if vectors > 1:
        shape += [vectors] if stacked else [1, vectors]
    count, timing = series or (1, Timing(0.0))
    shape += [count] * (series is not None)
    if max(shape) > LARGEST:
        raise OutputError(
            f"{' x '.join(map(str, shape))} voxels are too many for NIfTI-1",
            "write a .nrrd file",
        )
    head = nib.Nifti1Header(endianness="<")
    head.set_data_dtype(_dtype(image))
    head.set_data_shape(shape)
    matrix = to_ras(grid)
    head.set_qform(matrix, SCANNER)
    head.set_sform(matrix, SCANNER)
    head["pixdim"][1:4] = grid.spacing
    head["pixdim"][5:] = 0
    head["xyzt_units"] = MM | timing.unit
    head["pixdim"][4], head["toffset"] = timing.step, timing.start
    head["scl_slope"], head["scl_inter"], head["regular"] = 1, 0, b"r"
    head["vox_offset"], head["magic"] = 352, b"n+1"
    if intent is None:
        name = fields_said.NAME if vectors == grid.dimension else ""
        intent = Intent(INTENT_VECTOR, name) if vectors > 1 else Intent()
    head["intent_code"], head["intent_p1"] = intent.code, intent.parameter
    head["intent_name"] = intent.name.encode()
    return bytes(head.binaryblock) + bytes(4)


def _dtype(image: sitk.Image) -> np.dtype[Any]:
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(image).dtype.newbyteorder("<")
    return dtype


def _write_nifti(image: sitk.Image, temporary: Path, head: bytes) -> None:
    values = sitk.GetArrayViewFromImage(image)
    vectors = image.GetNumberOfComponentsPerPixel() > 1
    planes = np.moveaxis(values, -1, 0) if vectors else values[None]
    with files.writing(temporary) as write:
        write(head)
        for plane in planes:
            write(np.ascontiguousarray(plane).data)


def _write_mgh(image: sitk.Image, temporary: Path, path: Path) -> None:
    """Scalar images alone: MGH does not say what vectors are."""
    import nibabel as nib

    if image.GetNumberOfComponentsPerPixel() > 1:
        raise OutputError(f"{path}: MGH files cannot say what vectors are", "write a .nii.gz file")
    values = sitk.GetArrayViewFromImage(image)
    kind = MGH_TYPES.get(values.dtype.name, "int32" if values.dtype.kind in "iu" else "float32")
    limits = np.iinfo(np.int32)
    if kind == "int32" and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise OutputError(f"{path}: MGH files hold no values so large", "write a .nii.gz file")
    mgh = nib.MGHImage(values.T.astype(kind), to_ras(Grid.of(image)))
    content = io.BytesIO()
    mgh.file_map["image"].fileobj = content
    mgh.to_file_map()
    with files.writing(temporary) as write:
        write(content.getbuffer())


def _write_by_itk(image: sitk.Image, target: Path, path: Path) -> None:
    """Write with ITK; `path`: the name for errors."""
    try:
        with itk_calls.writable(target) as name, itk_calls.silent():
            sitk.WriteImage(image, name, useCompression=True)
    except RuntimeError as error:
        text = one_line(error).replace(str(target), str(path))
        raise OutputError(f"{path}: cannot be written: {text}", "is the disk full?") from error
