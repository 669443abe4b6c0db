"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5, parsed by nibabel, with the geometry that ITK has.

Where sform and qform disagree, ITK takes the qform, unless the sform's code says "scanner" and its
axes are perpendicular. The voxel size is pixdim's. hsyn differs from ITK in two places and says so:
where the only form has another voxel size than pixdim, the form's counts; and axes that rounding
made oblique by a hair are made perpendicular again.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.errors import GeometryError, InputError
from hsyn_cli.io.endings import ANALYZE, ends
from hsyn_cli.io.headers import Header, Intent, Timing, dimensions
from hsyn_cli.space import Array, Grid, from_ras, shear

SINGLE = (b"n+1\0", b"n+2\0")  # the magic of a file that holds header and voxels ...
PAIR = (b"ni1\0", b"ni2\0")  # ... and of a header whose voxels stand in a file .img
MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # of the unit's code: metre, millimetre, micrometre
SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
PERPENDICULAR = 2e-4  # shear up to which ITK accepts an sform
ROUNDED = 4e-3  # shear that rounding to three digits can make
VISIBLE = 0.1  # voxels; smaller differences of geometry are not told
OTHER_SIZE = 0.01  # of a voxel size; larger differences are told
FARTHEST = 1 << 40  # bytes before the first voxel
COLOURS = {128: 3, 2304: 4}  # datatype: numbers per voxel
COMPLEX = (32, 1792, 2048)


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
    order = _order(head)
    if order is None or (_magic(head) not in SINGLE + PAIR and not ends(path, ANALYZE)):
        raise damaged
    from nibabel.spatialimages import HeaderDataError

    header = _nibabel(head, order)
    try:
        return _header(header, path, name)
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: its header is damaged ({error})", "copy it again") from error


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


def _order(head: bytes) -> str | None:
    """Byte order, from the size of the header, which stands first."""
    orders = dict(zip(_sizes(head), "<>", strict=True))
    return orders.get(540) if len(head) >= 540 and 540 in orders else orders.get(348)


def _nibabel(head: bytes, order: str) -> Any:
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
        dtype=dtype.base if dtype.subdtype else _plain(dtype),
        colours=COLOURS.get(code, 1),
        offset=_offset(h, pair),
        slope=slope,
        inter=inter,
        intent=Intent() if analyze else _intent(h),
        timing=Timing() if analyze else _timing(h),
        notes=notes,
        axes=count,
    )


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of one number; colours are records of bytes."""
    return np.dtype("u1") if dtype.fields else dtype


def _offset(h: Any, pair: bool) -> int:
    offset = float(h["vox_offset"])
    least = 0 if pair else int(h["sizeof_hdr"])
    if offset == 0:
        return 0 if pair else least + 4
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
    for form in (q, s):
        if form is not None and not _usable(form):
            raise GeometryError(
                f"{name}: the header lacks a usable spacing, origin or direction",
                "repair the header",
            )
    if q is None and s is None:
        if not (np.isfinite(zooms).all() and (zooms > 0).all()):
            raise GeometryError(f"{name}: the header lacks a usable spacing", "repair the header")
        codes = "qform and sform codes are 0" if "magic" in h else "Analyze has none"
        axes = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([*zooms, 1.0])  # RAS
        return from_ras(axes, size), (
            f"the header gives no orientation ({codes}); hsyn assumes LPS axes",
        )
    use_s = s is not None and (
        q is None or (int(h["sform_code"]) == SCANNER and shear(s) <= PERPENDICULAR)
    )
    chosen = s if use_s else q
    assert chosen is not None
    grid, notes = _perpendicular(chosen, size, name)
    if sizes is not None and use_s:
        grid, more = _sized(grid, sizes, q is None)
        notes += more
    if q is not None and s is not None:
        notes += _disagreement(q, s, grid, "sform" if use_s else "qform")
    return grid, notes


def _scaled(form: Array, mm: float) -> Array:
    return np.diag([mm, mm, mm, 1.0]) @ form


def _usable(form: Array) -> bool:
    return bool(np.isfinite(form).all()) and abs(np.linalg.det(form[:3, :3])) > 1e-30


def _perpendicular(form: Array, size: list[int], name: str) -> tuple[Grid, tuple[str, ...]]:
    """The grid of a form, whose axes rounding may have turned a little."""
    if shear(form) > ROUNDED:
        raise GeometryError(
            f"{name} has sheared axes", "resample it to a grid with perpendicular axes"
        )
    grid = from_ras(form, size)
    last = np.array(size) - 1.0
    there = np.diag([-1.0, -1.0, 1.0]) @ (form[:3, :3] @ last)
    apart = float(np.linalg.norm(grid.index_to_point @ last - there))
    if apart <= VISIBLE * min(grid.spacing):
        return grid, ()
    return grid, (f"the axes are not quite perpendicular; hsyn straightens {apart:.2g} mm",)


def _sized(grid: Grid, sizes: Array, only: bool) -> tuple[Grid, tuple[str, ...]]:
    """`grid` with the voxel sizes of pixdim; with the only form's where these are others."""
    own = np.array(grid.spacing)
    usable = bool(np.isfinite(sizes).all() and (sizes > 0).all())
    same = usable and bool((np.abs(own - sizes) <= OTHER_SIZE * own).all())
    if usable and (same or not only):
        x, y, z = sizes.tolist()
        return Grid(grid.size, (x, y, z), grid.origin, grid.direction), ()
    told = (" x ".join(f"{v:.4g}" for v in s) for s in (own, sizes))
    text = "the voxel size is {} mm by the sform and {} mm by pixdim; hsyn uses the sform's".format(
        *told
    )
    return grid, (f"{text}, ANTs and other programs see the other",)


def _disagreement(q: Array, s: Array, grid: Grid, used: str) -> tuple[str, ...]:
    """A note if both forms place a corner differently."""
    corners = np.array([(*b, 1.0) for b in np.ndindex(2, 2, 2)]) * [*(np.array(grid.size) - 1), 1]
    apart = float(np.linalg.norm((corners @ (q - s).T)[:, :3], axis=1).max())
    if apart <= VISIBLE * min(grid.spacing):
        return ()
    return (f"sform and qform disagree by up to {apart:.1f} mm; the {used} is used",)


def _qform(h: Any) -> Array:
    """The (4, 4) matrix, RAS, of quaternion, offset and voxel sizes, as nifti1.h defines it.

    A quaternion that rounding made too long is scaled to length 1.
    """
    b, c, d = (float(h[f"quatern_{k}"]) for k in "bcd")
    length = b * b + c * c + d * d
    if length > 1:
        b, c, d = (v / length**0.5 for v in (b, c, d))
    a = max(0.0, 1.0 - (b * b + c * c + d * d)) ** 0.5
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
    """The matrix, RAS, of SPM's .mat beside an Analyze file; None without that file."""
    file = partner(path, ".mat")
    if not file.is_file():
        return None
    import nibabel as nib
    from scipy.io.matlab import MatReadError

    try:
        head = nib.Spm2AnalyzeImage.from_filename(str(partner(path, ".hdr")))
        return np.array(head.affine, float)
    except (OSError, ValueError, TypeError, KeyError, MatReadError, zlib.error) as error:
        raise InputError(
            f"{name}: its matrix {file.name} cannot be read: {error}", "repair or remove that file"
        ) from error
