"""Affines as plain text, four lines of four numbers, as several programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io import atomic
from hsyn_cli.io.formats import Form
from hsyn_cli.space import Array, Grid, convert_affine

UNIT = Grid((2, 2, 2), (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1))  # where any grid does
BOTH = (UNIT, UNIT)
MEMORY = Form()  # mm, LPS
SINGULAR = 1e-6  # determinant below which nothing is inverted
LAST = np.array([0.0, 0.0, 0.0, 1.0])  # row of an affine
ROUNDING = 1e-6  # of float32


def matrix_in(path: Path) -> Array | None:
    """The four lines of four numbers of a text file, (4, 4); None if it holds anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = [line.split() for line in text.splitlines() if line.strip()]
        matrix = np.array(rows, dtype=float)
    except (OSError, ValueError):  # UnicodeDecodeError is one
        return None
    return matrix if matrix.shape == (4, 4) else None


def read(form: Form, path: Path, fixed: Grid | None, moving: Grid | None) -> Array:
    """See `Form.read_affine`."""
    found = matrix_in(path)
    if found is None or not form.affine_endings:
        raise InputError(
            f"{path} is not a matrix of form {form.name} (four lines of four numbers)", "see --from"
        )
    return to_memory(form, found, path, form.affine_grids(path, fixed, moving))


def to_memory(form: Form, found: Array, path: Path, grids: tuple[Grid, Grid] = BOTH) -> Array:
    """A form's matrix (4, 4) as one from fixed to moving points, mm, LPS. Raises InputError.

    FreeSurfer's lta_convert writes last rows such as 0 0 0 1.0000001.
    """
    if np.abs(found[3] - LAST).max() < ROUNDING:
        found = np.vstack([found[:3] / found[3, 3], LAST])
    finite = np.isfinite(found).all()
    if not finite or abs(np.linalg.det(found)) < SINGULAR or (found[3] != LAST).any():
        raise InputError(
            f"{path} holds no affine matrix that can be inverted", "check how it was made"
        )
    if form.affine_to_fixed:
        found = np.linalg.inv(found).astype(np.float64)
    return convert_affine(found, form.pair(*grids), MEMORY.pair(*grids))


def from_memory(form: Form, matrix: Array, grids: tuple[Grid, Grid] = BOTH) -> Array:
    """The inverse of `to_memory`."""
    out = convert_affine(matrix, MEMORY.pair(*grids), form.pair(*grids))
    return np.linalg.inv(out).astype(np.float64) if form.affine_to_fixed else out


def write(form: Form, matrix: Array, path: Path, fixed: Grid | None, moving: Grid | None) -> None:
    """See `Form.write_affine`."""
    out = from_memory(form, matrix, form.affine_grids(path, fixed, moving))
    rows = (" ".join(f"{value:.17g}" for value in row) + "\n" for row in out.tolist())
    atomic.write_text(path, "".join(rows))
