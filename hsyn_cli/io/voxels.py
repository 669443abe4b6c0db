"""The voxels of a file as a SimpleITK image: hashed, checked and read in one pass."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk
from isal import isal_zlib
from numpy.typing import NDArray

from hsyn_cli.errors import InputError, MemoryLimitError
from hsyn_cli.io import files, itk_files
from hsyn_cli.io.headers import Header

Values = NDArray[Any]


def load(header: Header, what: str, pixel: int | None = None) -> tuple[sitk.Image, str]:
    """The image, and the SHA-256 of its file, or of its files one after the other.

    Of NIfTI, Analyze and MGH all axes are read: numbers that stand along the fourth or fifth axis
    become components. Of other files ITK reads the first three axes.

    Args:
        pixel: sitk.sitkFloat32, or None for the type of the file (floats where values are scaled).

    Raises:
        InputError: truncated or damaged. MemoryLimitError: too large.
    """
    name = f"{what} {header.path}"
    if header.dtype is None:
        return itk_files.load(header, what, pixel), fingerprint(header, what)
    try:
        values, sha256 = _read(header, what)
        return as_image(scaled(values, header, pixel == sitk.sitkFloat32), header), sha256
    except MemoryError as error:
        raise _too_large(name) from error


def volumes(header: Header, what: str) -> Iterator[Values]:
    """Yield the stored numbers of each volume of a series, (Z, Y, X), from one pass.

    Raises InputError, at the end of the file too.
    """
    assert header.dtype is not None
    shape, count = header.dim[2::-1], header.size // header.volumes
    name = f"{what} {header.path}"
    with files.content(header.parts[-1], what) as stream:
        _start(stream, header, name)
        for k in range(header.volumes):
            buffer = np.empty(count, np.uint8)
            if stream.fill(buffer.data) < count:
                raise _truncated(header, name, k * count)
            yield buffer.view(header.dtype).reshape(shape)
        stream.finish()


def fingerprint(header: Header, what: str) -> str:
    """The SHA-256 of the files of an image, one after the other."""
    if len(header.parts) == 1:
        return files.fingerprint(header.path, what).sha256
    digest = hashlib.sha256()
    for part in header.parts:
        with files.content(part, what):
            pass
        with part.open("rb") as file:
            while chunk := file.read(files.CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


@np.errstate(all="ignore")  # what is not finite is refused
def scaled(values: Values, header: Header, as_float: bool) -> Values:
    """Stored numbers in the byte order of this machine, with slope and intercept applied."""
    if (header.slope, header.inter) != (1.0, 0.0):
        out = values.astype(np.float64) * header.slope + header.inter
        large = values.dtype.itemsize > 4 or (
            values.dtype.kind in "iu" and values.dtype.itemsize > 2
        )
        return out if large and not as_float else out.astype(np.float32)
    if as_float:
        return values.astype(np.float32, copy=False)
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_image(values: Values, header: Header) -> sitk.Image:
    """An image on the grid of `header` of (Z, Y, X), (N, ..., Z, Y, X) or (Z, Y, X, colours)."""
    space = header.dim[2::-1]
    if header.colours > 1:
        vectors = values.reshape(*space, header.colours)
    elif values.size == math.prod(space):
        return header.grid.stamp(sitk.GetImageFromArray(values.reshape(space)))
    else:
        vectors = np.moveaxis(values.reshape(-1, *space), 0, -1)
    return header.grid.stamp(sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True))


def _read(header: Header, what: str) -> tuple[Values, str]:
    """All stored numbers, (..., Z, Y, X), and the hash."""
    assert header.dtype is not None
    name = f"{what} {header.path}"
    zipped = False if header.encoding else None
    with files.content(header.parts[-1], what, zipped) as stream:
        _start(stream, header, name)
        buffer = np.empty(header.size, np.uint8)
        got = _decoded(stream, header, buffer, name)
        if got < header.size:
            raise _truncated(header, name, got)
        mark = stream.finish()
    sha256 = mark.sha256 if len(header.parts) == 1 else fingerprint(header, what)
    values = buffer.view(header.dtype)
    if header.colours > 1:
        return values.reshape(*header.dim[::-1], header.colours), sha256
    return values.reshape(header.dim[::-1]), sha256


def _decoded(stream: files.Content, header: Header, buffer: NDArray[np.uint8], name: str) -> int:
    """Fill `buffer` with the voxels of a stream, and return how many bytes there were."""
    if header.encoding in ("", "raw"):
        return stream.fill(buffer.data)
    if header.encoding == "text":
        return _from_text(stream, header, buffer, name)
    inflate = isal_zlib.decompressobj(31 if header.encoding == "gzip" else 15)
    done = 0
    try:
        while done < len(buffer) and (chunk := stream.read(files.CHUNK)):
            while chunk and done < len(buffer):
                piece = inflate.decompress(chunk, len(buffer) - done)
                buffer[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done, chunk = done + len(piece), inflate.unconsumed_tail
        while not inflate.eof and (chunk := inflate.unconsumed_tail or stream.read(files.CHUNK)):
            inflate.decompress(chunk, files.CHUNK)  # to its check sum
    except isal_zlib.error as error:
        raise _damaged(name) from error
    if not inflate.eof:
        raise _damaged(name)
    return done


def _damaged(name: str) -> InputError:
    return InputError(f"{name}: its compressed voxels are damaged", "copy the file again")


def _from_text(stream: files.Content, header: Header, buffer: NDArray[np.uint8], name: str) -> int:
    assert header.dtype is not None
    words = stream.read(stream.size).split()
    count = len(buffer) // header.dtype.itemsize
    if len(words) < count:
        return len(words) * header.dtype.itemsize
    try:
        exact = np.array(words[:count]).astype("f8" if header.dtype.kind == "f" else "i8")
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name}: its voxels are no numbers", "save it again") from error
    values = exact.astype(header.dtype)
    if header.dtype.kind != "f" and (values != exact).any():
        raise InputError(f"{name}: its voxels do not fit their type", "save it again")
    buffer[:] = values.view(np.uint8)
    return len(buffer)


def _start(stream: files.Content, header: Header, name: str) -> None:
    """Go to the first voxel. Raises InputError if the file is too small for all of them."""
    assert header.dtype is not None
    packed = header.encoding in ("gzip", "zlib")
    least = header.size // files.MOST_DEFLATED if packed else header.size
    least = header.size // header.dtype.itemsize if header.encoding == "text" else least
    if not stream.may_hold(max(header.offset, 0) + least):
        raise _truncated(header, name, max(0, stream.size - header.offset))
    left = header.offset if header.offset >= 0 else stream.size - header.size
    while left:
        got = len(stream.read(min(left, files.CHUNK)))
        if not got:
            raise _truncated(header, name, 0)
        left -= got


def _truncated(header: Header, name: str, got: int) -> InputError:
    text = f"{got} of {header.size} bytes of voxels"
    return InputError(f"{name} is truncated ({text})", "copy or download the file again")


def _too_large(name: str) -> MemoryLimitError:
    return MemoryLimitError(
        f"{name} does not fit into memory",
        "use a machine with more, or resample the image coarser",
    )
