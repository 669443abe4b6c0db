"""The output folder of a registration: which files it gets, and its report read back."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.results.record import SCHEMA_VERSION
from hsyn_cli.results.report import keys

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
COMPOSITE_SUFFIXES = {  # the same with --write-composite-transform 1
    "ants_composite": "Composite.h5",
    "ants_inverse_composite": "InverseComposite.h5",
}
LABELS = "warped_labels.nii.gz"
PAGE, REPORT = "report.html", "report.json"
PAGE_BYTES = 10_000_000  # for images of noise; a brain takes 3 MB
KEEP = {  # {word of --keep: the outputs it stands for}
    **{name: (name,) for name in (*WARPED, "forward_field", "inverse_field", "affine", "page")},
    "fields": ("forward_field", "inverse_field"),
    "labels": ("warped_labels",),
    "midspace": tuple(MIDSPACE_FILES),
    "report": ("report",),
}
IMAGE, FIELD = 4, 12  # bytes per voxel: float32, three of them


@dataclass(frozen=True)
class Wanted:
    """The files to write.

    Attributes:
        ants_prefix: an output prefix of ANTs, e.g. "out/sub1_" or "out/".
        ants: the files of ANTs to write there, keys of `ANTS_SUFFIXES`.
        bare: write the files of ANTs alone, without even a report.
        composite: the same, for Composite.h5 and InverseComposite.h5.
        channels: how many channels both images have.
        keep: words of `KEEP`, which alone stay beside the report and the files of ANTs; None: all.
        names: {name of an output: its file name}, where it is not the usual one.
        field_spacing: mm between the vectors of a field that is written; None: as computed.
        rounded: floating-point values lose digits that tell nothing, so that they pack better.
        clears: files of an earlier run in the folder go, if this one does not replace them.
    """

    folder: Path
    ants_prefix: str | None = None
    midspace: bool = False
    labels: bool = False
    html: bool = True
    channels: int = 1
    keep: frozenset[str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    field_spacing: float | None = None
    rounded: bool = False
    ants: Collection[str] = tuple(ANTS_SUFFIXES)
    bare: bool = False
    composite: str | None = None
    clears: bool = True


def words_of(text: str) -> frozenset[str]:
    """The words of --keep, which commas part. Raises UsageError for an unknown one."""
    words = frozenset(filter(None, (word.strip() for word in text.split(","))))
    unknown = sorted(words - KEEP.keys())
    if unknown or not words:
        wrong = f"--keep {', '.join(unknown)}: no such output" if unknown else "--keep needs a name"
        raise UsageError(wrong, f"the names are {', '.join(KEEP)}")
    return words


def check_keep(wanted: Wanted) -> None:
    """Raise UsageError if a word of --keep stands for no file."""
    made = {channel_of(name)[0] for name in targets(wanted)}
    for word in sorted(wanted.keep or ()):
        if made.isdisjoint(KEEP[word]):
            why = {"page": "--no-html is given", "labels": "no moving labels are given"}[word]
            raise UsageError(f"--keep {word} keeps nothing: {why}", "change one of the two")


def targets(wanted: Wanted) -> dict[str, Path]:
    """Name -> path of every file, in the order of their appearance; a report is last."""
    keep = wanted.keep or frozenset()
    names = dict(FOLDER_FILES)
    if wanted.midspace or "midspace" in keep:
        names |= MIDSPACE_FILES
    if wanted.labels:
        names["warped_labels"] = LABELS
    for k in range(2, wanted.channels + 1):
        names |= {f"{name}_{k}": f"{name}_{k}.nii.gz" for name in WARPED}
    ants = {name: ANTS_SUFFIXES[name] for name in wanted.ants}
    prefixed = (ants, wanted.ants_prefix), (COMPOSITE_SUFFIXES, wanted.composite)
    placed = {
        name: Path(f"{prefix}{suffix}")
        for suffixes, prefix in prefixed
        if prefix is not None
        for name, suffix in suffixes.items()
    }
    if wanted.bare:
        return placed
    last = {"page": PAGE, "report": REPORT} if wanted.html else {"report": REPORT}
    if wanted.keep is not None:
        kept = {name for word in keep for name in KEEP[word]} | {"report"}
        kept |= MIDSPACE_FILES.keys() if wanted.midspace else set()
        names, last = (
            {name: file for name, file in some.items() if channel_of(name)[0] in kept}
            for some in (names, last)
        )
    return {
        **_in_folder(wanted, names),
        **placed,
        **_in_folder(wanted, last),
    }


def _in_folder(wanted: Wanted, files: Mapping[str, str]) -> dict[str, Path]:
    return {name: wanted.folder / wanted.names.get(name, file) for name, file in files.items()}


def channel_of(name: str) -> tuple[str, int]:
    """An output's name without the number of its channel, and that number."""
    found = re.fullmatch(rf"({'|'.join(WARPED)})_(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 1)


def output_bytes(wanted: Wanted, moving_voxels: int, fixed_voxels: int) -> dict[str, int]:
    """Most bytes of each output: uncompressed, fields on the grids of the images."""
    largest = max(moving_voxels, fixed_voxels)
    sizes = {
        "warped": IMAGE * fixed_voxels,
        "inverse_warped": IMAGE * moving_voxels,
        "warped_labels": IMAGE * fixed_voxels,
        "forward_field": FIELD * fixed_voxels,
        "inverse_field": FIELD * moving_voxels,
        "mid_to_moving_field": FIELD * largest,
        "mid_to_fixed_field": FIELD * largest,
        "mid_moving": IMAGE * largest,
        "mid_fixed": IMAGE * largest,
        "ants_warped": IMAGE * fixed_voxels,
        "ants_inverse_warped": IMAGE * moving_voxels,
        "ants_warp": FIELD * fixed_voxels,
        "ants_inverse_warp": FIELD * fixed_voxels,
        "ants_composite": FIELD * fixed_voxels,
        "ants_inverse_composite": FIELD * fixed_voxels,
        "page": PAGE_BYTES,
    }
    return {name: sizes.get(channel_of(name)[0], 0) for name in targets(wanted)}


def needed_bytes(wanted: Wanted, moving_voxels: int, fixed_voxels: int) -> int:
    """Most disk space of a run: all outputs uncompressed, and a second copy of the largest."""
    total = sum(output_bytes(wanted, moving_voxels, fixed_voxels).values())
    return total + FIELD * max(moving_voxels, fixed_voxels)


def read_report(folder: Path, name: str = REPORT) -> Mapping[str, Any]:
    """Read the report of an output folder. Raises InputError if it is missing or of no use."""
    path = folder / name
    hint = "give an output folder of `hsyn register`"
    if not path.is_file():
        raise InputError(
            f"{folder} is not an output folder of hsyn register: it holds no {name}", hint
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
