"""Strategies for NIfTI-1 and 2, Analyze, SPM and FreeSurfer's files: valid, then field by field."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spm99analyze import Spm99AnalyzeHeader

from fuzzing.contents import FLOATS, INTEGERS
from fuzzing.damage import damaged, gzipped, odd_gzip
from fuzzing.fields import Style
from fuzzing.model import Array, Damaged, Kind, Volume

Draw = Callable[[st.SearchStrategy[Any]], Any]
FORMS = ("nifti1", "nifti1", "nifti2", "nifti1 pair", "nifti2 pair", "analyze", "spm", "mgh")
UNITS = {2: 1.0, 1: 1000.0, 3: 0.001, 0: 1.0}  # code of the unit -> mm
# Fields that say nothing about values or geometry.
MEANINGLESS = {
    *("data_type", "db_name", "extents", "session_error", "regular", "dim_info", "slice_start"),
    *("slice_end", "slice_code", "slice_duration", "cal_max", "cal_min", "glmax", "glmin"),
    *("descrip", "aux_file", "toffset", "unused_str", "dof", "tr", "flip_angle", "te", "ti", "fov"),
    *("generated", "scannum", "patient_id", "exp_date", "exp_time", "views", "vols_added"),
}
BY_SPM = ("cal_max", "cal_min", "glmax", "glmin")  # SPM2 takes its slope from them
WHOLE = (0, -1, 1, 2, 3, 4, 5, 7, 8, 16, 64, 255, 256, 1006, 1007, 1011, 2006, 2003, 32767)
REAL = (0.0, -1.0, 1.0, np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30, 3e38, 351.0, 353.5, 0.001)
TEXT = (b"", b"n+1", b"ni1", b"n+2", b"NREG_TRANS", b"Mapping", b"\xff" * 99, b"%s%n", b"r", b"\n")


@dataclass
class Draft:
    """The parts of a file that is being made.

    `header`: a structured array. `affines`: index -> RAS mm, as its fields round them; None: it
    has no orientation. `gap`: between it and the voxels. `foot`: how many bytes of the header
    stand behind the voxels. `others`: files beside it by their ending.
    """

    header: Any
    affines: tuple[Array | None, ...]
    voxels: bytes
    gap: bytes = b""
    foot: int = 0
    has_foot: bool = True
    pair: bool = False
    others: dict[str, bytes] = field(default_factory=dict)

    def parts(self, ending: str) -> dict[str, bytes]:
        """{ending: content}, not compressed; `ending`: of a single file."""
        head, tail = self.header.tobytes(), b""
        if self.foot:
            head, tail = head[: -self.foot], head[-self.foot :] * self.has_foot
        head += self.gap
        if not self.pair:
            return {ending: head + self.voxels + tail}
        return {".hdr": head, ".img": self.voxels, **self.others}


def on_disk(volume: Volume, stacked: bool) -> Any:
    """The array in the shape that the header says: fields (X, Y, Z, 1, 3) or (X, Y, Z, 3)."""
    if volume.kind == "field" and not stacked:
        return volume.stored[:, :, :, None]
    return volume.stored


def nifti_draft(draw: Draw, volume: Volume, form: str, style: Style) -> Draft:
    """NIfTI-1 or 2 with any forms, units, byte order and extension."""
    two, pair = "nifti2" in form, "pair" in form
    classes: Any = (Nifti1Header, Nifti1PairHeader, Nifti2Header, Nifti2PairHeader)
    order = draw(st.sampled_from("<<>"))
    header = classes[2 * two + pair](endianness=order)
    data = on_disk(volume, style.stacked and draw(st.booleans()))
    header.set_data_shape(data.shape[:3] if volume.kind == "rgb" else data.shape)
    header.set_data_dtype("RGB" if volume.kind == "rgb" else data.dtype)
    unit = draw(st.sampled_from((2, 2, 2, 1, 3, 0)))
    affine = volume.affine.copy()
    affine[:3] /= UNITS[unit]
    header["xyzt_units"] = unit | draw(st.sampled_from((0, 8, 16)))
    zooms = header["pixdim"]
    zooms[1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    q, s = draw(st.sampled_from(((1, 1), (1, 2), (0, 1), (1, 0), (4, 4), (2, 0), (0, 3))))
    if q:
        header.set_qform(affine, q)
    if s:
        header.set_sform(affine, s)
    stored = [header.get_qform()] * bool(q) + [header.get_sform()] * bool(s)
    stored = stored[::-1] if s == 1 else stored  # first ITK's choice
    to_mm = np.diag([UNITS[unit]] * 3 + [1.0])
    if (volume.slope, volume.inter) != (1, 0) or draw(st.booleans()):
        header["scl_slope"], header["scl_inter"] = volume.slope, volume.inter
    if volume.kind == "field":
        header["intent_code"], header["intent_p1"] = style.intent, style.parameter
        header["intent_name"] = style.name
    gap = _extension(draw, order)
    if not pair:
        header["vox_offset"] = header.sizeof_hdr + len(gap)
    raw = data.astype(data.dtype.newbyteorder(order))
    voxels = (np.moveaxis(raw, -1, 0) if volume.kind == "rgb" else raw).tobytes(order="F")
    return Draft(header.structarr, tuple(to_mm @ form for form in stored), voxels, gap, pair=pair)


def _extension(draw: Draw, order: str) -> bytes:
    """None, one, or a gap before the voxels."""
    how = draw(st.sampled_from(("none", "none", "none", "comment", "gap")))
    if how == "comment":
        return b"\1\0\0\0" + struct.pack(order + "2i", 32, 6) + b"a comment".ljust(24, b"\0")
    return bytes(4) + (bytes(48) if how == "gap" else b"")


def analyze_draft(draw: Draw, volume: Volume, form: str) -> Draft:
    """Analyze 7.5 without an orientation, or SPM99's with its .mat file."""
    order = draw(st.sampled_from("<<>"))
    header = Spm99AnalyzeHeader(endianness=order)
    header.set_data_shape(volume.stored.shape)
    header.set_data_dtype(volume.stored.dtype)
    header["pixdim"][1:4] = volume.spacing
    header["scl_slope"] = volume.slope if form == "spm" else 0
    raw = volume.stored.astype(volume.stored.dtype.newbyteorder(order))
    affine = volume.affine if form == "spm" else None
    draft = Draft(header.structarr, (affine,), raw.tobytes(order="F"), pair=True)
    if form == "spm":
        from scipy.io import savemat

        one = np.eye(4)
        one[:3, 3] = -1  # Matlab counts from 1
        matrix, stream = volume.affine @ one, io.BytesIO()
        flipped = np.diag([-1.0, 1, 1, 1]) @ matrix
        savemat(stream, {"M": flipped, "mat": matrix}, format=draw(st.sampled_from("45")))
        content = stream.getvalue()
        if content.startswith(b"MATLAB"):  # its first line tells the time
            content = b"MATLAB 5.0 MAT-file".ljust(116) + content[116:]
        draft.others[".mat"] = content
    return draft


def mgh_draft(draw: Draw, volume: Volume) -> Draft:
    """FreeSurfer's, with the fields after the voxels that the format allows to lack."""
    header = MGHHeader()
    header.set_data_shape(volume.stored.shape)
    header.set_data_dtype(volume.stored.dtype)
    spacing = volume.spacing
    header["delta"] = spacing
    header["Mdc"] = (volume.affine[:3, :3] / spacing).T
    centre = np.array(volume.stored.shape[:3]) / 2
    header["Pxyz_c"] = volume.affine[:3, :3] @ centre + volume.affine[:3, 3]
    voxels = volume.stored.astype(volume.stored.dtype.newbyteorder(">")).tobytes(order="F")
    foot = draw(st.booleans())
    return Draft(header.structarr, (volume.affine,), voxels, bytes(194), foot=20, has_foot=foot)


def draft(draw: Draw, volume: Volume, form: str, style: Style) -> Draft:
    """A valid file of any format of `FORMS`. `style`: of fields, which NIfTI alone can hold."""
    if form == "mgh":
        return mgh_draft(draw, volume)
    if form in ("analyze", "spm"):
        return analyze_draft(draw, volume, form)
    return nifti_draft(draw, volume, form, style)


def content_of(form: str) -> tuple[tuple[Kind, ...], tuple[str, ...], bool]:
    """The kinds and types that a format of this module can hold, and whether it scales them."""
    if form == "mgh":
        return ("scalar", "scalar", "labels", "series"), ("u1", "i2", "i4", "f4"), False
    if form in ("analyze", "spm"):
        return ("scalar", "scalar", "labels"), ("u1", "i2", "i4", "f4", "f8"), False
    kinds: tuple[Kind, ...] = ("scalar", "scalar", "labels", "series", "field", "field", "rgb")
    return kinds, (*INTEGERS, *FLOATS), True


@st.composite
def changed_header(draw: Draw, draft: Draft) -> Damaged:
    """Set one to three fields of `draft.header`, in place, to values of all kinds."""
    if draw(st.integers(0, 19)) == 0:
        draft.header = draft.header.byteswap()
        if draft.gap[:1] == b"\1":
            size, code = draft.gap[4:8], draft.gap[8:12]
            draft.gap = draft.gap[:4] + size[::-1] + code[::-1] + draft.gap[12:]
        return Damaged("header in the other byte order")
    names = draft.header.dtype.names
    done, neutral = [], True
    for _ in range(draw(st.sampled_from((1, 1, 1, 1, 2, 3)))):
        name = draw(st.sampled_from(names))
        value = draft.header[name]
        index = tuple(draw(st.integers(0, n - 1)) for n in value.shape)
        new = draw(_values(value.dtype, value[index]))
        value[index] = new
        neutral &= name in MEANINGLESS and not (name in BY_SPM and "magic" not in names)
        place = str(list(index)) if index else ""
        done.append(f"{name}{place}={new!r}")
    return Damaged(", ".join(done), neutral)


def _values(dtype: np.dtype[Any], now: Any) -> st.SearchStrategy[Any]:
    """Interesting values of a header field that is `now` so."""
    if dtype.kind in "SV":
        return st.sampled_from(TEXT) | st.binary(max_size=dtype.itemsize)
    if dtype.kind == "f":
        number = float(now)
        near = [number * 2, number * 1.001, -number, number + 1]
        most = float(np.finfo(dtype).max)
        return st.sampled_from([v for v in (*REAL, *near) if not most < abs(v) < np.inf])
    limits = np.iinfo(dtype)
    near = [int(now) + 1, int(now) - 1, int(now) * 2, int(now.byteswap())]
    every = [*WHOLE, *near, int(limits.max), int(limits.min)]
    return st.sampled_from([v for v in every if limits.min <= v <= limits.max])


@st.composite
def changed_extension(draw: Draw, draft: Draft) -> Damaged:
    """Set the flag and the length of an extension to values that lie."""
    size = draw(st.sampled_from((0, 1, 8, 15, 16, 48, -16, 2**31 - 1, 352)))
    code = draw(st.sampled_from((0, 2, 4, 6, 99, -1)))
    flag = draw(st.sampled_from((b"\1\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff")))
    draft.gap = flag + struct.pack("<2i", size, code) + draft.gap[12:]
    return Damaged(f"extension={flag!r} {size} {code}")


@st.composite
def packed(
    draw: Draw, parts: dict[str, bytes], zipped: bool, change: str
) -> tuple[dict[str, bytes], Damaged | None]:
    """{ending: content} as on disk. `change`: "" or "bytes", which damages one part."""
    victim = draw(st.sampled_from(sorted(parts))) if change else ""
    out: dict[str, bytes] = {}
    done = None
    for ending, content in parts.items():
        zip_it = zipped and (ending != ".mat" or draw(st.booleans()))
        name = ending + ".gz" * (zip_it and ending != ".mgz")
        if ending != victim:
            out[name] = gzipped(content) if zip_it else content
        elif zip_it and draw(st.booleans()):
            out[name], done = draw(odd_gzip(content))
        else:
            content, done = draw(damaged(content, ending not in (".mat", ".hdr")))
            out[name] = gzipped(content) if zip_it else content
            done = Damaged(f"{ending} {done.change}", done.neutral)
    return out, done
