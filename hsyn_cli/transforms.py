"""Transforms in files as ITK, ANTs and Slicer write them: read with every check, and written. Points in mm, LPS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli import files
from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.images import one_line
from hsyn_cli.space import affine_from, affine_parts


@dataclass(frozen=True)
class Transform:
    """A linear transform, fixed point -> moving point (mm, LPS), and the file it came from."""

    transform: sitk.AffineTransform
    path: Path
    sha256: str


def read_transform(path: Path, what: str = "initial transform") -> Transform:
    """A linear 3-D transform (.mat, .tfm, .txt, .h5 of ITK, ANTs or Slicer). Raises InputError."""
    read, sha256 = read_any_transform(path, what)
    if not read.IsLinear():
        text = f"{what} {path} is a 3-D {read.GetName()}, not a linear 3-D transform"
        raise InputError(text, "give a rigid or affine one")
    matrix, shift = affine_parts(read)
    if not np.isfinite(matrix).all() or not np.isfinite(shift).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(f"{what} {path} cannot be inverted", "check how it was made")
    return Transform(affine_from(matrix, shift), path, sha256)


def read_any_transform(path: Path, what: str = "transform") -> tuple[sitk.Transform, str]:
    """Any 3-D transform in a file that ITK reads as such, and the file's SHA-256. Raises InputError."""
    sha256 = files.fingerprint(path, what).sha256
    try:
        read = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        hint = "give .mat, .tfm, .txt or .h5 as ITK writes them; FSL matrices: `hsyn convert`"
        raise InputError(f"{what} {path} is not a transform that ITK can read", hint) from error
    if read.GetDimension() != 3:
        raise InputError(f"{what} {path} is {read.GetDimension()}-D, not 3-D", "give one of 3-D images")
    return read, sha256


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform (.mat, .tfm, .txt, .h5), whole or not at all; raises OutputError."""
    with files.replacing(path) as temporary:
        try:
            sitk.WriteTransform(transform, str(temporary))
        except RuntimeError as error:
            raise OutputError(f"{path}: cannot be written: {one_line(error)}", "is the disk full?") from error
