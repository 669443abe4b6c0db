"""Read and write 4-D series in NIfTI-1 one volume at a time, whatever their length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, checks, files, images, nifti, writing
from hsyn_cli.io.endings import NIFTI


@dataclass(frozen=True)
class Series:
    """A checked file of `count` volumes; `head`: the bytes of its header."""

    path: Path
    sha256: str
    head: bytes
    count: int


def find(path: Path, what: str = "image") -> Series | None:
    """The 4-D series at `path`; None if the file holds one volume or is no NIfTI-1.

    Raises InputError if the file is missing, unreadable or truncated, has more than four axes or
    holds NaN.
    """
    with files.gunzipped(path, what) as stream:
        head = nifti.read_head(stream)
    header = nifti.parse(head)
    if header is None or len(header.dim) < 4 or header.dim[3] <= 1:
        return None
    name, shape = f"{what} {path}", " x ".join(map(str, header.dim))
    if any(n > 1 for n in header.dim[4:]):
        raise InputError(
            f"{name} has more than four axes ({shape})", "give a series of scalar volumes"
        )
    if not header.length:
        raise InputError(
            f"{name} is a series in two files", "convert it to one .nii or .nii.gz file first"
        )
    images.read_grid(path, what)  # checks its geometry
    check = nifti.NonFinite()
    mark = files.fingerprint(path, what, check)
    checks.check_content(name, mark.length, check)
    return Series(path, mark.sha256, head, header.dim[3])


def volumes(series: Series, folder: Path) -> Iterator[sitk.Image]:
    """Yield volume after volume in one pass over the file.

    ITK reads each volume from a temporary file in `folder`.
    """
    header = nifti.parse(series.head)
    assert header is not None
    size = (header.length - header.offset) // series.count
    alone = nifti.one_volume(series.head)
    with (
        tempfile.TemporaryDirectory(prefix=".hsyn-", dir=folder) as own,
        files.gunzipped(series.path) as stream,
    ):
        stream.read(len(series.head))
        one = Path(own) / "volume.nii"
        for _ in range(series.count):
            with one.open("wb") as file:
                file.write(alone)
                for start in range(0, size, files.CHUNK):
                    file.write(stream.read(min(files.CHUNK, size - start)))
            yield sitk.ReadImage(str(one))


def write(moved: Iterable[sitk.Image], source: Series, path: Path) -> None:
    """Write volumes of one grid and type as a series with the timing of `source`.

    Writes the file whole or not at all. Raises OutputError; UsageError for a name other than NIfTI.
    """
    if not path.name.endswith(NIFTI):
        raise UsageError(
            f"{path}: a series is written as NIfTI", "give it a name that ends in .nii or .nii.gz"
        )
    with atomic.replacing(path) as temporary, files.writing(temporary) as append:
        for k, image in enumerate(moved):
            if k == 0:
                append(_header(image, source, temporary.parent))
                size = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
                if path.suffix == ".nii":
                    atomic.check_space(temporary.parent, size * source.count)
            append(sitk.GetArrayViewFromImage(image).data)


def _header(image: sitk.Image, source: Series, folder: Path) -> bytes:
    """The header that ITK writes for one volume, with the fourth axis of `source`."""
    plain = folder / "header.nii"
    writing.write_image(image, plain)
    with plain.open("rb") as file:
        head = nifti.read_head(file)
    plain.unlink()
    return nifti.series(head, source.head)
