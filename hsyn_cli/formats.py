"""Displacement fields and affine transforms in the forms of other programs.

In memory a field is a float64 vector image, mm, LPS, and an affine a (4, 4) matrix, mm, LPS; both lead from fixed to
moving points. The forms, whose coordinates are those of `space.coordinates`:

itk     fields: vectors in mm, LPS, in NIfTI with intent 1007, .nrrd, .mha, or as an ITK transform (.h5);
        affines: .mat, .tfm, .txt, .h5 of ITK, ANTs and Slicer
ras     fields: vectors in mm, RAS, in NIfTI with intent 1006; affines: four lines of four numbers
voxel   fields: from fixed to moving index, (X, Y, Z, 3) or (3, X, Y, Z), X as nibabel has it, in .npz, .npy or NIfTI
        (VoxelMorph, TransMorph, Learn2Reg)
fsl     fields: FNIRT's relative warps, (X, Y, Z, 3) in NIfTI with intent 2006; affines: FLIRT's, from moving to fixed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from hsyn_cli import arrays, files, images, nifti
from hsyn_cli.errors import GeometryError, InputError, OutputError, UsageError
from hsyn_cli.space import Array, Grid, affine_parts, convert_affine, convert_vectors, coordinates
from hsyn_cli.transforms import read_transform, write_transform

FORMS = ("itk", "ras", "voxel", "fsl")
NIFTI = (".nii", ".nii.gz")
NUMPY = (".npz", ".npy")
IMAGES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
TRANSFORMS = (".mat", ".tfm", ".txt", ".h5")
FIELD_ENDINGS = {
    "itk": (*NIFTI, ".nrrd", ".mha", ".h5"), "ras": NIFTI, "voxel": (*NUMPY, *NIFTI), "fsl": NIFTI,
}  # fmt: skip
AFFINE_ENDINGS = {"itk": TRANSFORMS, "ras": (".txt", ".mat"), "fsl": (".mat", ".txt")}
AFFINE_TOLERANCE_MM = 1e-6  # at the corners of a cube of 200 mm
UNIT = Grid((2, 2, 2), (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1))  # itk and ras need no grid


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. `difference_mm`: the largest between what was read and the new file, read back."""

    content: Literal["field", "affine"]
    source_form: str
    target_form: str
    difference_mm: float
    allowed_mm: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


def convert(
    source: Path,
    target: Path,
    *,
    source_form: str | None = None,
    target_form: str | None = None,
    fixed: Grid | None = None,
    moving: Grid | None = None,
    channels: arrays.Channels = "last",
    half: bool = False,
) -> Conversion:
    """Write `source` as `target` in another form, and read that back.

    Args:
        source_form, target_form: one of `FORMS`; None is guessed from name and header.
        fixed, moving: grids of the images, where a form needs them.
        channels, half: of .npz and .npy: where the axis of components stands, and whether values are float16.

    Raises:
        UsageError: a form cannot be guessed, or needs a grid that was not given.
        InputError, GeometryError: as `images.read_field`.
        OutputError: the target cannot be written, or differs from the source by more than rounding.
    """
    content = read(source, source_form, fixed, moving)
    source_form = source_form or guess_form(source)
    if isinstance(content, np.ndarray):
        target_form = target_form or guess_target_form(target, AFFINE_ENDINGS)
        write_affine(content, target, target_form, fixed, moving)
        again = read(target, target_form, fixed, moving)
        corners = np.array([(x, y, z, 1.0) for x in (-100, 100) for y in (-100, 100) for z in (-100, 100)])
        difference = np.linalg.norm(corners @ (np.asarray(again) - content).T, axis=1)
        result = Conversion("affine", source_form, target_form, float(difference.max()), AFFINE_TOLERANCE_MM)
    else:
        target_form = target_form or guess_target_form(target, FIELD_ENDINGS)
        allowed = write_field(content, target, target_form, moving, channels, half)
        again = read(target, target_form, Grid.of(content), moving)
        apart = sitk.GetArrayViewFromImage(again) - sitk.GetArrayViewFromImage(content)
        difference = np.linalg.norm(apart, axis=-1)
        result = Conversion("field", source_form, target_form, float(difference.max()), allowed)
    if not result.difference_mm <= result.allowed_mm:
        raise OutputError(
            f"{target.name}: read back, it differs from {source} by {result.difference_mm:.3g} mm",
            f"rounding explains {result.allowed_mm:.3g} mm; nothing was written",
        )
    return result


def guess_form(path: Path) -> str:
    """The form of a file, from its name, and for NIfTI and text from what stands in it. Raises UsageError, InputError."""
    if _ends(path, NUMPY):
        return "voxel"
    if _ends(path, NIFTI):
        header = nifti.read(path)
        intent = header.intent if header else 0
        if intent in nifti.INTENTS_FSL_COEFFICIENTS:
            raise InputError(
                f"{path} holds FSL's coefficients (intent {intent}), not a field",
                "make one first: fnirtfileutils --in=COEFFICIENTS --ref=FIXED --out=WARP --withaff",
            )
        return {nifti.INTENT_DISPLACEMENT: "ras", nifti.INTENT_FSL: "fsl"}.get(intent, "itk")
    if _ends(path, TRANSFORMS):
        is_text = _matrix(path) is not None
        return "itk" if not is_text else "fsl" if _ends(path, (".mat",)) else "ras"
    if _ends(path, IMAGES):
        return "itk"
    raise UsageError(f"the form of {path} cannot be guessed from its name", f"give --from {', '.join(FORMS)}")


def guess_target_form(path: Path, endings: dict[str, tuple[str, ...]]) -> str:
    """The form to write, from the name. Raises UsageError where several would do."""
    if _ends(path, NUMPY) and endings is FIELD_ENDINGS:
        return "voxel"
    if endings is AFFINE_ENDINGS and _ends(path, (".txt",)):
        raise UsageError(f"{path.name} may be ITK's or a plain matrix", "give --to itk, ras or fsl")
    _check_ending(path, "itk", endings)
    return "itk"


def read(
    path: Path, form: str | None = None, fixed: Grid | None = None, moving: Grid | None = None
) -> sitk.Image | Array:
    """A field as a vector image (float64, mm, LPS), an affine as (4, 4) (mm, LPS).

    `form`: one of `FORMS`, whatever the header says; None is guessed. Raises UsageError, InputError, GeometryError; see
    `convert`.
    """
    told, form = form is not None, form or guess_form(path)
    if _ends(path, NUMPY):
        if form != "voxel":
            raise UsageError(f"{path.name} can only hold voxel displacements, not {form}", "leave out --from")
        if fixed is None:
            raise UsageError(f"{path} holds no geometry", "give the fixed image: --reference IMAGE")
        return arrays.read(path, fixed, moving or fixed)
    if _ends(path, (".h5",)) and (field := _read_field_transform(path)) is not None:
        values, grid = sitk.GetArrayFromImage(field), Grid.of(field)
    elif _ends(path, TRANSFORMS) or (not _ends(path, IMAGES) and _matrix(path) is not None):
        return _read_affine(path, form, fixed, moving)
    else:
        image = images.read_field(path, any_intent=told or form == "fsl").image
        values, grid = _as_stored(image), Grid.of(image)
    if fixed is not None and form == "voxel" and fixed.size == grid.size:
        grid = fixed  # such files seldom have a header to rely on
    if fixed is not None and not fixed.same_as(grid):
        raise GeometryError(
            f"displacement field {path} lies on another grid than the reference image",
            "give the fixed image it was made for",
        )
    lps = convert_vectors(values, form, "itk", fixed or grid, _moving_grid(form, moving, grid))
    return grid.stamp(sitk.GetImageFromArray(lps, isVector=True))


def write_field(
    field: sitk.Image,
    path: Path,
    form: str,
    moving: Grid | None = None,
    channels: arrays.Channels = "last",
    half: bool = False,
) -> float:
    """Write a field (vector image, mm, LPS); returns the largest error in mm that rounding may make. See `convert`."""
    _check_ending(path, form, FIELD_ENDINGS)
    if not _ends(path, NUMPY) and (half or channels == "first"):
        raise UsageError(
            f"--half and --channels are for .npz and .npy, not for {path.name}", "leave them out"
        )
    grid = Grid.of(field)
    moving = _moving_grid(form, moving, grid)
    stored = convert_vectors(sitk.GetArrayFromImage(field).astype(np.float64), "itk", form, grid, moving)
    largest = float(np.abs(stored).max())
    kind = np.finfo(np.float16 if half else np.float32)
    if largest > float(kind.max):
        raise UsageError(f"{largest:.3g} voxels are more than float16 can hold", "leave out --half")
    values = stored.astype(kind.dtype)
    if _ends(path, NUMPY):
        arrays.write(values, path, channels)
    elif _ends(path, (".h5",)):
        vectors = sitk.GetImageFromArray(stored, isVector=True)
        write_transform(sitk.DisplacementFieldTransform(grid.stamp(vectors)), path)
    elif form in ("itk", "ras"):
        vectors = grid.stamp(sitk.GetImageFromArray(values, isVector=True))
        images.write_image(vectors, path, nifti.INTENT_DISPLACEMENT if form == "ras" else None)
    else:
        parts = [grid.stamp(sitk.GetImageFromArray(values[..., k])) for k in range(3)]
        images.write_image(sitk.JoinSeries(parts), path, nifti.INTENT_FSL if form == "fsl" else None)
    to_mm = coordinates(moving, "itk") @ np.linalg.inv(coordinates(moving, form))
    return float(kind.eps) * largest * float(np.linalg.norm(to_mm[:3, :3], 2)) * 3**0.5 + 1e-9


def write_affine(
    matrix: Array, path: Path, form: str, fixed: Grid | None = None, moving: Grid | None = None
) -> None:
    """Write an affine (4, 4), fixed -> moving point in mm, LPS. Raises UsageError, OutputError."""
    _check_ending(path, form, AFFINE_ENDINGS)
    if form == "itk":
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(matrix[:3, :3].ravel().tolist())
        transform.SetTranslation(matrix[:3, 3].tolist())
        write_transform(transform, path)
        return
    out = convert_affine(matrix, "itk", form, *_both_grids(form, path, fixed, moving))
    if form == "fsl":
        out = np.linalg.inv(out).astype(np.float64)
    files.write_text(path, "".join(" ".join(f"{v:.17g}" for v in row) + "\n" for row in out.tolist()))


def _read_affine(path: Path, form: str, fixed: Grid | None, moving: Grid | None) -> Array:
    if form == "itk":
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = affine_parts(read_transform(path, "transform").transform)
        return matrix
    found = _matrix(path)
    if found is None or form == "voxel":
        raise InputError(f"{path} is not a matrix of form {form} (four lines of four numbers)", "see --from")
    if not np.isfinite(found).all() or abs(np.linalg.det(found)) < 1e-6 or (found[3] != (0, 0, 0, 1)).any():
        raise InputError(f"{path} holds no affine matrix that can be inverted", "check how it was made")
    if form == "fsl":
        found = np.linalg.inv(found).astype(np.float64)
    return convert_affine(found, form, "itk", *_both_grids(form, path, fixed, moving))


def _matrix(path: Path) -> Array | None:
    """Four lines of four numbers, or None."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        matrix = np.array(rows, dtype=float)
    except (OSError, ValueError):  # UnicodeDecodeError is one
        return None
    return matrix if matrix.shape == (4, 4) else None


def _read_field_transform(path: Path) -> sitk.Image | None:
    """The field of an ITK transform, None if the transform is linear."""
    files.fingerprint(path, "transform")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} is not a transform that ITK can read", "check how it was made") from error
    if transform.GetTransformEnum() == sitk.sitkComposite:
        chain = sitk.CompositeTransform(transform)
        if chain.GetNumberOfTransforms() == 1:
            transform = chain.GetNthTransform(0)
    if transform.GetDimension() == 3 and transform.IsLinear():
        return None
    if transform.GetDimension() != 3 or transform.GetTransformEnum() != sitk.sitkDisplacementField:
        raise InputError(
            f"{path} holds a {transform.GetDimension()}-D {transform.GetName()}, no displacement field",
            "make one field of a chain or a spline first",
        )
    return sitk.DisplacementFieldTransform(transform).GetDisplacementField()


def _as_stored(image: sitk.Image) -> Array:
    """(Z, Y, X, 3) as in the file: ITK has taken vectors of intent 1006 from RAS to LPS."""
    values: Array = sitk.GetArrayFromImage(image).astype(np.float64)
    key = "intent_code"
    if image.HasMetaDataKey(key) and image.GetMetaData(key).strip() == str(nifti.INTENT_DISPLACEMENT):
        return convert_vectors(values, "itk", "ras", UNIT, UNIT)
    return values


def _moving_grid(form: str, moving: Grid | None, fixed: Grid) -> Grid:
    if form == "fsl" and moving is None:
        raise UsageError("an FSL warp depends on the moving image's grid", "give it: --moving IMAGE")
    return moving if moving is not None and form in ("fsl", "voxel") else fixed


def _both_grids(form: str, path: Path, fixed: Grid | None, moving: Grid | None) -> tuple[Grid, Grid]:
    if form == "ras":
        return UNIT, UNIT
    if fixed is None or moving is None:
        raise UsageError(
            f"a FLIRT matrix such as {path.name} depends on both images",
            "give them: --reference FIXED --moving MOVING",
        )
    return fixed, moving


def _check_ending(path: Path, form: str, endings: dict[str, tuple[str, ...]]) -> None:
    what = "field" if endings is FIELD_ENDINGS else "affine"
    if form not in endings:
        raise UsageError(f"there is no {what} of form {form}", f"choose one of {', '.join(endings)}")
    if not _ends(path, endings[form]):
        raise UsageError(
            f"{path.name}: the form {form} of {'a field' if what == 'field' else 'an affine'} is written as "
            f"{', '.join(endings[form])}",
            "choose another name, or --to another form",
        )


def _ends(path: Path, endings: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))
