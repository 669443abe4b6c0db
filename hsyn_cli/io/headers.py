"""What the header of an image file says: one answer for every format.

NIfTI-1 and -2, Analyze and FreeSurfer's MGH come from `nifti` and `mgh`, NRRD and MetaImage from
`text_headers`, and all that only ITK knows from `itk_files`. What a file is depends on its first
bytes; its name decides only where these say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.io import files
from hsyn_cli.io.endings import ANALYZE, MGH, NIFTI, ends
from hsyn_cli.space import RAS, Array, Grid, from_ras, shear
from hsyn_cli.space.planes import flattened, lies_flat

HEAD_BYTES = 552  # NIfTI-2's header, and the size of its first extension
STACKS = ((3,), (1, 3))  # axes after the third in an image of three numbers per voxel
ROUNDED = 4e-3  # shear that rounding to three digits can make
VISIBLE = 0.1  # voxels; smaller differences of geometry are not told
SHORTEST = 1e-9  # mm of a voxel
LARGEST = 1 << 40  # voxels along an axis
STANDS = "the plane of this 2-D image is not that of x and y; hsyn takes its own axes for them"
STRAIGHTENED = "the axes are not quite perpendicular"
SINGULAR = 1e-3  # determinant of the axes
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
        offset: bytes before the first voxel in the last of `parts`, gunzipped; -1: they end it.
        slope, inter: a value is slope * stored number + inter.
        grid: of the first three axes, mm LPS.
        notes: what the user should know about the geometry.
        keys: further keys and values of a text header.
        axes: how many axes the file says it has.
        encoding: of the voxels after a text header: "raw", "gzip", "zlib" or "text"; "" for other
            files, which may be gzipped as a whole.
        coloured: the numbers of a voxel are a colour.
        mm: the unit of space of a text header, in mm.
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
    encoding: str = ""
    coloured: bool = False
    mm: float = 1.0

    @property
    def components(self) -> int:
        """Numbers per voxel that stand along the fifth axis, or side by side."""
        return self.colours if self.colours > 1 else math.prod(self.dim[4:])

    @property
    def stacks_vectors(self) -> bool:
        """True if a file of NIfTI or MGH holds three numbers per voxel, whatever its intent.

        Of a 2-D image, two.
        """
        known = self.dtype is not None and not self.encoding
        stacks = STACKS if self.grid.dimension == 3 else ((1, 2),)
        return known and self.colours == 1 and self.dim[3:] in stacks

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


@np.errstate(all="ignore")  # what is not finite is refused
def read(path: Path, what: str = "image") -> Header:
    """The header of an image file. Raises InputError, GeometryError."""
    from hsyn_cli.io import itk_files, mgh, nifti, text_headers

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
        return _flat(nifti.parse(head, path, name))
    if ends(path, MGH):
        return mgh.parse(head, path, name)
    if text_headers.claims(head, path):
        return _flat(text_headers.parse(path, what))
    return _flat(itk_files.parse(path, what))


def _flat(header: Header) -> Header:
    """A header of a 2-D image with the grid of one, see `space.planes`; others as they are.

    A NIfTI file with two numbers per voxel of one slice is a 2-D field, as ITK writes it.
    """
    field = header.dim[2:] == (1, 1, 2)
    if header.axes != 2 and not field:
        return header
    notes = header.notes if lies_flat(header.grid) else (*header.notes, STANDS)
    return replace(header, axes=2, grid=flattened(header.grid), notes=notes)


def dimensions(sizes: list[int], name: str) -> tuple[int, ...]:
    """The axes in use: at least three, without further ones of one voxel at the end.

    Raises InputError unless every size is positive.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > LARGEST:
        text = " x ".join(map(str, sizes))[:60] or "none"
        raise InputError(f"{name}: its header is damaged (sizes {text})", "copy the file again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return tuple(sizes + [1] * (3 - len(sizes)))


def placed(matrix: Array, size: Sequence[int], name: str) -> tuple[Grid, tuple[str, ...]]:
    """The grid of a header's matrix, index -> mm RAS, and a note if it had to be straightened.

    What rounding to three digits does to the axes is forgiven. Raises GeometryError for sheared
    axes and for a matrix that is singular or not finite.
    """
    if not np.isfinite(matrix).all() or not _regular(matrix):
        raise GeometryError(
            f"{name}: the header lacks a usable spacing, origin or direction", "repair the header"
        )
    if shear(matrix) > ROUNDED:
        raise GeometryError(
            f"{name} has sheared axes", "resample it to a grid with perpendicular axes"
        )
    grid = from_ras(matrix, size)
    last = np.array(size, float) - 1.0
    there = (RAS @ matrix)[:3, :3] @ last
    apart = float(np.linalg.norm(grid.index_to_point @ last - there))
    if apart <= VISIBLE * min(grid.spacing):
        return grid, ()
    return grid, (f"{STRAIGHTENED}; hsyn straightens {apart:.2g} mm",)


def _regular(matrix: Array) -> bool:
    """True if the columns of a (4, 4) matrix have usable lengths and span space."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (lengths > SHORTEST).all() or not (lengths < 1 / SHORTEST).all():
        return False
    if np.abs(matrix[:3, 3]).max() > 1 / SHORTEST:
        return False
    return abs(float(np.linalg.det(matrix[:3, :3] / lengths))) > SINGULAR
