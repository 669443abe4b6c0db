"""A displacement field or an affine from the form of one program to that of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic, formats, images
from hsyn_cli.io.endings import NIFTI, ends
from hsyn_cli.io.formats import Channels, Content
from hsyn_cli.space import Array, Grid

AFFINE_TOLERANCE_MM = 1e-6  # at the corners of a cube of 200 mm
MOVING_ASSUMED = (
    "hsyn takes the moving image's grid to be the fixed one's; give --moving if it is another"
)


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    `difference_mm`: the largest between what it read and the new file, read back. `allowed_mm`:
    what rounding explains of it.
    """

    content: Content
    source_form: str
    target_form: str
    difference_mm: float
    allowed_mm: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ConvertedFile:
    """How `convert_files` wrote `output`, and its warnings."""

    result: Conversion
    output: Path
    warnings: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    source_form: str | None = None,
    target_form: str | None = None,
    fixed: Grid | None = None,
    moving: Grid | None = None,
    channels: Channels = "last",
    half: bool = False,
) -> Conversion:
    """Write `source` as `target` in another form, and read that back.

    Args:
        source_form, target_form: one of `formats.names`; None: guessed from name and header.
        fixed, moving: grids of the images, where a form needs them.
        channels, half: of .npz and .npy: where the axis of components stands, and whether values
            are float16.

    Raises:
        UsageError: the form cannot be guessed, or it needs a grid that is missing.
        InputError, GeometryError: as `images.read_field`.
        OutputError: nothing can write the target, or it differs from the source by more than
            rounding.
    """
    content = formats.read(source, source_form, fixed, moving)
    kind: Content = "affine" if isinstance(content, np.ndarray) else "field"
    source_form = source_form or formats.guess_form(source)
    target_form = target_form or formats.guess_target_form(target, kind)
    if isinstance(content, np.ndarray):
        formats.write_affine(content, target, target_form, fixed, moving)
        again = formats.read(target, target_form, fixed, moving)
        difference, allowed = _affines_apart(np.asarray(again), content), AFFINE_TOLERANCE_MM
    else:
        allowed = formats.write_field(content, target, target_form, moving, channels, half)
        again = formats.read(target, target_form, Grid.of(content), moving)
        difference = _fields_apart(again, content)
    result = Conversion(kind, source_form, target_form, difference, allowed)
    if not result.difference_mm <= result.allowed_mm:
        raise OutputError(
            f"{target.name}: read back, it differs from {source} by {result.difference_mm:.3g} mm",
            f"rounding explains {result.allowed_mm:.3g} mm; nothing was written",
        )
    return result


def convert_files(
    source: Path,
    target: Path,
    *,
    source_form: str | None = None,
    target_form: str | None = None,
    reference: Path | None = None,
    moving: Path | None = None,
    channels: Channels = "last",
    half: bool = False,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> ConvertedFile:
    """Convert a field or an affine in a file, whole or not at all; see `convert`.

    Args:
        reference, moving: the fixed and the moving image; their grids alone count.
        force: replace `target` if it exists.

    Raises:
        UsageError, InputError, GeometryError, OutputError: see `convert` and `atomic.claim`.
    """
    inputs = [path for path in (source, reference, moving) if path is not None]
    with atomic.claim([target], force=force, inputs=inputs) as staging:
        progress("converting", 0.0)
        result = convert(
            source,
            staging.path(target),
            source_form=source_form,
            target_form=target_form,
            fixed=images.read_grid(reference, "reference image") if reference else None,
            moving=images.read_grid(moving, "moving image") if moving else None,
            channels=channels,
            half=half,
        )
        warnings = _warnings(result, source, moving)
        staging.commit()
    return ConvertedFile(result, target, warnings)


def _warnings(result: Conversion, source: Path, moving: Path | None) -> tuple[str, ...]:
    """Lines on the header of a field, and on a grid that nobody gave."""
    if result.content != "field":
        return ()
    lines = images.header_warnings(source, "field") if ends(source, NIFTI) else ()
    forms = (formats.find(result.source_form), formats.find(result.target_form))
    if moving is None and any(form.by_moving for form in forms):
        lines += (MOVING_ASSUMED,)
    return lines


def _affines_apart(a: Array, b: Array) -> float:
    """How far two affines, (4, 4) in mm, take a corner of a cube of 200 mm apart, in mm."""
    sides = (-100, 100)
    corners = np.array([(x, y, z, 1.0) for x in sides for y in sides for z in sides])
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def _fields_apart(a: sitk.Image, b: sitk.Image) -> float:
    """The longest difference between the vectors of two fields, in mm."""
    apart = sitk.GetArrayViewFromImage(a) - sitk.GetArrayViewFromImage(b)
    return float(np.linalg.norm(apart, axis=-1).max())
