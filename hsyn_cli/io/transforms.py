"""Read, check and write the transform files of ITK, ANTs and Slicer. Points are in mm, LPS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.io import atomic, files, itk_calls
from hsyn_cli.io.checks import one_line
from hsyn_cli.io.endings import ends, quoted
from hsyn_cli.space import affine_from, affine_parts

TransformLike: TypeAlias = "sitk.Transform | str | os.PathLike[str]"


@dataclass(frozen=True)
class Transform:
    """A linear transform, fixed point -> moving point (mm, LPS), and its file."""

    transform: sitk.AffineTransform
    path: Path
    sha256: str


def read_transform(path: Path, what: str = "initial transform") -> Transform:
    """Read a linear 3-D transform of ITK, ANTs or Slicer (.mat, .tfm, .txt, .h5).

    Raises InputError.
    """
    read, sha256 = read_any_transform(path, what)
    if not read.IsLinear():
        text = f"{what} {path} is a 3-D {read.GetName()}, not a linear 3-D transform"
        raise InputError(text, "give a rigid or affine transform")
    matrix, shift = affine_parts(read)
    if (
        not np.isfinite(matrix).all()
        or not np.isfinite(shift).all()
        or abs(np.linalg.det(matrix)) < 1e-6
    ):
        raise InputError(f"{what} {path} cannot be inverted", "check the program that made it")
    return Transform(affine_from(matrix, shift), path, sha256)


def as_affine_transform(source: TransformLike) -> sitk.AffineTransform:
    """A linear transform, in memory or a path, with the origin as its centre. Raises InputError."""
    if isinstance(source, str | os.PathLike):
        source = read_transform(Path(source)).transform
    return affine_from(*affine_parts(source))


def read_any_transform(path: Path, what: str = "transform") -> tuple[sitk.Transform, str]:
    """Any 3-D transform that ITK can read, and the file's SHA-256. Raises InputError."""
    sha256 = files.fingerprint(path, what).sha256
    try:
        with itk_calls.readable(path) as name, itk_calls.silent():
            read = sitk.ReadTransform(name)
    except (RuntimeError, MemoryError) as error:
        hint = "give .mat, .tfm, .txt or .h5 as ITK writes them"
        if ends(path, (".mat", ".txt")):
            turned = f"hsyn convert {quoted(path)} affine.tfm --from ras, or --from fsl"
            hint += f"; a matrix of greedy or FSL becomes one by: {turned}"
        raise InputError(f"{what} {path} is not a transform that ITK can read", hint) from error
    if read.GetDimension() != 3:
        raise InputError(
            f"{what} {path} is {read.GetDimension()}-D, not 3-D", "give a transform of 3-D images"
        )
    return read, sha256


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform (.mat, .tfm, .txt, .h5), whole or not at all; raises OutputError."""
    with atomic.replacing(path) as temporary:
        try:
            with itk_calls.writable(temporary) as name:
                sitk.WriteTransform(transform, name)
        except RuntimeError as error:
            raise OutputError(
                f"{path}: cannot be written: {one_line(error)}", "is the disk full?"
            ) from error
