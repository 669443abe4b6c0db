"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5, parsed by nibabel, with the geometry that ITK has.

Where sform and qform disagree, ITK takes the qform, unless the sform's code says "scanner" and its
axes are perpendicular. The voxel size is pixdim's. hsyn differs from ITK in two places and says so:
where the only form has another voxel size than pixdim, the form's counts; and axes that rounding
made oblique by a hair are made perpendicular again.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io import files
from hsyn_cli.io.endings import ANALYZE, ends
from hsyn_cli.io.headers import VISIBLE, Header, Intent, Timing, dimensions, placed
from hsyn_cli.space import RAS, Array, Grid, shear

SINGLE = (b"n+1\0", b"n+2\0")  # the magic of a file that holds header and voxels ...
PAIR = (b"ni1\0", b"ni2\0")  # ... and of a header whose voxels stand in a file .img
MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # of the unit's code: metre, millimetre, micrometre
SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
PERPENDICULAR = 2e-4  # shear up to which ITK accepts an sform
SAME_SIZE = 1e-6  # of a voxel size; what float32 rounds
FARTHEST = 1 << 40  # bytes before the first voxel
COLOURS = {128: 3, 2304: 4}  # datatype: numbers per voxel
COMPLEX = (32, 1792, 2048)
LARGEST_MATRIX = 1 << 20  # bytes of SPM's file
# What scipy raises for a damaged one, beside its own MatReadError.
UNREADABLE = (ValueError, TypeError, LookupError, MemoryError, OverflowError, zlib.error)


def is_nifti(head: bytes) -> bool:
    """True if these first bytes of a file are those of NIfTI-1 or -2."""
    return _magic(head) in SINGLE + PAIR


def parse(head: bytes, path: Path, name: str) -> Header:
    """The header of the file at `path`, from its first bytes.

    Raises InputError for a damaged header, GeometryError for an unusable geometry.
    """
    damaged = InputError(
        f"{name}: its header is damaged, or it is no NIfTI file", "copy or convert the file again"
    )
    order = order_of(head)
    if order is None or (_magic(head) not in SINGLE + PAIR and not ends(path, ANALYZE)):
        raise damaged
    from nibabel.spatialimages import HeaderDataError

    header = raw(head, order)
    try:
        _check_extension(head, header, order)
        return _header(header, path, name)
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        text = f"data type {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{name}: its header is damaged ({text[:80]})", "copy it again") from error


def partner(path: Path, ending: str) -> Path:
    """The header ".hdr" or the voxels ".img" of a pair, in the spelling of `path`."""
    text, zipped = (path.name[:-3], path.name[-3:]) if ends(path, [".gz"]) else (path.name, "")
    if not ends(text, [".hdr", ".img"]):
        return path.with_name(Path(text).stem + ending)
    spelt = ending.upper() if text[-4:].isupper() else ending
    found = path.with_name(text[:-4] + spelt + zipped)
    other = path.with_name(text[:-4] + spelt + ("" if zipped else ".gz"))
    return other if other.exists() and not found.exists() else found


def _magic(head: bytes) -> bytes:
    return head[4:8] if len(head) >= 540 and 540 in _sizes(head) else head[344:348]


def _sizes(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")


def order_of(head: bytes) -> str | None:
    """Byte order, from the size of the header, which stands first."""
    orders = dict(zip(_sizes(head), "<>", strict=True)) if len(head) >= 348 else {}
    return orders.get(540) if len(head) >= 540 and 540 in orders else orders.get(348)


def raw(head: bytes, order: str) -> Any:
    """nibabel's header object, unchecked, because nibabel would write its findings to stderr."""
    import nibabel as nib

    if _magic(head) in (b"n+2\0", b"ni2\0"):
        return nib.Nifti2Header(head[:540], order, check=False)
    if _magic(head) in SINGLE + PAIR:
        return nib.Nifti1Header(head[:348], order, check=False)
    return nib.Spm2AnalyzeHeader(head[:348], order, check=False)


def _header(h: Any, path: Path, name: str) -> Header:
    analyze = "magic" not in h
    count = int(h["dim"][0])
    if not 1 <= count <= 7:
        raise ValueError(f"{count} axes")
    dim = dimensions([int(n) for n in h["dim"][1 : count + 1]], name)
    code = int(h["datatype"])
    if code in COMPLEX:
        raise InputError(f"{name} holds complex numbers", "give the magnitude")
    pair = analyze or h["magic"].tobytes().ljust(4, b"\0")[:4] in PAIR
    dtype = h.get_data_dtype()
    slope, inter = (1.0, 0.0) if code in COLOURS else _scale(h)
    parts = (partner(path, ".hdr"), partner(path, ".img")) if pair else (path,)
    if pair and not ends(path, ANALYZE):
        parts = (path, partner(path, ".img"))
    unit = 2 if analyze else int(h["xyzt_units"]) & 7
    grid, notes = _geometry(h, path, [*dim, 1, 1][:3], MM.get(unit, 1.0), name)
    return Header(
        path=path,
        parts=parts,
        kind="Analyze" if analyze else f"NIfTI-{1 if h['sizeof_hdr'] == 348 else 2}",
        dim=dim,
        grid=grid,
        dtype=_plain(dtype),
        colours=COLOURS.get(code, 1),
        coloured=code in COLOURS,
        offset=_offset(h, pair),
        slope=slope,
        inter=inter,
        intent=Intent() if analyze else _intent(h),
        timing=Timing() if analyze else _timing(h),
        notes=notes,
        axes=count,
    )


def _check_extension(head: bytes, h: Any, order: str) -> None:
    """Raise ValueError if extensions reach into the voxels of a single file."""
    if _magic(head) not in SINGLE:
        return
    first = int(h["sizeof_hdr"]) + 4  # byte after the flags that tell of extensions
    size = int.from_bytes(head[first : first + 4], "little" if order == "<" else "big", signed=True)
    if first + 4 <= len(head) and head[first - 4] and not 8 <= size <= h["vox_offset"] - first:
        raise ValueError("its extensions reach into the voxels")


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of one number; colours are records of bytes."""
    if dtype.fields is None and (dtype.kind not in "iuf" or dtype.itemsize == 0):
        raise ValueError(f"data type {dtype}")
    return np.dtype("u1") if dtype.fields else dtype


def _offset(h: Any, pair: bool) -> int:
    offset = float(h["vox_offset"])
    least = 0 if pair else int(h["sizeof_hdr"])
    if not least <= offset < FARTHEST:
        raise ValueError(f"voxels at byte {offset:g}")
    return int(offset)


def _scale(h: Any) -> tuple[float, float]:
    slope, inter = h.get_slope_inter()
    return (1.0, 0.0) if slope is None else (float(slope), float(inter or 0.0))


def _intent(h: Any) -> Intent:
    name = h["intent_name"].tobytes().split(b"\0")[0].decode("latin-1").strip()
    return Intent(int(h["intent_code"]), name, float(h["intent_p1"]))


def _timing(h: Any) -> Timing:
    return Timing(float(h["pixdim"][4]), float(h["toffset"]), int(h["xyzt_units"]) & 0o70)


def _geometry(
    h: Any, path: Path, size: list[int], mm: float, name: str
) -> tuple[Grid, tuple[str, ...]]:
    """The grid as ITK has it, in mm LPS, and notes where others will see another one."""
    zooms = np.abs(np.array(h["pixdim"][1:4], float)) * mm
    if "magic" not in h:
        matrix = _spm_matrix(path, name)
        q, s, sizes = None, matrix, None
    else:
        sizes = zooms
        q = _scaled(_qform(h), mm) if h["qform_code"] > 0 else None
        s = _scaled(h.get_sform(), mm) if h["sform_code"] > 0 else None
    if q is None and s is None:
        codes = "qform and sform codes are 0" if "magic" in h else "Analyze has none"
        grid, _ = placed(RAS @ np.diag([*zooms, 1.0]), size, name)
        return grid, (f"the header gives no orientation ({codes}); hsyn assumes LPS axes",)
    trusted = int(h.get("sform_code", 0)) == SCANNER if q is not None else True
    use_s = s is not None and trusted and (q is None or _perpendicular(s))
    chosen = s if use_s else q
    assert chosen is not None
    if not use_s and (h["pixdim"][1:4] < 0).any():
        raise ValueError("a voxel size is negative")
    grid, notes = placed(chosen, size, name)
    if sizes is not None and use_s:
        grid, more = _sized(grid, sizes, q is None)
        notes += more
    if q is not None and s is not None:
        notes += _disagreement(q, s, grid, "sform" if use_s else "qform")
    return grid, notes


def _scaled(form: Array, mm: float) -> Array:
    return form * [[mm], [mm], [mm], [1.0]]


def _perpendicular(form: Array) -> bool:
    lengths = np.linalg.norm(form[:3, :3], axis=0)
    return bool(np.isfinite(form).all() and lengths.min() > 0) and shear(form) <= PERPENDICULAR


def _sized(grid: Grid, sizes: Array, only: bool) -> tuple[Grid, tuple[str, ...]]:
    """`grid` with the voxel sizes of pixdim; with the only form's where these are others."""
    own = np.array(grid.spacing)
    usable = bool(np.isfinite(sizes).all() and (sizes > 0).all())
    same = usable and bool((np.abs(own - sizes) <= SAME_SIZE * own).all())
    if usable and (same or not only):
        x, y, z = sizes.tolist()
        return Grid(grid.size, (x, y, z), grid.origin, grid.direction), ()
    apart = np.abs(own - sizes) * (np.array(grid.size) - 1)
    if usable and (apart <= VISIBLE * own).all():
        return grid, ()
    told = " and ".join(" x ".join(f"{v:.4g}" for v in each) for each in (own, sizes))
    text = f"the voxel sizes by sform and by pixdim are {told} mm; hsyn uses the sform's"
    return grid, (f"{text}, ANTs and other programs see the other",)


def _disagreement(q: Array, s: Array, grid: Grid, used: str) -> tuple[str, ...]:
    """A note if both forms place a corner differently."""
    corners = np.array([(*b, 1.0) for b in np.ndindex(2, 2, 2)]) * [*(np.array(grid.size) - 1), 1]
    apart = float(np.linalg.norm((corners @ (q - s).T)[:, :3], axis=1).max())
    if apart <= VISIBLE * min(grid.spacing):
        return ()
    mirrored = " and mirror one another" if np.linalg.det(q) * np.linalg.det(s) < 0 else ""
    return (f"sform and qform disagree by up to {apart:.1f} mm{mirrored}; the {used} is used",)


def _qform(h: Any) -> Array:
    """The (4, 4) matrix, RAS, of quaternion, offset and voxel sizes, as nifti1.h defines it.

    As there, a quaternion whose first number is lost in rounding is scaled to length 1.
    """
    b, c, d = (float(h[f"quatern_{k}"]) for k in "bcd")
    length = b * b + c * c + d * d
    if length > 1 - 1e-7:
        b, c, d = (v / length**0.5 for v in (b, c, d))
        length = 1.0
    a = (1.0 - length) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    sizes = np.abs(np.array(h["pixdim"][1:4], float))
    matrix[:3, :3] = rotation * sizes * (1, 1, -1 if h["pixdim"][0] < 0 else 1)
    matrix[:3, 3] = [float(h[f"qoffset_{k}"]) for k in "xyz"]
    return matrix


def _spm_matrix(path: Path, name: str) -> Array | None:
    """The matrix, RAS, of SPM's .mat beside an Analyze file; None without that file.

    `mat` holds all; `M` leaves out that Analyze counts x from the right.
    """
    file = partner(path, ".mat")
    if not file.is_file():
        return None
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    to_first = np.eye(4)
    to_first[:3, 3] = 1  # MATLAB counts from 1
    try:
        with files.content(file, "matrix") as stream:
            found = loadmat(io.BytesIO(stream.read(LARGEST_MATRIX)))
        matrix = found["mat"] if "mat" in found else np.diag([-1.0, 1, 1, 1]) @ found["M"]
        matrix = np.array(matrix, float)
        return (matrix[..., 0] if matrix.ndim == 3 else matrix).reshape(4, 4) @ to_first
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        MatReadError,
        zlib.error,
    ) as error:
        raise InputError(
            f"{name}: its matrix {file.name} cannot be read: {str(error)[:80]}",
            "repair or remove that file",
        ) from error
