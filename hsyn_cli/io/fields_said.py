"""What a file says of its vectors, by intents, names and keys of the programs that write fields.

The names of forms are those of `formats`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import mgh
from hsyn_cli.io.endings import quoted
from hsyn_cli.io.headers import INTENT_DISPLACEMENT, Header
from hsyn_cli.space import Array, Grid, coordinates

NAME = "Displacement"  # the intent's name that hsyn writes
INTENT_FSL = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD
INTENTS_FSL_COEFFICIENTS = (2007, 2008, 2009, 2016, 2017)  # splines and cosines of FNIRT and topup
SPM, NIFTYREG = "Mapping", "NREG_TRANS"  # names of intents
NIFTYREG_FIELDS = (0, 1)  # its parameter: positions or displacements; others are no fields
SAID = {
    "fsl": "a warp of FSL (intent 2006)",
    "spm": "absolute positions in mm, RAS, as SPM writes them",
    "niftyreg": "a transformation of NiftyReg",
}
MODELING = ("displacement field type", "modeling")  # a key of Slicer's NRRD files and its value
THIN = 16  # voxels along each axis that `absolute` looks at
ALIKE, NEAR = 0.5, 0.5  # of a matrix, and of the grid's size


def form_of(header: Header) -> str | None:
    """The form that a header names, None if it names none, or hsyn's own."""
    if header.intent.name == SPM:
        return "spm"
    if header.intent.name == NIFTYREG:
        return "niftyreg" if header.intent.parameter in NIFTYREG_FIELDS else None
    return {INTENT_FSL: "fsl", INTENT_DISPLACEMENT: "ras"}.get(header.intent.code)


def refusal(header: Header) -> tuple[str, str] | None:
    """What a file holds that is no field of any form, and what to do, in messages."""
    if header.intent.code in INTENTS_FSL_COEFFICIENTS:
        return (
            f"holds FSL's coefficients (intent {header.intent.code}), not a field",
            "make one first: fnirtfileutils --in=COEFFICIENTS --ref=FIXED --out=WARP --withaff",
        )
    if header.intent.name == NIFTYREG and header.intent.parameter not in NIFTYREG_FIELDS:
        return (
            "holds control points or velocities of NiftyReg, not a field",
            f"make one first: reg_transform -ref FIXED -def {header.path.name} FIELD",
        )
    if header.intent.name == mgh.WARP:
        return (
            "is a warp of FreeSurfer, whose tags hsyn does not read",
            f"if it holds displacements in RAS, as mri_synthmorph writes them: hsyn convert "
            f"{quoted(header.path)} field.nii.gz --from ras",
        )
    return None


def points_back(header: Header) -> bool:
    """True if the file says that its displacements lead from moving to fixed points."""
    key, value = MODELING
    return dict(header.keys).get(key, "").lower() == value


def absolute(field: sitk.Image) -> str | None:
    """The form of vectors that follow their own coordinates, None if they do not.

    `field`: mm, LPS, as its file says. A displacement field does so only if it doubles all sizes.
    """
    grid = Grid.of(field)
    for name, form in (("positions", "itk"), ("spm", "ras")):
        if follows(sitk.GetArrayViewFromImage(field), grid, coordinates(grid, form)):
            return name
    return None


def follows(vectors: Array, grid: Grid, to_point: Array) -> bool:
    """True if (Z, Y, X, 3) vectors are about the coordinates of their own voxels.

    `to_point`: (4, 4), index -> coordinates. A line is fitted: its matrix is near 1, and it runs
    near the origin of the coordinates.
    """
    step = [max(1, n // THIN) for n in grid.size]
    index = np.stack(
        np.meshgrid(*(np.arange(0, n, s) for n, s in zip(grid.size, step, strict=True)),
                    indexing="ij"), axis=-1,
    ).reshape(-1, 3)  # fmt: skip
    at = vectors[index[:, 2], index[:, 1], index[:, 0]].astype(float)
    points = index @ to_point[:3, :3].T + to_point[:3, 3]
    if (np.ptp(index, axis=0) > 0).sum() < 2:
        return False
    centre, middle = points.mean(0), at.mean(0)
    # The second one is 1, or, of a slice, the projection onto its plane.
    slope, same = (
        np.linalg.lstsq(points - centre, v, rcond=None)[0] for v in (at - middle, points - centre)
    )
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    return bool(
        np.linalg.norm(slope - same) < ALIKE and np.linalg.norm(middle - centre) < NEAR * size
    )


def seem_positions(name: str, path: Path, form: str, own: str) -> InputError:
    """Return the error for a field whose vectors follow their own coordinates.

    `form`: that of such positions; `own`: that of displacements.
    """
    return InputError(
        f"{name} holds positions, it seems, not displacements: each vector is about the place of "
        "its own voxel",
        f"convert it: hsyn convert {quoted(path)} field.nii.gz --from {form}; or, if they are "
        f"displacements after all, --from {own}",
    )
