"""The output folder of a registration: which files it gets, and its report read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.errors import InputError
from hsyn_cli.results.record import SCHEMA_VERSION
from hsyn_cli.results.report import keys

if TYPE_CHECKING:
    pass


FOLDER_FILES = {
    "warped": "warped.nii.gz",
    "inverse_warped": "inverse_warped.nii.gz",
    "forward_field": "forward_field.nii.gz",
    "inverse_field": "inverse_field.nii.gz",
    "affine": "affine.mat",
}
WARPED = ("warped", "inverse_warped")  # of further channels: with _2, _3, ... at the end
MIDSPACE_FILES = {
    "mid_to_moving_field": "mid_to_moving_field.nii.gz",
    "mid_to_fixed_field": "mid_to_fixed_field.nii.gz",
    "mid_moving": "mid_moving.nii.gz",
    "mid_fixed": "mid_fixed.nii.gz",
}
ANTS_SUFFIXES = {  # ANTs appends them to its output prefix
    "ants_affine": "0GenericAffine.mat",
    "ants_warp": "1Warp.nii.gz",
    "ants_inverse_warp": "1InverseWarp.nii.gz",
    "ants_warped": "Warped.nii.gz",
    "ants_inverse_warped": "InverseWarped.nii.gz",
}
PAGE, REPORT = "report.html", "report.json"
PAGE_BYTES = 10_000_000  # for images of noise; a brain takes 3 MB


@dataclass(frozen=True)
class Wanted:
    """The files to write.

    Attributes:
        ants_prefix: an output prefix of ANTs, e.g. "out/sub1_" or "out/".
        channels: how many channels both images have.
    """

    folder: Path
    ants_prefix: str | None = None
    midspace: bool = False
    labels: bool = False
    html: bool = True
    channels: int = 1


def targets(wanted: Wanted) -> dict[str, Path]:
    """Name -> path of every file, in the order of their appearance; report.json is last."""
    names = dict(FOLDER_FILES)
    if wanted.midspace:
        names |= MIDSPACE_FILES
    if wanted.labels:
        names["warped_labels"] = "warped_labels.nii.gz"
    for k in range(2, wanted.channels + 1):
        names |= {f"{name}_{k}": f"{name}_{k}.nii.gz" for name in WARPED}
    paths = {name: wanted.folder / file for name, file in names.items()}
    if wanted.ants_prefix is not None:
        paths |= {name: Path(wanted.ants_prefix + suffix) for name, suffix in ANTS_SUFFIXES.items()}
    if wanted.html:
        paths["page"] = wanted.folder / PAGE
    return paths | {"report": wanted.folder / REPORT}


def needed_bytes(wanted: Wanted, moving_voxels: int, fixed_voxels: int) -> int:
    """Most disk space of a run: all outputs uncompressed, and a second copy of the largest."""
    image, field = 4, 12  # bytes per voxel: float32, three of them
    total = (wanted.channels * image + field) * (moving_voxels + fixed_voxels)
    if wanted.ants_prefix is not None:
        total += image * (moving_voxels + fixed_voxels) + 2 * field * fixed_voxels
    if wanted.midspace:
        total += 2 * (image + field) * max(moving_voxels, fixed_voxels)
    if wanted.labels:
        total += image * fixed_voxels
    if wanted.html:
        total += PAGE_BYTES
    return total + field * max(moving_voxels, fixed_voxels)


def read_report(folder: Path) -> Mapping[str, Any]:
    """Read report.json of an output folder. Raises InputError if it is missing or of no use."""
    path = folder / REPORT
    hint = "give an output folder of `hsyn register`"
    if not path.is_file():
        raise InputError(
            f"{folder} is not an output folder of hsyn register: it holds no {REPORT}", hint
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint) from error
    report: Mapping[str, Any] = content if isinstance(content, dict) else {}
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} is not a report of this version of hsyn (schema {version})", hint)
    missing = sorted(keys() - report.keys())
    if missing:
        raise InputError(f"{path} is incomplete: it lacks {', '.join(missing)}", hint)
    return report
