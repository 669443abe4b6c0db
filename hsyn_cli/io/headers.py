"""What the header of an image file says: one answer for every format.

NIfTI-1 and -2, Analyze and FreeSurfer's MGH come from `nifti` and `mgh`, NRRD, MetaImage and all
formats that only ITK knows from `itk_files`. What a file is depends on its first bytes; its name
decides only where these say nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io import files
from hsyn_cli.io.endings import ANALYZE, MGH, NIFTI, ends
from hsyn_cli.space import Grid

HEAD_BYTES = 540  # the longest binary header, NIfTI-2's
STACKS = ((3,), (1, 3))  # axes after the third in an image of three numbers per voxel
INTENT_VECTOR = 1007  # NIFTI_INTENT_VECTOR: ITK writes it, and ANTs needs it for a field
INTENT_DISPLACEMENT = 1006  # NIFTI_INTENT_DISPVECT: vectors in RAS


@dataclass(frozen=True)
class Timing:
    """Of a series: step and start, in the unit of NIfTI's code."""

    step: float = 1.0
    start: float = 0.0
    unit: int = 8  # seconds


@dataclass(frozen=True)
class Intent:
    """NIfTI's intent: code, name and first parameter."""

    code: int = 0
    name: str = ""
    parameter: float = 0.0


@dataclass(frozen=True)
class Header:
    """Where the voxels of an image lie, in the file and in space.

    Attributes:
        path: the file as named. parts: all its files, the header's first.
        kind: the format's name.
        dim: sizes of the axes in use, x first: three or more.
        colours: numbers stored side by side for each voxel.
        dtype: of a stored number, with its byte order; None: ITK reads the file.
        offset: bytes before the first voxel in the last of `parts`, gunzipped.
        slope, inter: a value is slope * stored number + inter.
        grid: of the first three axes, mm LPS.
        notes: what the user should know about the geometry.
        keys: further keys and values of a text header.
        axes: how many axes the file says it has.
    """

    path: Path
    parts: tuple[Path, ...]
    kind: str
    dim: tuple[int, ...]
    grid: Grid
    dtype: np.dtype[Any] | None = None
    colours: int = 1
    offset: int = 0
    slope: float = 1.0
    inter: float = 0.0
    intent: Intent = Intent()
    timing: Timing = Timing()
    notes: tuple[str, ...] = field(default=())
    keys: tuple[tuple[str, str], ...] = ()
    axes: int = 3

    @property
    def components(self) -> int:
        """Numbers per voxel that stand along the fifth axis, or side by side."""
        return self.colours if self.colours > 1 else math.prod(self.dim[4:])

    @property
    def stacks_vectors(self) -> bool:
        """True if a file that hsyn reads holds three numbers per voxel, whatever its intent."""
        return self.dtype is not None and self.colours == 1 and self.dim[3:] in STACKS

    @property
    def volumes(self) -> int:
        """Size of the fourth axis."""
        return math.prod(self.dim[3:4])

    @property
    def size(self) -> int:
        """Bytes of the voxels."""
        assert self.dtype is not None
        return math.prod(self.dim) * self.colours * self.dtype.itemsize

    @property
    def shape(self) -> str:
        """The sizes for messages."""
        return " x ".join(map(str, self.dim[: 2 if self.axes == 2 else None]))


def read(path: Path, what: str = "image") -> Header:
    """The header of an image file. Raises InputError, GeometryError."""
    from hsyn_cli.io import itk_files, mgh, nifti

    name = f"{what} {path}"
    if ends(path, ANALYZE):
        path_of_head = nifti.partner(path, ".hdr")
        if not path_of_head.exists():
            raise InputError(
                f"{name}: its header {path_of_head.name} is missing", "copy both files"
            )
    else:
        path_of_head = path
    with files.content(path_of_head, what) as stream:
        head = stream.read(HEAD_BYTES)
    if nifti.is_nifti(head) or ends(path, (*NIFTI, *ANALYZE)):
        return nifti.parse(head, path, name)
    if ends(path, MGH):
        return mgh.parse(head, path, name)
    return itk_files.parse(head, path, what)


def dimensions(sizes: list[int], name: str) -> tuple[int, ...]:
    """The axes in use: at least three, without further ones of one voxel at the end.

    Raises InputError unless every size is positive.
    """
    if not sizes or min(sizes) < 1:
        text = " x ".join(map(str, sizes)) or "none"
        raise InputError(f"{name}: its header is damaged (sizes {text})", "copy the file again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return tuple(sizes + [1] * (3 - len(sizes)))
