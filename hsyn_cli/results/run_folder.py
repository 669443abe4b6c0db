"""The output folder of a registration: its files, and the run that writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hsyn_cli import plugins
from hsyn_cli.devices import peak_memory_mb
from hsyn_cli.errors import InputError
from hsyn_cli.io import atomic
from hsyn_cli.results.record import SCHEMA_VERSION
from hsyn_cli.results.report import Report, Source, assemble, keys

if TYPE_CHECKING:
    from hsyn_cli.io.images import Scan
    from hsyn_cli.io.transforms import Transform

BEFORE_WRITING = 0.9  # of the progress bar
Progress = Callable[[str, float], None]

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
    """The files to write. `ants_prefix`: an output prefix of ANTs, e.g. "out/sub1_" or "out/"."""

    folder: Path
    ants_prefix: str | None = None
    midspace: bool = False
    labels: bool = False
    html: bool = True


def targets(wanted: Wanted) -> dict[str, Path]:
    """Name -> path of every file, in the order of their appearance; report.json is last."""
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
    """Most disk space of a run: all outputs uncompressed, and a second copy of the largest."""
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


@dataclass(frozen=True)
class Inputs:
    """The files of a registration."""

    moving: Path
    fixed: Path
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    initial_transform: Path | None = None

    @property
    def given(self) -> dict[str, Path]:
        """{role: path} of the files given."""
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class Checked:
    """The files of a registration after reading, each with its own checks passed."""

    moving: Scan
    fixed: Scan
    moving_labels: Scan | None
    fixed_mask: Scan | None
    moving_mask: Scan | None
    initial_transform: Transform | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about their headers."""
        scans = (self.moving, self.fixed, self.moving_labels, self.fixed_mask, self.moving_mask)
        return tuple(line for scan in scans if scan is not None for line in scan.warnings)


def register_files(
    inputs: Inputs,
    wanted: Wanted,
    *,
    preset: str = "default",
    model: str = "auto",
    affine: Literal["affine", "rigid", "none"] = "affine",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda step, fraction: None,
) -> Report:
    """Read, check, register and write. All files appear together, or none.

    Raises every error of `errors` but FoldingError.
    """
    start = time.monotonic()
    check_model(model)
    paths = targets(wanted)
    with atomic.claim(paths.values(), force=force, inputs=inputs.given.values()) as staging:
        progress("reading", 0.0)
        read = read_inputs(inputs)
        voxels = (read.moving.image.GetNumberOfPixels(), read.fixed.image.GetNumberOfPixels())
        atomic.check_space(wanted.folder, needed_bytes(wanted, *voxels))
        from hsyn_cli.method.register import register

        result = register(
            read.moving.image, read.fixed.image, preset=preset, weights=model, device=device,
            threads=threads, seed=seed, affine=affine,
            fixed_mask=read.fixed_mask and read.fixed_mask.image,
            moving_mask=read.moving_mask and read.moving_mask.image,
            initial_transform=read.initial_transform and read.initial_transform.transform,
            progress=lambda step, fraction: progress(step, BEFORE_WRITING * fraction),
        )  # fmt: skip
        progress("writing", BEFORE_WRITING)
        from hsyn_cli.results.written import write

        def make_report() -> Report:
            return assemble(
                result.facts,
                inputs={
                    name: Source(str(path.absolute()), getattr(read, name).sha256)
                    for name, path in inputs.given.items()
                },
                outputs=paths,
                warnings=read.warnings,
                seconds_total=time.monotonic() - start,
                peak_memory_mb=peak_memory_mb(),
            )

        labels = read.moving_labels and read.moving_labels.image
        return write(result, wanted, staging, make_report, moving_labels=labels)


def check_model(model: str) -> None:
    """Raise WeightsError for a missing checkpoint, before any heavy import."""
    from hsyn_cli.io import checkpoints

    if model not in ("auto", *plugins.names("hsyn_cli.anatomy.organs")):
        checkpoints.find(model)


def read_inputs(inputs: Inputs) -> Checked:
    """Read every file of a registration. Raises InputError, GeometryError."""
    from hsyn_cli.io import images
    from hsyn_cli.io.transforms import read_transform

    o = inputs
    moving = images.read_image(o.moving, "moving image")
    fixed = images.read_image(o.fixed, "fixed image")
    return Checked(
        moving,
        fixed,
        images.read_labels(o.moving_labels, moving.image, "moving labels")
        if o.moving_labels
        else None,
        images.read_mask(o.fixed_mask, fixed.image, "fixed mask") if o.fixed_mask else None,
        images.read_mask(o.moving_mask, moving.image, "moving mask") if o.moving_mask else None,
        read_transform(o.initial_transform) if o.initial_transform else None,
    )


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
