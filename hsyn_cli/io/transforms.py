"""Read, check and write the transform files of ITK, ANTs and Slicer. Points are in mm, LPS."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.io import atomic, files, hdf5, itk_calls, nifti
from hsyn_cli.io.checks import one_line
from hsyn_cli.io.endings import HDF5, LTA, ends, quoted
from hsyn_cli.space import affine_from, affine_parts
from hsyn_cli.space.planes import lowered_transform, raised_transform

TEXT, MNI = b"#Insight Transform File", b"MNI Transform File"
PARAMETERS = ("Parameters", "FixedParameters")  # keys of ITK's text files
LARGEST = 1e12  # of a usable number
SINGULAR = 1e-6  # determinant below which nothing is inverted
DEEPEST = 20  # composites inside one another
TransformLike: TypeAlias = "sitk.Transform | str | os.PathLike[str]"


@dataclass(frozen=True)
class Transform:
    """A linear transform, fixed point -> moving point (mm, LPS), and its file.

    `dimension`: that in the file; here it is 3-D.
    """

    transform: sitk.AffineTransform
    path: Path
    sha256: str
    dimension: int = 3


def read_transform(path: Path, what: str = "initial transform") -> Transform:
    """Read a linear transform, 3-D or 2-D, of ITK, ANTs or Slicer (.mat, .tfm, .txt, .h5).

    Raises InputError.
    """
    read, sha256, dimension = read_any_transform(path, what)
    if not read.IsLinear():
        text = f"{what} {path} is a {read.GetName()}, not a linear transform"
        raise InputError(text, "give a rigid or affine transform")
    matrix, shift = affine_parts(read)
    if (
        not np.isfinite(matrix).all()
        or not np.isfinite(shift).all()
        or abs(np.linalg.det(matrix)) < SINGULAR
    ):
        raise InputError(f"{what} {path} cannot be inverted", "check the program that made it")
    return Transform(affine_from(matrix, shift), path, sha256, dimension)


def as_affine_transform(source: TransformLike) -> sitk.AffineTransform:
    """A linear transform, in memory or a path, with the origin as its centre. Raises InputError."""
    if isinstance(source, str | os.PathLike):
        source = read_transform(Path(source)).transform
    return affine_from(*affine_parts(raised_transform(source)))


def read_any_transform(path: Path, what: str = "transform") -> tuple[sitk.Transform, str, int]:
    """Any 2-D or 3-D transform that ITK can read, the file's SHA-256, and its dimension.

    A 2-D transform becomes a 3-D one, see `space.planes`. Raises InputError.
    """
    name = f"{what} {path}"
    content: list[bytes] = []
    sha256 = files.fingerprint(path, what, content.append).sha256
    data = b"".join(content)
    kinds = re.findall(rb"^Transform: *(\w+)", data, re.MULTILINE) if data.startswith(TEXT) else []
    if len(kinds) > 1 and not kinds[0].startswith(b"Composite"):
        text = f"{name} holds {len(kinds)} transforms, and hsyn takes one from each file"
        raise InputError(text, "write each to a file of its own, and give them one by one")
    try:
        counts = _counts(path, data)
        with itk_calls.readable(path) as readable, itk_calls.silent():
            read = _named(sitk.ReadTransform(readable))
    except (RuntimeError, MemoryError, ValueError) as error:
        hint = "give .mat, .tfm, .txt or .h5 as ITK writes them"
        if data.startswith(TEXT):
            hint = "write it anew with the program that made it"
        elif ends(path, (".mat", ".txt")):
            turned = f"hsyn convert {quoted(path)} affine.tfm --from ras, or --from fsl"
            hint += f"; a matrix of greedy or FSL becomes one by: {turned} -r FIXED -m MOVING"
        elif ends(path, LTA):
            hint = f"convert it first: hsyn convert {quoted(path)} affine.tfm"
        text = f": {str(error)[:80]}" if isinstance(error, ValueError) else ""
        raise InputError(f"{name} is not a transform that ITK can read{text}", hint) from error
    with itk_calls.silent():
        _check_numbers(read, counts, name)
    return raised_transform(read), sha256, read.GetDimension()


def write_transform(transform: sitk.Transform, path: Path, dimension: int = 3) -> None:
    """Write a transform (.mat, .tfm, .txt, .h5), whole or not at all; raises OutputError.

    `dimension`: 2 writes what it does in the plane z = 0, see `space.planes`.
    """
    if dimension == 2:
        transform = lowered_transform(transform)
    with atomic.replacing(path) as temporary:
        try:
            with itk_calls.writable(temporary) as name, itk_calls.silent():
                sitk.WriteTransform(transform, name)
        except RuntimeError as error:
            raise OutputError(
                f"{path}: cannot be written: {one_line(error)}", "is the disk full?"
            ) from error


def _counts(path: Path, data: bytes) -> tuple[int, int] | None:
    """How many parameters and fixed parameters a file holds, None if it is of no such kind.

    ITK's readers pass over damage. Raises ValueError if the file is damaged.
    """
    if data.startswith(TEXT):
        return _in_text(data)
    if data.startswith(MNI):
        for numbers in re.findall(r"Linear_Transform\s*=([^;]*)", data.decode("ascii")):
            if _count(numbers) != 12:
                raise ValueError("Linear_Transform has not 12 numbers")
    if ends(path, HDF5):
        hdf5.check(data)
    return _in_matlab(data) if ends(path, (".mat",)) else None


def _count(text: str) -> int:
    """How many numbers a text holds. Raises ValueError for others than usable numbers."""
    numbers = [float(word) for word in text.split()]
    if not all(abs(number) < LARGEST for number in numbers):
        raise ValueError("a number is no use")
    return len(numbers)


def _in_text(data: bytes) -> tuple[int, int]:
    if not data.endswith(b"\n"):
        raise ValueError("its last line does not end, so it may be cut")
    blocks: list[dict[str, int]] = []
    for line in data.decode("ascii").splitlines():
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if key == "Transform" and colon:
            blocks.append(dict.fromkeys(PARAMETERS, 0) if "Composite" in value else {})
            continue
        if key not in PARAMETERS or not blocks or key in blocks[-1]:
            raise ValueError(f"line {line[:30]!r}")
        blocks[-1][key] = _count(value)
    if not blocks or any(key not in block for block in blocks for key in PARAMETERS):
        raise ValueError("parameters are missing")
    return sum(block[PARAMETERS[0]] for block in blocks), sum(b[PARAMETERS[1]] for b in blocks)


def _in_matlab(data: bytes) -> tuple[int, int]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(io.BytesIO(data))
    except (*nifti.UNREADABLE, MatReadError) as error:
        raise ValueError("no MATLAB file of transforms") from error
    sizes = {name: np.size(values) for name, values in found.items() if name[:2] != "__"}
    fixed = sizes.pop("fixed", 0)
    return sum(sizes.values()), fixed


def _named(transform: sitk.Transform) -> sitk.Transform:
    """The transform, of kinds that SimpleITK has a class for.

    It shows any other kind as a composite whose one part is such a composite again, without end.
    MatrixOffsetTransformBase, which c3d_affine_tool writes, has the parameters of an affine.
    Raises ValueError for further kinds.
    """
    transform = transform.Downcast()
    if not isinstance(transform, sitk.CompositeTransform):
        return transform
    if not _is_endless(transform):
        parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
        if not any(_is_endless(part) for part in parts):
            return transform
        return sitk.CompositeTransform([_named(part) for part in parts])
    affine = sitk.AffineTransform(transform.GetDimension())
    counts = len(transform.GetParameters()), len(transform.GetFixedParameters())
    if not transform.IsLinear() or counts != (affine.GetNumberOfParameters(), counts[1]):
        raise ValueError("SimpleITK has no class for its kind")
    affine.SetFixedParameters(transform.GetFixedParameters())
    affine.SetParameters(transform.GetParameters())
    return affine


def _is_endless(transform: sitk.Transform) -> bool:
    for _ in range(DEEPEST):
        transform = transform.Downcast()
        alone = isinstance(transform, sitk.CompositeTransform)
        if not alone or transform.GetNumberOfTransforms() != 1:
            return False
        transform = transform.GetNthTransform(0)
    return True


def _check_numbers(transform: sitk.Transform, counts: tuple[int, int] | None, name: str) -> None:
    """Raise InputError unless all parameters are usable, and as many as the file has."""
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
        for part in parts:
            _check_numbers(part, None, name)
        if not parts or any(_singular(part) for part in parts):
            text = f"{name} holds {'a part that cannot be inverted' if parts else 'no transform'}"
            raise InputError(text, "check the program that made it")
        return
    is_field = isinstance(transform, sitk.DisplacementFieldTransform)
    vectors = () if is_field else transform.GetParameters()  # `checks.check_field` looks at them
    both = vectors, transform.GetFixedParameters()
    if not (np.abs(both[0] + both[1]) < LARGEST).all():
        raise InputError(f"{name} holds numbers that are no use", "check how it was made")
    own = len(both[0]), len(both[1])
    if is_field:
        return
    if counts not in (None, own) or not _whole(transform, own):
        raise InputError(f"{name} lacks some of its parameters", "it is damaged; copy it again")


def _singular(transform: sitk.Transform) -> bool:
    """True for a linear transform that has no inverse."""
    return transform.IsLinear() and bool(abs(np.linalg.det(affine_parts(transform)[0])) < SINGULAR)


def _whole(transform: sitk.Transform, counts: tuple[int, int]) -> bool:
    """False for a linear transform with other numbers of parameters than its kind has.

    ITK keeps what it finds in a file. Of Euler transforms, older files have one number less.
    """
    if not transform.IsLinear() or type(transform) is sitk.Transform:
        return True
    kind, dimension = type(transform), transform.GetDimension()
    sized = (sitk.AffineTransform, sitk.TranslationTransform, sitk.ScaleTransform)
    fresh = kind(dimension) if kind in sized else kind()
    fixed = len(fresh.GetFixedParameters())
    return counts[0] == len(fresh.GetParameters()) and counts[1] in (fixed, min(fixed, dimension))
