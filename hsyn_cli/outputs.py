"""The files of a registration: which there are (`targets`), how they are written (`write`) and read back (`read`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hsyn_cli import files
from hsyn_cli import report as reports
from hsyn_cli.errors import InputError

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.images import Scan

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
PAGE, REPORT = "report.html", "report.json"
PAGE_BYTES = 10_000_000  # a page of noise; one of a brain takes 3 MB


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
    def moving(self) -> sitk.Image: ...
    @property
    def fixed(self) -> sitk.Image: ...
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
    html: bool = True


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
    if wanted.html:
        paths["page"] = wanted.folder / PAGE
    return paths | {"report": wanted.folder / REPORT}


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
    if wanted.html:
        total += PAGE_BYTES
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
    from hsyn_cli import images, page
    from hsyn_cli.page import volumes
    from hsyn_cli.transforms import write_transform

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
        write_transform(result.affine, paths["ants_affine"])
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
    write_transform(result.affine, paths["affine"])
    for name, picture in pictures.items():  # threads gain nothing: ITK's writer holds Python's lock
        images.write_image(picture, paths[name])
    if wanted.ants_prefix is not None:
        for name in ("warped", "inverse_warped"):
            files.copy(paths[name], paths[f"ants_{name}"])
    shown = volumes.prepare(result) if wanted.html else None
    report = make_report()
    files.write_text(paths["report"], reports.to_json(report))
    if shown is not None:
        files.write_text(paths["page"], page.make_page(reports.to_dict(report), shown))
    staging.commit()
    for name in {PAGE, "warped_labels.nii.gz", *MIDSPACE_FILES.values()} - {
        path.name for path in paths.values()
    }:
        (wanted.folder / name).unlink(missing_ok=True)  # of an earlier run, which --force replaces
    return report


@dataclass(frozen=True)
class Finished:
    """A registration read back from its output folder; `report` is what report.json holds."""

    report: Mapping[str, Any]
    moving: sitk.Image
    fixed: sitk.Image
    warped: sitk.Image
    affine: sitk.AffineTransform
    forward_field: sitk.Image
    inverse_field: sitk.Image


def read(
    folder: Path,
    moving: Path | None = None,
    fixed: Path | None = None,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Finished:
    """Read what `write` wrote and the two images it was made from.

    Args:
        moving, fixed: where the images lie now; None is where report.json says.

    Raises:
        InputError: the folder holds no run of this version; a file of it or an image is missing, damaged or, by
            its SHA-256, another one than was registered.
    """
    from hsyn_cli import images
    from hsyn_cli.transforms import read_transform

    report = read_report(folder)
    scans: dict[str, Scan] = {}
    for side, place in (("moving", moving), ("fixed", fixed)):
        progress("reading images", 0.1 * len(scans))
        scans[side] = _registered_image(report["inputs"][side], side, place)
    paths = {name: folder / file for name, file in FOLDER_FILES.items()}
    warped = images.read_image(paths["warped"], "warped image")
    fields = []
    for share, name in ((0.25, "forward_field"), (0.6, "inverse_field")):
        progress("reading fields", share)
        fields.append(images.read_field(paths[name], name.replace("_", " ")).image)
    affine = read_transform(paths["affine"], "affine").transform
    return Finished(report, scans["moving"].image, scans["fixed"].image, warped.image, affine, *fields)


def read_report(folder: Path) -> Mapping[str, Any]:
    """What report.json of an output folder holds. Raises InputError if it is not there or not of this version."""
    path = folder / REPORT
    hint = "give the folder that `hsyn register -o` wrote"
    if not path.is_file():
        raise InputError(f"{folder} is not an output folder of hsyn register: it holds no {REPORT}", hint)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint) from error
    report: Mapping[str, Any] = content if isinstance(content, dict) else {}
    version = report.get("schema_version")
    if version != reports.SCHEMA_VERSION:
        raise InputError(f"{path} is not a report of this version of hsyn (schema {version})", hint)
    missing = sorted(reports.keys() - report.keys())
    if missing:
        raise InputError(f"{path} is incomplete: it lacks {', '.join(missing)}", hint)
    return report


def _registered_image(source: Mapping[str, str], side: str, place: Path | None) -> Scan:
    from hsyn_cli import images

    path = place or Path(source["path"])
    if not path.exists():
        raise InputError(
            f"{side} image {path}: no such file", f"if it was moved, say where it lies: --{side} FILE"
        )
    scan = images.read_image(path, f"{side} image")
    if scan.sha256 != source["sha256"]:
        raise InputError(
            f"{side} image {path} is not the file that was registered (its SHA-256 is another)",
            f"give that one: --{side} FILE",
        )
    return scan
