"""Pairs from a BIDS dataset, with the names of BIDS derivatives for their outputs.

A transform from-A_to-B warps images of A onto the grid of B. So the forward field, which leads from
points of the template to points of the scan, is from-T1w_to-TEMPLATE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.jobs import THUMBNAIL, Job
from hsyn_cli.cohort.lists import refuse
from hsyn_cli.cohort.names import safe
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import files
from hsyn_cli.results.register_files import Inputs

LABEL = re.compile(r"[A-Za-z0-9+]+")  # what BIDS lets stand after a dash
SUB, SES = "sub-", "ses-"
AFTER_SPACE = ("split", "recording", "chunk")  # entities in BIDS' order
DERIVED = ("space", "desc", "from", "to", "mode")  # entities of derivatives, as hsyn adds them
MOST_LISTED = 20


@dataclass(frozen=True)
class BidsScan:
    """A scan, and its entities in the order of its name, e.g. {"sub": "01", "run": "1"}."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def folder(self) -> str:
        """sub-01/ses-2/anat."""
        parts = (f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)
        return "/".join((*parts, "anat"))

    def named(self, end: str, **more: str) -> str:
        """A file name with its entities, `more` where BIDS wants a space, and `end`."""
        early = [item for item in self.entities.items() if item[0] not in AFTER_SPACE]
        late = [item for item in self.entities.items() if item[0] in AFTER_SPACE]
        desc = [("desc", more.pop("desc"))] if "desc" in more else []
        return "_".join((*(f"{k}-{v}" for k, v in (*early, *more.items(), *late, *desc)), end))


def from_bids(
    root: Path,
    fixed: Path,
    space: str,
    options: Mapping[str, Any],
    participants: Sequence[str] | None = None,
    suffix: str = "T1w",
    warn: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """One job per sub-*/[ses-*/]anat/*_T1w.nii[.gz], each to the template `fixed`, called `space`.

    `participants`: labels, with or without sub-; None: all. All runs and sessions are taken. Images
    of derivatives are left out, and `warn` tells which. Raises UsageError, InputError.
    """
    check_space(space, suffix)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder", "give the folder of a BIDS dataset")
    files.check_file(fixed, "fixed image")
    if not (root / "dataset_description.json").is_file():
        warn(f"{root} holds no dataset_description.json; is it a BIDS dataset?")
    scans: list[BidsScan] = []
    faults: list[str] = []
    for label in _labels(root, participants):
        found = list(_raw(_scans(root, label, suffix, faults), warn))
        scans += found
        if not found and participants is not None:
            faults.append(f"{root / (SUB + label)} holds no {suffix} image in an anat folder")
        elif not found:
            warn(f"{SUB}{label} holds no {suffix} image in an anat folder; it is left out")
    refuse(faults, f"{root} has", "correct the dataset; no pair was started")
    if not scans:
        known = f"sub-*/anat/*_{suffix}.nii.gz and sub-*/ses-*/anat/*_{suffix}.nii.gz"
        raise InputError(f"{root} holds no {suffix} image", f"hsyn looks for {known}")
    return [
        Job(
            safe(f"{scan.named(suffix)}_to_{space}"),
            Inputs(scan.path, fixed),
            scan.folder,
            dict(options),
            names_of(scan, space),
        )
        for scan in scans
    ]


def check_space(space: str, suffix: str = "T1w") -> None:
    """Raise UsageError unless `space` can be the name of a template in BIDS."""
    for what, label in (("--space", space), ("--suffix", suffix)):
        if not LABEL.fullmatch(label):
            hint = "BIDS names hold letters and digits alone, such as MNI152NLin2009cAsym"
            raise UsageError(f"{what} {label!r} is no name in BIDS", hint)
    if space == suffix:
        raise UsageError(f"--space {space} is the space of the scans", "name the template's")


def _labels(root: Path, wanted: Sequence[str] | None) -> list[str]:
    """The labels of the participants. Raises InputError for those that the dataset lacks."""
    there = sorted(path.name[len(SUB) :] for path in root.glob(f"{SUB}*") if path.is_dir())
    if not there:
        raise InputError(
            f"{root} holds no folder sub-*", "give the folder of a BIDS dataset, see its root"
        )
    if wanted is None:
        return there
    asked = list(dict.fromkeys(label.removeprefix(SUB) for label in wanted))
    missing = [label for label in asked if label not in there]
    if missing:
        some = ", ".join(there[:MOST_LISTED])
        rest = f" and {len(there) - MOST_LISTED} more" if len(there) > MOST_LISTED else ""
        folder = "no such folder" if len(missing) == 1 else "no such folders"
        raise InputError(
            f"--participant-label {' '.join(missing)}: {folder}; there are {some}{rest}",
            f"the labels are the names after sub- in {root}",
        )
    return asked


def _raw(scans: Iterable[BidsScan], warn: Callable[[str], None]) -> Iterator[BidsScan]:
    """Those that are no derivatives, whose outputs' names would hold an entity twice."""
    for scan in scans:
        derived = [f"{key}-" for key in DERIVED if key in scan.entities]
        if derived:
            warn(f"{scan.path} has {' and '.join(derived)}, as derivatives have; it is left out")
        else:
            yield scan


def _scans(root: Path, label: str, suffix: str, faults: list[str]) -> Iterator[BidsScan]:
    """The scans of a participant, by session and name; what is wrong is added to `faults`."""
    top = root / f"{SUB}{label}"
    for folder in (top, *sorted(path for path in top.glob(f"{SES}*") if path.is_dir())):
        start = top.name if folder == top else f"{top.name}_{folder.name}"
        by_stem: dict[str, Path] = {}
        for path in sorted((folder / "anat").glob(f"*_{suffix}.nii*")):
            stem = files.beside(path, "").name
            if path.name not in (f"{stem}.nii", f"{stem}.nii.gz"):
                continue
            entities = _entities(stem, suffix)
            if entities is None or not f"{stem}_".startswith(f"{start}_"):
                faults.append(f"{path} is no name in BIDS; it begins with {start}_")
            elif stem in by_stem:
                faults.append(f"{path} and {by_stem[stem].name} are one scan; remove one")
            else:
                by_stem[stem] = path
                yield BidsScan(path, entities, suffix)


def _entities(stem: str, suffix: str) -> dict[str, str] | None:
    """The entities of a file name; None: it is none of BIDS."""
    parts = [part.split("-") for part in stem.removesuffix(f"_{suffix}").split("_")]
    if not all(len(part) == 2 and all(map(LABEL.fullmatch, part)) for part in parts):
        return None
    return {part[0]: part[1] for part in parts}


def names_of(scan: BidsScan, space: str) -> dict[str, str]:
    """{name of an output: its file name}, for each that hsyn can write."""
    own, mid = scan.suffix, f"mid{space}"

    def moved(there: str, end: str, **more: str) -> str:
        return scan.named(f"{end}.nii.gz", space=there, **more)

    def transform(start: str, end: str, file: str = "xfm.nii.gz", **more: str) -> str:
        way = {"from": start, "to": end, "mode": "image"}
        return scan.named(file, **way, **more)

    return {
        "warped": moved(space, own),
        "inverse_warped": moved(own, own, desc=space),
        "forward_field": transform(own, space),
        "inverse_field": transform(space, own),
        "affine": transform(own, space, "xfm.mat", desc="affine"),
        "warped_labels": moved(space, "dseg"),
        "mid_to_moving_field": transform(own, mid),
        "mid_to_fixed_field": transform(space, mid),
        "mid_moving": moved(mid, own, desc=own),
        "mid_fixed": moved(mid, own, desc=space),
        "page": transform(own, space, "report.html"),
        "report": transform(own, space, "report.json"),
        "thumbnail": transform(own, space, THUMBNAIL),
    }
