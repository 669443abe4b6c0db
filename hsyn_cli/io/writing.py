"""Write images and fields, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic, files, nifti
from hsyn_cli.io.checks import one_line
from hsyn_cli.io.endings import NIFTI


def write_image(image: sitk.Image, path: Path, intent: int | None = None) -> None:
    """Write an image, whole or not at all, in the format of its extension; raises OutputError.

    A vector image in NIfTI gets intent 1007, with components x, y, z in mm, LPS. `intent` sets
    another one in the header and changes no value. ITK writes only the header of a NIfTI file,
    because its zlib is many times slower than isal.
    """
    size = (
        image.GetNumberOfPixels()
        * image.GetNumberOfComponentsPerPixel()
        * image.GetSizeOfPixelComponent()
    )
    with atomic.replacing(path) as temporary:
        atomic.check_space(temporary.parent, size)
        if not path.name.endswith(NIFTI):
            _write_by_itk(image, temporary, path)
            return
        head = _nifti_head(image, temporary.with_name("head.nii"), path, intent)
        values = sitk.GetArrayViewFromImage(image)
        planes = (
            values[None]
            if image.GetNumberOfComponentsPerPixel() == 1
            else np.moveaxis(values, -1, 0)
        )
        with files.writing(temporary) as write:
            write(head)
            for plane in planes:
                write(np.ascontiguousarray(plane).data)


def _write_by_itk(image: sitk.Image, target: Path, path: Path) -> None:
    """Write with ITK; `path`: the name for errors."""
    try:
        sitk.WriteImage(image, str(target), useCompression=target.suffix != ".nii")
    except RuntimeError as error:
        text = one_line(error).replace(str(target), str(path))
        raise OutputError(f"{path}: cannot be written: {text}", "is the disk full?") from error


def _nifti_head(image: sitk.Image, aside: Path, path: Path, intent: int | None) -> bytes:
    """The header that ITK writes for the image; `aside`: a temporary file for a small copy."""
    shape = image.GetSize()
    small = sitk.Image(
        [min(n, 2) for n in shape], image.GetPixelID(), image.GetNumberOfComponentsPerPixel()
    )
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
