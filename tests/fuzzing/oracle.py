"""What a changed NIfTI, Analyze or MGH file means: nibabel's values in ITK's geometry."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzzing.fields import said, to_lps
from fuzzing.model import LPS, Array, Case, Expected

UNITS = {1: 1000.0, 3: 0.001}


def corners_apart(a: Array, b: Array, size: tuple[int, ...]) -> tuple[float, float]:
    """How far two affines take a corner apart, mm; what rounding and a little shear may do."""
    corners = np.array([(*(np.array(size[:3]) - 1) * bits, 1.0) for bits in np.ndindex(2, 2, 2)])
    apart = float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())
    spacing = np.linalg.norm(b[:3, :3], axis=0)
    axes = b[:3, :3] / np.where(spacing > 0, spacing, 1)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    extent = float(np.linalg.norm(spacing * np.array(size[:3])))
    allowed = 1e-3 + 1e-6 * float(np.abs(b[:3, 3]).max()) + extent * (1e-6 + min(shear, 2e-3))
    return apart, allowed


def by_nibabel(case: Case, oracles: dict[str, Any]) -> list[Expected]:
    """Every content that may be read; [] if only a refusal will do."""
    found = oracles["nibabel"]
    values = np.asarray(found["values"])
    if values.dtype.kind == "c":
        return []
    values = _shaped(case, values)
    if values is None:
        return []
    factor = UNITS.get(found.get("xyzt_units", 0) & 7, 1.0)
    scale = np.diag([factor, factor, factor, 1.0])
    forms = [form for form in found["forms"].values() if np.isfinite(form).all()]
    affines: list[Array | None] = [LPS @ scale @ form for form in forms]
    itk = case.by_itk(oracles)
    if case.option == "voxel":
        affines = [case.grids[0][1]]  # such a field lies on the grid of its image
    elif found["class"] in ("AnalyzeImage", "Spm99AnalyzeImage", "Spm2AnalyzeImage"):
        affines = affines if _has_matrix(case) else [None, *affines]
    elif not affines:
        affines = [None]
    elif itk is not None and factor == 1:
        apart = [corners_apart(itk, LPS @ form, values.shape[:3])[0] for form in affines]
        near = zip(apart, affines, strict=True)
        affines = [None, *[affine for mm, affine in near if mm <= min(apart) + 0.05]]
    return [
        Expected(meaning, affine)
        for affine in affines
        for meaning in _meanings(case, values, found, itk if affine is None else LPS @ affine)
    ]


def _has_matrix(case: Case) -> bool:
    """Whether SPM's matrix stands beside the image."""
    return any(name.endswith((".mat", ".mat.gz")) for name in case.files)


def _shaped(case: Case, values: Any) -> Any:
    """The values in the shape that the use gives; None if it must refuse them."""
    given = values.shape
    values = values.reshape(*given[:3], *[n for n in given[3:] if n != 1])
    if case.use == "series":
        return values if values.ndim == 4 and given[3] > 1 else None
    if case.use == "grid":
        return values if values.ndim >= 3 else None
    vectors = values.ndim == 4 and case.use in ("any", "field", "form")
    return values if values.ndim == 3 or vectors else None


def _meanings(case: Case, values: Any, found: dict[str, Any], lps: Any) -> list[Array]:
    """The values as the use gives them; vectors in mm LPS, as far as the intent says it."""
    with np.errstate(invalid="ignore"):  # signalling NaN, of changed bytes
        values = values.astype(np.float64)
    if case.use == "grid":
        return [values]
    if case.use == "mask":
        return [(values != 0) * 1.0]
    if case.use == "labels":
        whole = np.isfinite(values) & (values == np.rint(values))
        return [values] if whole.all() else []
    if values.ndim < 4 or case.use == "series":
        return [values]
    if values.shape[-1] != 3:
        return [values] if case.use == "any" else []
    flipped = to_lps(values, np.eye(4), "ras")
    if case.use == "any":
        return [values, flipped]
    style = said(found, case.option)
    if style is None or (case.use == "field" and style not in ("itk", "ras")):
        return []
    if lps is None and style not in ("itk", "ras"):
        return []
    return [to_lps(values, np.eye(4) if lps is None else lps, style)]
