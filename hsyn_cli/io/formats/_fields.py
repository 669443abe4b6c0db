"""What all forms share of fields: NIfTI and ITK's files of vectors, and the way to mm, LPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import composites, fields_said, formats, images, writing
from hsyn_cli.io.endings import HDF5, IMAGES, NUMPY, TRANSFORMS, ends
from hsyn_cli.io.formats import Form, Layout, _affines
from hsyn_cli.io.headers import Intent
from hsyn_cli.io.transforms import read_any_transform
from hsyn_cli.space import Array, Grid, convert_vectors

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
        _check_displacements(form, vectors, grid, path, named)
    if fixed is not None and not form.has_grid and fixed.size == grid.size:
        grid = fixed
    if fixed is not None and not fixed.same_as(grid):
        raise GeometryError(
            f"displacement field {path} lies on another grid than the reference image",
            "give the fixed image it was made for",
        )
    return in_memory(form, vectors, fixed or grid, form.moving_grid(moving, grid), grid)


def _check_displacements(form: Form, vectors: Array, grid: Grid, path: Path, named: bool) -> None:
    """Raise InputError for vectors that seem to be positions, unless the user named the form."""
    if named or form.says_itself or images.says_displacements(path):
        return
    for name in ("positions", "spm"):
        if fields_said.follows(vectors, grid, formats.find(name).coordinates(grid)):
            raise fields_said.seem_positions(f"displacement field {path}", path, name, form.name)
    if fields_said.follows(vectors, grid, form.coordinates(grid)):
        raise InputError(
            f"displacement field {path} holds positions, it seems, not displacements",
            f"make it relative first; if it holds displacements, give --from {form.name}",
        )


def in_memory(form: Form, vectors: Array, fixed: Grid, moving: Grid, grid: Grid) -> sitk.Image:
    """Vectors of a form, (Z, Y, X, 3), as a field (float64, mm, LPS) on `grid`.

    `fixed`, `moving`: the grids whose coordinates the displacements lead from and to.
    """
    if form.absolute:
        vectors = relative(vectors, grid, form.coordinates(grid))
    lps = convert_vectors(vectors, form.pair(fixed, moving), MEMORY.pair(fixed, moving))
    return grid.stamp(sitk.GetImageFromArray(lps, isVector=True))


def write(form: Form, field: sitk.Image, path: Path, moving: Grid | None, layout: Layout) -> float:
    """See `formats.write_field`."""
    if not ends(path, NUMPY) and layout != Layout():
        raise UsageError(
            f"--half and --channels are for .npz and .npy, not for {path.name}", "leave them out"
        )
    grid = Grid.of(field)
    if grid.dimension == 2 and form.stacked:
        text = f"the form {form.name} has no 2-D fields"
        raise UsageError(text, "choose --to itk or ras")
    moving = form.moving_grid(moving, grid)
    lps = sitk.GetArrayFromImage(field).astype(np.float64)
    vectors = convert_vectors(lps, MEMORY.pair(grid, moving), form.pair(grid, moving))
    if form.absolute:
        vectors = relative(vectors, grid, form.coordinates(grid), 1.0)
    largest = float(np.abs(vectors).max())
    kind = np.finfo(np.float16 if layout.half else np.float32)
    if largest > float(kind.max):
        raise UsageError(f"{largest:.3g} voxels are more than float16 can hold", "leave out --half")
    form.save_field(vectors, grid, path, layout)
    to_mm = MEMORY.coordinates(moving) @ np.linalg.inv(form.coordinates(moving))
    largest_mm = largest * float(np.linalg.norm(to_mm[:3, :3], 2)) * 3**0.5
    return float(kind.eps) * largest_mm + 1e-9


def load(form: Form, path: Path, named: bool) -> tuple[Array, Grid]:
    """See `Form.load_field`."""
    scan, _ = images.read_vectors(path, named or form.says_itself)
    vectors: Array = sitk.GetArrayFromImage(scan.image).astype(np.float64)
    return vectors, Grid.of(scan.image)


def relative(vectors: Array, grid: Grid, to_point: Array, sign: float = -1.0) -> Array:
    """Positions (Z, Y, X, 3) as displacements from their voxels; back with `sign` 1.

    `to_point`: (4, 4), index -> coordinates of the positions.
    """
    z, y, x = (np.arange(n, dtype=float) for n in reversed(grid.size))
    own = x[:, None] * to_point[:3, 0] + y[:, None, None] * to_point[:3, 1]
    own = own + (z[:, None] * to_point[:3, 2] + to_point[:3, 3])[:, None, None]
    out: Array = vectors + sign * own
    return out


def save(form: Form, vectors: Array, grid: Grid, path: Path) -> None:
    """See `Form.save_field`."""
    values = vectors.astype(np.float32)
    image = grid.stamp(sitk.GetImageFromArray(values, isVector=True))
    code = form.intent if form.intent is not None else 0 if form.stacked else 1007
    intent = Intent(code, form.intent_name if code == 1007 else "", form.intent_parameter)
    writing.write_image(image, path, intent, stacked=form.stacked)


def _of_transform(path: Path) -> sitk.Image | None:
    """The field of an ITK transform, None if the transform is linear. Raises InputError."""
    transform, _, dimension = read_any_transform(path)
    return None if transform.IsLinear() else composites.total_field(transform, dimension, path)
