"""What all forms share of fields: NIfTI and ITK's files of vectors, and the way to mm, LPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import files, images, nifti, writing
from hsyn_cli.io.endings import HDF5, IMAGES, NUMPY, TRANSFORMS, ends
from hsyn_cli.io.formats import Form, Layout, _affines
from hsyn_cli.space import Array, Grid, convert_vectors, coordinates

MEMORY = Form()  # a field in memory is of no other form: mm, LPS


def read(
    form: Form, path: Path, fixed: Grid | None, moving: Grid | None, named: bool
) -> sitk.Image | Array:
    """See `Form.read`."""
    if ends(path, form.own_endings("field")):
        vectors, grid = form.load_field(path, named)
    elif ends(path, HDF5) and (field := _of_transform(path)) is not None:
        vectors, grid = sitk.GetArrayFromImage(field), Grid.of(field)
    elif ends(path, TRANSFORMS) or (
        not ends(path, IMAGES) and _affines.matrix_in(path) is not None
    ):
        return form.read_affine(path, fixed, moving)
    else:
        vectors, grid = form.load_field(path, named)
    if fixed is not None and not form.has_grid and fixed.size == grid.size:
        grid = fixed
    if fixed is not None and not fixed.same_as(grid):
        raise GeometryError(
            f"displacement field {path} lies on another grid than the reference image",
            "give the fixed image it was made for",
        )
    return in_memory(form, vectors, fixed or grid, form.moving_grid(moving, grid), grid)


def in_memory(form: Form, vectors: Array, fixed: Grid, moving: Grid, grid: Grid) -> sitk.Image:
    """Vectors of a form, (Z, Y, X, 3), as a field (float64, mm, LPS) on `grid`.

    `fixed`, `moving`: the grids whose coordinates the displacements lead from and to.
    """
    lps = convert_vectors(vectors, form.pair(fixed, moving), MEMORY.pair(fixed, moving))
    return grid.stamp(sitk.GetImageFromArray(lps, isVector=True))


def write(form: Form, field: sitk.Image, path: Path, moving: Grid | None, layout: Layout) -> float:
    """See `formats.write_field`."""
    if not ends(path, NUMPY) and layout != Layout():
        raise UsageError(
            f"--half and --channels are for .npz and .npy, not for {path.name}", "leave them out"
        )
    grid = Grid.of(field)
    moving = form.moving_grid(moving, grid)
    lps = sitk.GetArrayFromImage(field).astype(np.float64)
    vectors = convert_vectors(lps, MEMORY.pair(grid, moving), form.pair(grid, moving))
    largest = float(np.abs(vectors).max())
    kind = np.finfo(np.float16 if layout.half else np.float32)
    if largest > float(kind.max):
        raise UsageError(f"{largest:.3g} voxels are more than float16 can hold", "leave out --half")
    form.save_field(vectors, grid, path, layout)
    to_mm = MEMORY.coordinates(moving) @ np.linalg.inv(form.coordinates(moving))
    largest_mm = largest * float(np.linalg.norm(to_mm[:3, :3], 2)) * 3**0.5
    return float(kind.eps) * largest_mm + 1e-9


def load(form: Form, path: Path, named: bool) -> tuple[Array, Grid]:
    """See `Form.load_field`. What ITK turns from RAS to LPS, intent 1006, goes back here."""
    image = images.read_field(path, any_intent=named or form.intent is not None).image
    grid, key = Grid.of(image), "intent_code"
    vectors: Array = sitk.GetArrayFromImage(image).astype(np.float64)
    stored = image.GetMetaData(key).strip() if image.HasMetaDataKey(key) else ""
    if stored == str(nifti.INTENT_DISPLACEMENT):
        unit = _affines.UNIT
        lps, ras = coordinates(unit, "itk"), coordinates(unit, "ras")
        vectors = convert_vectors(vectors, (lps, lps), (ras, ras))
    return vectors, grid


def save(form: Form, vectors: Array, grid: Grid, path: Path) -> None:
    """See `Form.save_field`."""
    values = vectors.astype(np.float32)
    if form.stacked:
        parts = [grid.stamp(sitk.GetImageFromArray(values[..., k])) for k in range(3)]
        image = sitk.JoinSeries(parts)
    else:
        image = grid.stamp(sitk.GetImageFromArray(values, isVector=True))
    writing.write_image(image, path, form.intent)


def _of_transform(path: Path) -> sitk.Image | None:
    """The field of an ITK transform, None if the transform is linear. Raises InputError."""
    files.fingerprint(path, "transform")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} is not a transform that ITK can read", "check how it was made"
        ) from error
    if transform.GetTransformEnum() == sitk.sitkComposite:
        chain = sitk.CompositeTransform(transform)
        if chain.GetNumberOfTransforms() == 1:
            transform = chain.GetNthTransform(0)
    if transform.GetDimension() == 3 and transform.IsLinear():
        return None
    is_field = transform.GetTransformEnum() == sitk.sitkDisplacementField
    if transform.GetDimension() != 3 or not is_field:
        what = f"a {transform.GetDimension()}-D {transform.GetName()}"
        raise InputError(
            f"{path} holds {what}, no displacement field",
            "make one field of a chain or a spline first",
        )
    return sitk.DisplacementFieldTransform(transform).GetDisplacementField()
