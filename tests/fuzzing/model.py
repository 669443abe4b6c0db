"""What one example of the fuzzer is, and what it must give. Affines: index -> RAS, mm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["scalar", "labels", "series", "field", "rgb", "transform"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS mm -> LPS mm, and back


@dataclass(frozen=True)
class Volume:
    """What a test writes.

    Attributes:
        stored: (X, Y, Z), for a series (X, Y, Z, T), for a field and rgb (X, Y, Z, 3).
        slope, inter: a value is stored * slope + inter.
        affine: (4, 4), index -> RAS, mm.
    """

    kind: Kind
    stored: NDArray[Any]
    slope: float
    inter: float
    affine: Array

    @property
    def values(self) -> Array:
        """The numbers that the file means, in the shape of `stored`."""
        with np.errstate(invalid="ignore"):  # signalling NaN, of changed bytes
            return self.stored.astype(np.float64) * self.slope + self.inter

    @property
    def spacing(self) -> Array:
        """The lengths of a voxel's sides, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class Expected:
    """Content that may be read.

    `values`: in the shape of `Volume.stored`, vectors in mm LPS. `affine`: None where the file has
    no orientation and ITK's says what is right.
    """

    values: Array
    affine: Array | None


@dataclass(frozen=True, repr=False)
class Case:
    """Files, how to read one of them, and what may come.

    Attributes:
        form: the format, for the summary.
        change: what was done to a valid file; "" if nothing.
        files: {name: content} of one folder.
        name: the file to read.
        use: the function of hsyn that reads; see `reading`.
        accepted: contents that may be read; None: any, as nobody can know.
        must: whether it must be read; if not, it may be refused.
        oracle: whether nibabel says what a changed file means, before `accepted`.
        grids: the grids (size, affine) of the fixed and moving image of a form that needs them.
        option: the form that someone named.
        kind: of the content.
        unit: of the lengths in a text header, mm.
    """

    form: str
    change: str
    files: dict[str, bytes]
    name: str
    use: str
    accepted: tuple[Expected, ...] | None
    must: bool
    oracle: bool = False
    grids: tuple[tuple[tuple[int, ...], Array], ...] = ()
    option: str | None = None
    kind: Kind = "transform"
    unit: float = 1.0

    def by_itk(self, oracles: Mapping[str, Any]) -> Array | None:
        """The geometry that ITK reads, (4, 4), index -> LPS, mm; ITK knows no units in texts."""
        found = oracles.get("itk")
        return None if found is None else np.diag([self.unit] * 3 + [1.0]) @ found

    def __repr__(self) -> str:
        """Short, as hypothesis prints it."""
        return f"Case({self.form}, {self.use} {self.name!r}, {self.change or 'valid'})"

    @property
    def mutation(self) -> str:
        """The kind of the change without its values, to group failures."""
        return self.change.split("=")[0].split(" at ")[0].strip()

    def write(self, folder: Path) -> Path:
        """Write all files into `folder`; return the one to read."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / self.name


@dataclass(frozen=True)
class Damaged:
    """A changed file: what was done, and whether it provably means the same."""

    change: str
    neutral: bool = False
