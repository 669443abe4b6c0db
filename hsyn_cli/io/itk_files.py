"""Image files of the formats that only ITK knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import itk_calls
from hsyn_cli.io.checks import read_error
from hsyn_cli.io.headers import Header, dimensions
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import raised


def parse(path: Path, what: str) -> Header:
    """The header of the file at `path`. Raises InputError, GeometryError, MemoryLimitError."""
    name = f"{what} {path}"
    reader = sitk.ImageFileReader()
    try:
        with itk_calls.readable(path) as readable, itk_calls.silent():
            reader.SetFileName(readable)
            reader.ReadImageInformation()
    except (RuntimeError, ValueError) as error:
        raise read_error(name, str(error), error) from error
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} holds complex numbers", "give the magnitude")
    return Header(
        path=path,
        parts=(path,),
        kind="another format",
        dim=dimensions([int(n) for n in reader.GetSize()], name),
        grid=_grid(reader),
        colours=reader.GetNumberOfComponents(),
        axes=reader.GetDimension(),
    )


def load(header: Header, what: str, pixel: int | None) -> sitk.Image:
    """Read the first three axes of an image, in its own pixel type, or scalars in another one."""
    reader = sitk.ImageFileReader()
    try:
        with itk_calls.readable(header.path) as readable, itk_calls.silent():
            reader.SetFileName(readable)
            reader.ReadImageInformation()
            size = reader.GetSize()
            reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
            if pixel is not None and header.colours == 1:
                reader.SetOutputPixelType(pixel)
            image = reader.Execute()
    except (RuntimeError, ValueError, MemoryError) as error:
        raise read_error(f"{what} {header.path}", str(error), error) from error
    return header.grid.stamp(raised(image))


def _grid(reader: sitk.ImageFileReader) -> Grid:
    n = reader.GetDimension()
    m, axes = min(n, 3), np.eye(3)
    axes[:m, :m] = np.array(reader.GetDirection()).reshape(n, n)[:m, :m]
    nx, ny, nz = [*reader.GetSize(), 1][:3]
    sx, sy, sz = [*reader.GetSpacing(), 1.0][:3]
    x, y, z = [*reader.GetOrigin(), 0.0][:3]
    return Grid((nx, ny, nz), (sx, sy, sz), (x, y, z), tuple(axes.ravel().tolist()))
