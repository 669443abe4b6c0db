"""NIfTI-1 headers, for all that ITK does not pass on: both orientations, intent and file length."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

INTENT_VECTOR = 1007  # NIFTI_INTENT_VECTOR: ITK writes it, and ANTs needs it for a field
INTENT_DISPLACEMENT = 1006  # NIFTI_INTENT_DISPVECT: ITK takes the vectors as RAS
INTENT_FSL = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD
INTENTS_FSL_COEFFICIENTS = (2007, 2008, 2009, 2016, 2017)  # splines and cosines of FNIRT and topup
STACKS = ((3,), (1, 3))  # axes after the third in an image of three numbers per voxel
FLOATS = {16: "f4", 64: "f8"}  # datatype codes


@dataclass(frozen=True)
class NiftiHeader:
    """The header of a NIfTI-1 file.

    Attributes:
        dim: sizes of the axes in use.
        floats: type of the voxels; None if that is not float32 or float64.
        offset: position of the first voxel in the gunzipped file; 0 for a .hdr/.img pair.
        length: least bytes of the gunzipped file; 0 for a .hdr/.img pair.
        qform, sform: (4, 4) index -> RAS mm; None if the code is 0.
    """

    dim: tuple[int, ...]
    intent: int
    floats: np.dtype[Any] | None
    offset: int
    length: int
    qform: NDArray[np.float64] | None
    sform: NDArray[np.float64] | None

    @property
    def stacks_vectors(self) -> bool:
        """True if the file holds three numbers per voxel, whatever its intent."""
        return self.dim[3:] in STACKS

    def disagreement(self) -> float:
        """Largest distance of qform and sform at the image's corners in mm; 0 if one is missing."""
        if self.qform is None or self.sform is None:
            return 0.0
        size = np.array([*self.dim[:3], 1, 1, 1][:3]) - 1
        corners = np.array([(*(size * bits), 1.0) for bits in np.ndindex(2, 2, 2)])
        return float(np.linalg.norm((corners @ (self.qform - self.sform).T)[:, :3], axis=1).max())


def parse(head: bytes) -> NiftiHeader | None:
    """Parse the first (gunzipped) bytes of a file; None if it is not NIfTI-1."""
    if len(head) < 348 or head[344:348] not in (b"n+1\0", b"ni1\0"):
        return None
    order = _order(head)
    count, *sizes = struct.unpack_from(order + "8h", head, 40)
    dim = tuple(sizes[: min(max(count, 0), 7)])
    (intent,) = struct.unpack_from(order + "h", head, 68)
    kind, bits = struct.unpack_from(order + "2h", head, 70)
    pixdim = struct.unpack_from(order + "8f", head, 76)
    (offset,) = struct.unpack_from(order + "f", head, 108)
    qcode, scode = struct.unpack_from(order + "2h", head, 252)
    voxels = int(np.prod([max(n, 1) for n in dim], dtype=np.int64))
    single = head[344:348] == b"n+1\0" and np.isfinite(offset)
    sform = np.vstack(
        [np.reshape(struct.unpack_from(order + "12f", head, 280), (3, 4)), (0, 0, 0, 1)]
    )
    qform = _qform(np.array(pixdim), np.array(struct.unpack_from(order + "6f", head, 256)))
    return NiftiHeader(
        dim,
        intent,
        np.dtype(order + FLOATS[kind]) if kind in FLOATS and single else None,
        int(offset) if single else 0,
        int(offset) + voxels * bits // 8 if single else 0,
        qform if qcode > 0 else None,
        sform if scode > 0 else None,
    )


def read(path: Path) -> NiftiHeader | None:
    """The header of a file, gunzipped if necessary; None if it is unreadable or not NIfTI-1."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as content:
            return parse(content.read(348))
    except (OSError, EOFError, zlib.error):
        return None


def set_intent(path: Path, intent: int) -> None:
    """Overwrite the intent of an uncompressed NIfTI-1 file."""
    with path.open("r+b") as stream:
        order = _order(stream.read(4))
        stream.seek(68)
        stream.write(struct.pack(order + "h", intent))


def with_size(head: bytes, size: Sequence[int]) -> bytes:
    """Return the header `head` with another size along the first axes."""
    out = bytearray(head)
    struct.pack_into(f"{_order(head)}{len(size)}h", out, 42, *size)  # dim[1] and on
    return bytes(out)


def read_head(stream: IO[bytes]) -> bytes:
    """The first 348 bytes of a stream; for a single NIfTI-1 file all bytes before the voxels."""
    head = stream.read(348)
    header = parse(head)
    return head if header is None else head + stream.read(max(header.offset - len(head), 0))


def one_volume(head: bytes) -> bytes:
    """Turn the header of a 4-D file into that of its first volume."""
    out = bytearray(head)
    order = _order(head)
    struct.pack_into(order + "h", out, 40, 3)  # dim[0]
    struct.pack_into(order + "h", out, 48, 1)  # dim[4]
    return bytes(out)


def series(head: bytes, source: bytes) -> bytes:
    """Turn the header of a volume into that of a 4-D file with the timing of `source`."""
    out = bytearray(head)
    own, other = _order(head), _order(source)
    struct.pack_into(own + "h", out, 40, 4)  # dim[0]
    for place, kind in ((48, "h"), (92, "f"), (136, "f")):  # dim[4], pixdim[4], toffset
        struct.pack_into(own + kind, out, place, *struct.unpack_from(other + kind, source, place))
    out[123] = (head[123] & 0o07) | (source[123] & 0o70)  # xyzt_units: space, time
    return bytes(out)


def _order(head: bytes) -> str:
    """Byte order of a header in the notation of `struct`."""
    return "<" if struct.unpack_from("<i", head)[0] == 348 else ">"


@dataclass
class NonFinite:
    """Count NaN and infinity in the chunks of a NIfTI-1 file; ITK silently reads them as 0."""

    count: int = 0
    header: NiftiHeader | None = field(default=None, init=False)
    _length: int = field(default=0, init=False)  # bytes so far
    _rest: bytes = field(default=b"", init=False)

    def __call__(self, chunk: bytes) -> None:
        if self._length == 0:
            self.header = parse(chunk)
        start, self._length = self._length, self._length + len(chunk)
        if self.header is None or self.header.floats is None:
            return
        data = self._rest + chunk[max(self.header.offset - start, 0) :]
        whole = len(data) - len(data) % self.header.floats.itemsize
        self._rest = data[whole:]
        values = np.frombuffer(data[:whole], self.header.floats)
        self.count += int((~np.isfinite(values)).sum())


def _qform(pixdim: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (4, 4) matrix of quaternion b, c, d, offset x, y, z and voxel sizes, see nifti1.h."""
    b, c, d = values[:3]
    a = np.sqrt(max(0.0, 1.0 - float(b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * pixdim[1:4] * (1, 1, -1 if pixdim[0] < 0 else 1)
    matrix[:3, 3] = values[3:]
    return matrix
