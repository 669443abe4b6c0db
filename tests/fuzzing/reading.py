"""The reading step, in the forked child: hsyn's answer, then that of nibabel and of ITK.

An answer is plain data: arrays (X, Y, Z[, C]), affines index -> LPS mm.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import traceback
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

import hsyn_cli.io
from fuzzing.model import LPS, Array, Case
from hsyn_cli.errors import HsynError
from hsyn_cli.io import formats, images, series, transforms
from hsyn_cli.space import Grid

LARGEST = 2_000_000  # numbers of an array that are sent back
POINTS = np.array([[0, 0, 0], [30, 0, 0], [0, -40, 0], [0, 0, 50], [-17, 23, 11.0]])
KNOWN = 5  # the largest code of a form


def warm() -> None:
    """Load what hsyn loads only when it needs it."""
    for module in pkgutil.walk_packages(hsyn_cli.io.__path__, "hsyn_cli.io."):
        importlib.import_module(module.name)
    importlib.import_module("scipy.io")


def read(case: Case, path: Path) -> dict[str, Any]:
    """{"state": "read", ...}, or "refused" with hsyn's error, or "raised" with a traceback."""
    try:
        return {"state": "read", **_read(case, path)}
    except HsynError as error:
        kind = type(error).__name__
        return {
            "state": "refused", "error": kind, "code": error.exit_code, "message": error.message,
            "hint": error.hint,
        }  # fmt: skip
    except BaseException as error:  # noqa: BLE001
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if "hsyn_cli" in line.filename] or lines
        where = f"{Path(own[-1].filename).name}:{own[-1].name}"
        return {
            "state": "raised", "error": type(error).__name__, "where": where,
            "message": str(error)[:500], "traceback": traceback.format_exc()[-4000:],
        }  # fmt: skip


def _read(case: Case, path: Path) -> dict[str, Any]:
    if case.use == "image":
        return _scan(images.read_image(path))
    if case.use == "any":
        return _scan(images.read_any(path))
    if case.use == "labels":
        return _scan(images.read_labels(path, None))
    if case.use == "mask":
        return _scan(images.read_mask(path, _reference(case)))
    if case.use == "field":
        return _scan(images.read_field(path))
    if case.use == "grid":
        return _grid(images.read_grid(path))
    if case.use == "series":
        return _series(path)
    if case.use == "transform":
        transform, sha256, _ = transforms.read_any_transform(path)
        return {"points": _through(transform), "sha256": sha256}
    fixed, moving = (_grid_of(*grid) for grid in case.grids) if case.grids else (None, None)
    found = formats.read(path, case.option, fixed, moving)
    if isinstance(found, np.ndarray):
        return {"points": POINTS @ found[:3, :3].T + found[:3, 3]}
    return _image(found)


def _scan(scan: Any) -> dict[str, Any]:
    return {**_image(scan.image), "sha256": scan.sha256, "warnings": list(scan.warnings)}


def _image(image: sitk.Image) -> dict[str, Any]:
    values = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        values = np.moveaxis(values, -1, 0)
    values = values[:LARGEST] if values.size > LARGEST else values
    return {**_grid(Grid.of(image)), "values": values.T}


def _grid(grid: Grid) -> dict[str, Any]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.index_to_point, grid.origin
    return {"affine": affine, "size": tuple(grid.size)}


def _series(path: Path) -> dict[str, Any]:
    """All volumes, (X, Y, Z, T); an empty answer if the file holds one volume."""
    found = series.find(path)
    if found is None:
        return {"no_series": True}
    parts = [_image(image) for image in series.volumes(found)]
    stacked = np.stack([part["values"] for part in parts], -1)
    return {**parts[0], "values": stacked, "sha256": found.sha256}


def _through(transform: Any) -> Array:
    return np.array([transform.TransformPoint(tuple(point)) for point in POINTS])


def _grid_of(size: tuple[int, ...], affine: Array) -> Grid:
    """The grid of `size` with an affine index -> RAS, mm."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    x, y, z = size[:3]
    sx, sy, sz = spacing.tolist()
    ox, oy, oz = lps[:3, 3].tolist()
    direction = tuple((lps[:3, :3] / spacing).ravel().tolist())
    return Grid((x, y, z), (sx, sy, sz), (ox, oy, oz), direction)


def _reference(case: Case) -> sitk.Image:
    """An image on the grid that the file of a mask was written with."""
    (size, affine), *_ = case.grids
    return _grid_of(size, affine).empty_image(sitk.sitkUInt8)


def oracles(path: Path) -> dict[str, Any]:
    """What nibabel and ITK say of the file; {} of one that refuses it."""
    nibabel.imageglobals.logger.setLevel("CRITICAL")
    found: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    try:
        found["nibabel"] = _by_nibabel(path)
    except Exception as error:  # noqa: BLE001
        found["nibabel_says"] = f"{type(error).__name__}: {error}"[:200]
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        n, affine = reader.GetDimension(), np.eye(4)
        if n >= 3:
            axes = np.array(reader.GetDirection()).reshape(n, n)[:3, :3]
            affine[:3, :3] = axes * np.array(reader.GetSpacing()[:3])
            affine[:3, 3] = reader.GetOrigin()[:3]
            found["itk"] = affine
    except Exception as error:  # noqa: BLE001
        found["itk_says"] = f"{type(error).__name__}: {error}"[-200:]
    return found


def _raw(image: Any) -> Any:
    """The header as the file has it; nibabel changes what it loads."""
    part = "header" if "header" in image.file_map else "image"
    with image.file_map[part].get_prepare_fileobj("rb") as stream:
        return type(image.header)(stream.read(image.header.sizeof_hdr), check=False)


def _by_nibabel(path: Path) -> dict[str, Any]:
    """Values with their slope, and every affine that the header has, index -> LPS in its unit."""
    image: Any = nibabel.load(path)
    header, values = image.header, np.asanyarray(image.dataobj)
    if values.dtype.names:
        values = np.stack([values[name] for name in values.dtype.names], -1)
    forms: dict[str, Any] = {"best": image.affine}
    if hasattr(header, "get_sform"):
        forms = {}
        raw = _raw(image)
        if header.is_single and raw["vox_offset"] < header.sizeof_hdr:
            raise ValueError("the voxels would begin in the header")
        codes = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
        for name in (name for name, code in codes.items() if code > 0):
            forms[name] = getattr(header, f"get_{name}")()
        if max(codes.values()) > KNOWN:  # nibabel takes such codes for 0, ITK does not
            forms["best"] = image.affine
    keys = [
        key for key in ("intent_code", "intent_name", "intent_p1", "xyzt_units") if key in header
    ]
    return {
        **{key: header[key].item() for key in keys},
        "values": values,
        "forms": {key: LPS @ affine for key, affine in forms.items()},
        "class": type(image).__name__,
    }
