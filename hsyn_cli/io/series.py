"""Read and write 4-D series one volume at a time, whatever their length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, checks, files, headers, voxels, writing
from hsyn_cli.io.endings import NIFTI, ends
from hsyn_cli.io.headers import Header


@dataclass(frozen=True)
class Series:
    """A checked file of `count` volumes."""

    path: Path
    sha256: str
    header: Header
    warnings: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return self.header.volumes


def find(path: Path, what: str = "image") -> Series | None:
    """The 4-D series at `path`; None if the file holds one volume, or is no NIfTI or MGH.

    Raises InputError if the file is missing, unreadable or truncated, has more than four axes or
    holds NaN.
    """
    header = headers.read(path, what)
    if header.dtype is None or header.encoding or header.volumes == 1:
        return None
    name = f"{what} {path}"
    if len(header.dim) > 4 or header.colours > 1:
        raise InputError(
            f"{name} has more than four axes ({header.shape})", "give a series of scalar volumes"
        )
    checks.check_direction(header.grid, name)
    for volume in voxels.volumes(header, what):
        if volume.dtype.kind == "f" and not np.isfinite((volume.min(), volume.max())).all():
            raise checks.not_finite(name, int((~np.isfinite(volume)).sum()))
    notes = tuple(f"{name}: {note}" for note in header.notes)
    return Series(path, voxels.fingerprint(header, what), header, notes)


def volumes(series: Series) -> Iterator[sitk.Image]:
    """Yield volume after volume in one pass over the file, each in its own pixel type."""
    for values in voxels.volumes(series.header, "image"):
        yield series.header.grid.stamp(
            sitk.GetImageFromArray(voxels.scaled(values, series.header, False))
        )


def write(moved: Iterable[sitk.Image], source: Series, path: Path) -> None:
    """Write volumes of one grid and type as a series with the timing of `source`.

    Writes the file whole or not at all. Raises OutputError; UsageError for a name other than NIfTI.
    """
    if not ends(path, NIFTI):
        raise UsageError(
            f"{path}: a series is written as NIfTI", "give it a name that ends in .nii or .nii.gz"
        )
    with atomic.replacing(path) as temporary, files.writing(temporary) as append:
        for k, image in enumerate(moved):
            if k == 0:
                append(writing.nifti_head(image, series=(source.count, source.header.timing)))
                size = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
                if not ends(path, [".gz"]):
                    atomic.check_space(temporary.parent, size * source.count)
            append(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data)
