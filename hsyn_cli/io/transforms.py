"""Read, check and write the transform files of ITK, ANTs and Slicer. Points are in mm, LPS."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.io import atomic, files, itk_calls, nifti
from hsyn_cli.io.checks import one_line
from hsyn_cli.io.endings import ends, quoted
from hsyn_cli.space import affine_from, affine_parts

TEXT = b"#Insight Transform File"
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
    name = f"{what} {path}"
    content: list[bytes] = []
    sha256 = files.fingerprint(path, what, content.append).sha256
    data = b"".join(content)
    try:
        numbers = _numbers(data) if data.startswith(TEXT) else _binary_numbers(path, data)
        with itk_calls.readable(path) as readable, itk_calls.silent():
            read = sitk.ReadTransform(readable)
    except (RuntimeError, MemoryError, ValueError) as error:
        hint = "give .mat, .tfm, .txt or .h5 as ITK writes them"
        if ends(path, (".mat", ".txt")):
            turned = f"hsyn convert {quoted(path)} affine.tfm --from ras, or --from fsl"
            hint += f"; a matrix of greedy or FSL becomes one by: {turned}"
        text = f": {error}" if isinstance(error, ValueError) else ""
        raise InputError(f"{name} is not a transform that ITK can read{text}", hint) from error
    _check_numbers(read, numbers, name)
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


def _numbers(data: bytes) -> int:
    """Count the parameters in a text file of ITK, whose reader passes over damage.

    Raises ValueError if the file is damaged.
    """
    if not data.endswith(b"\n"):
        raise ValueError("its last line does not end, so it may be cut")
    count, blocks = 0, []
    for line in data.decode("ascii").splitlines():
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if key == "Transform" and colon:
            blocks.append({"Transform"} | ({"Parameters"} if "Composite" in value else set()))
            continue
        if key not in ("Parameters", "FixedParameters") or not blocks or key in blocks[-1]:
            raise ValueError(f"line {line[:30]!r}")
        found = [float(word) for word in value.split()]
        blocks[-1].add(key)
        count += len(found) if key == "Parameters" else 0
    if not blocks or any("Parameters" not in block for block in blocks):
        raise ValueError("parameters are missing")
    return count


def _binary_numbers(path: Path, data: bytes) -> int | None:
    """Count the parameters in a .mat file of ITK, None for other files.

    Raises ValueError if the file is damaged.
    """
    if not ends(path, (".mat",)):
        return None
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(io.BytesIO(data))
    except (*nifti.UNREADABLE, MatReadError) as error:
        raise ValueError(f"no MATLAB file ({str(error)[:60]})") from error
    return sum(np.size(values) for name, values in found.items() if name[:2] not in ("__", "fi"))


def _check_numbers(transform: sitk.Transform, expected: int | None, name: str) -> None:
    """Raise InputError unless all parameters are finite, and as many as the text has."""
    transform = transform.Downcast()
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return  # whose vectors `checks.check_field` looks at
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
        for part in parts:
            _check_numbers(part, None, name)
        return
    numbers = transform.GetParameters() + transform.GetFixedParameters()
    if not np.isfinite(numbers).all():
        raise InputError(f"{name} holds numbers that are not finite", "check how it was made")
    if expected not in (None, len(transform.GetParameters())):
        raise InputError(
            f"{name} has {expected} parameters, not {len(transform.GetParameters())}",
            "it is damaged; copy it again",
        )
