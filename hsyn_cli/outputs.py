"""The files of a registration: which there are (`targets`) and how they are written (`write`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hsyn_cli import files
from hsyn_cli import report as reports

if TYPE_CHECKING:
    import SimpleITK as sitk

FOLDER_FILES = {
    "warped": "warped.nii.gz",
    "inverse_warped": "inverse_warped.nii.gz",
    "forward_field": "forward_field.nii.gz",
    "inverse_field": "inverse_field.nii.gz",
    "affine": "affine.mat",
}
MIDSPACE_FILES = {
    "mid_to_moving_field": "mid_to_moving_field.nii.gz",
    "mid_to_fixed_field": "mid_to_fixed_field.nii.gz",
    "mid_moving": "mid_moving.nii.gz",
    "mid_fixed": "mid_fixed.nii.gz",
}
ANTS_SUFFIXES = {  # what ANTs itself appends to its output prefix
    "ants_affine": "0GenericAffine.mat",
    "ants_warp": "1Warp.nii.gz",
    "ants_inverse_warp": "1InverseWarp.nii.gz",
    "ants_warped": "Warped.nii.gz",
    "ants_inverse_warped": "InverseWarped.nii.gz",
}


class Midspace(Protocol):
    """Half fields (mm LPS, mean space -> affinely aligned moving, fixed); both images in the mean space."""

    @property
    def to_moving_field(self) -> sitk.Image: ...
    @property
    def to_fixed_field(self) -> sitk.Image: ...
    @property
    def moving(self) -> sitk.Image: ...
    @property
    def fixed(self) -> sitk.Image: ...


class Result(Protocol):
    """What `pipeline.register` returns, as far as files are concerned; see there."""

    @property
    def warped(self) -> sitk.Image: ...
    @property
    def inverse_warped(self) -> sitk.Image: ...
    @property
    def forward_field(self) -> sitk.Image: ...
    @property
    def inverse_field(self) -> sitk.Image: ...
    @property
    def affine(self) -> sitk.AffineTransform: ...
    @property
    def warp_field(self) -> sitk.Image: ...
    @property
    def inverse_warp_field(self) -> sitk.Image: ...
    @property
    def midspace(self) -> Midspace: ...


@dataclass(frozen=True)
class Wanted:
    """Which files are asked for. `ants_prefix` as ANTs has it: "out/sub1_" or "out/"."""

    folder: Path
    ants_prefix: str | None = None
    midspace: bool = False
    labels: bool = False


def targets(wanted: Wanted) -> dict[str, Path]:
    """Name -> path of every file, in the order in which they appear; report.json is the last."""
    names = dict(FOLDER_FILES)
    if wanted.midspace:
        names |= MIDSPACE_FILES
    if wanted.labels:
        names["warped_labels"] = "warped_labels.nii.gz"
    paths = {name: wanted.folder / file for name, file in names.items()}
    if wanted.ants_prefix is not None:
        paths |= {name: Path(wanted.ants_prefix + suffix) for name, suffix in ANTS_SUFFIXES.items()}
    return paths | {"report": wanted.folder / "report.json"}


def needed_bytes(wanted: Wanted, moving_voxels: int, fixed_voxels: int) -> int:
    """Disk space the run may need: all outputs as if they did not compress, and the one being written."""
    image, field = 4, 12  # bytes per voxel: float32, three of them
    total = (image + field) * (moving_voxels + fixed_voxels)
    if wanted.ants_prefix is not None:
        total += image * (moving_voxels + fixed_voxels) + 2 * field * fixed_voxels
    if wanted.midspace:
        total += 2 * (image + field) * max(moving_voxels, fixed_voxels)
    if wanted.labels:
        total += image * fixed_voxels
    return total + field * max(moving_voxels, fixed_voxels)


def warp_labels(
    labels: sitk.Image, forward_field: sitk.Image, reference: sitk.Image | None = None
) -> sitk.Image:
    """Moving labels on the field's grid, or on that of `reference`: nearest neighbour on their own integer type, 0 outside."""
    import SimpleITK as sitk

    transform = sitk.DisplacementFieldTransform(sitk.Cast(forward_field, sitk.sitkVectorFloat64))
    target = forward_field if reference is None else reference
    return sitk.Resample(labels, target, transform, sitk.sitkNearestNeighbor, 0.0, labels.GetPixelID())


def write(
    result: Result,
    wanted: Wanted,
    staging: files.Staging,
    make_report: Callable[[], reports.Report],
    *,
    moving_labels: sitk.Image | None = None,
) -> reports.Report:
    """Write everything asked for, show it all at once, return the report that was written.

    `make_report` is called when the other files are written, so that it can tell the whole time. Raises
    OutputError, and then none of the files is there.
    """
    from hsyn_cli import images

    paths = {name: staging.path(path) for name, path in targets(wanted).items()}
    pictures = {
        "forward_field": result.forward_field,
        "inverse_field": result.inverse_field,
        "warped": result.warped,
        "inverse_warped": result.inverse_warped,
    }
    if wanted.ants_prefix is not None:
        pictures |= {
            "ants_warp": result.warp_field,
            "ants_inverse_warp": result.inverse_warp_field,
        }
        images.write_transform(result.affine, paths["ants_affine"])
    if wanted.midspace:
        half = result.midspace
        pictures |= {
            "mid_to_moving_field": half.to_moving_field,
            "mid_to_fixed_field": half.to_fixed_field,
            "mid_moving": half.moving,
            "mid_fixed": half.fixed,
        }
    if moving_labels is not None:
        pictures["warped_labels"] = warp_labels(moving_labels, result.forward_field)
    images.write_transform(result.affine, paths["affine"])
    for name, picture in pictures.items():  # threads gain nothing: ITK's writer holds Python's lock
        images.write_image(picture, paths[name])
    if wanted.ants_prefix is not None:
        for name in ("warped", "inverse_warped"):
            files.copy(paths[name], paths[f"ants_{name}"])
    report = make_report()
    files.write_text(paths["report"], reports.to_json(report))
    staging.commit()
    return report
