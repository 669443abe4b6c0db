"""What makes a study folder a dataset of BIDS derivatives: files at its root."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.cohort.jobs import PAGE, STATUS, TABLE, THUMBNAIL, Job
from hsyn_cli.errors import GeometryError, InputError, OutputError, UsageError
from hsyn_cli.io import atomic
from hsyn_cli.io.plain import dump

DESCRIPTION, IGNORED = "dataset_description.json", ".bidsignore"
VERSION = "1.10.0"  # of BIDS
NOT_BIDS = (PAGE, TABLE, STATUS, "logs", "*_xfm.*", "*_report.*", f"*_{THUMBNAIL}")
NAME = "hsyn"


def describe(
    study: Path,
    root: Path,
    jobs: Sequence[Job],
    outputs: Collection[str],
    space: str,
    suffix: str = "T1w",
) -> None:
    """Write the files that the validator of BIDS asks for, each whole or not at all.

    They are dataset_description.json, .bidsignore, and one JSON for all images of a kind, which
    tells to what they are aligned and whether they show skulls. What an earlier run wrote stays if
    it is the same.

    Args:
        root: the dataset of the scans. jobs: of `bids.from_bids`, at least one.
        outputs: names of what each pair will get, see `run_folder.targets`.

    Raises:
        UsageError: the study folder is the dataset of the scans.
        OutputError: it is a dataset of another program.
    """
    if study.resolve() == root.resolve():
        raise UsageError(
            f"-o {study} is the dataset of the scans itself",
            f"give another folder, e.g. {root / 'derivatives' / NAME}",
        )
    _check_owner(study / DESCRIPTION)
    _write(study / DESCRIPTION, dump(description(root)))
    patterns = [line for line in _lines(study / IGNORED) if line not in NOT_BIDS]
    _write(study / IGNORED, "".join(f"{line}\n" for line in (*NOT_BIDS, *patterns)))
    for name, about in _sidecars(jobs, outputs, space, suffix).items():
        _write(study / name, dump(about))


def description(root: Path) -> dict[str, Any]:
    """The content of dataset_description.json; `root`: the dataset of the scans."""
    given = _json(root / DESCRIPTION)
    name = given.get("Name")
    source = {"URL": root.resolve().as_uri()}
    if isinstance(given.get("DatasetDOI"), str):
        source["DOI"] = given["DatasetDOI"]
    return {
        "Name": f"hsyn registrations of {name if isinstance(name, str) and name else root.name}",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": __version__, "Description": "hsyn batch --bids"}],
        "SourceDatasets": [source],
    }


def _sidecars(
    jobs: Sequence[Job], outputs: Collection[str], space: str, suffix: str
) -> dict[str, dict[str, Any]]:
    """{name: content} of the files that tell about all images of a kind; see `describe`.

    BIDS lets a file at the root tell about all whose names have its entities.
    """
    scan, template = jobs[0].inputs.moving, jobs[0].inputs.fixed
    mid = f"mid{space}"
    kinds = {
        "warped": (f"space-{space}", scan, template.name, f"warped to {space}"),
        "inverse_warped": (f"space-{suffix}_desc-{space}", template, suffix, "the warped template"),
        "mid_moving": (f"space-{mid}_desc-{suffix}", scan, mid, f"warped half-way to {space}"),
        "mid_fixed": (f"space-{mid}_desc-{space}", template, mid, "the template, warped half-way"),
    }
    kept = [kind for name, kind in kinds.items() if name in outputs]
    shown = {scan: [job.inputs.moving for job in jobs], template: [template]}
    bare = {image: _stripped(shown[image]) for image in {image for _, image, _, _ in kept}}
    return {
        f"{entities}_{suffix}.json": {
            "Description": about,
            "SpatialReference": reference,
            "SkullStripped": bare[image],
        }
        for entities, image, reference, about in kept
    }


def _stripped(paths: Iterable[Path]) -> bool:
    """Whether the first that can be read shows a brain without its skull, as hsyn recognises it."""
    from hsyn_cli.anatomy.organs import look
    from hsyn_cli.anatomy.organs.brain import BRAIN
    from hsyn_cli.anatomy.view import view_of
    from hsyn_cli.io.images import read_image

    for path in paths:
        with contextlib.suppress(InputError, GeometryError):  # its pair will tell
            return look(view_of(read_image(path, "image").image).image).kind == BRAIN
    return False


def _check_owner(path: Path) -> None:
    """Raise OutputError for a dataset_description.json that hsyn did not write."""
    if not path.exists():
        return
    makers = _json(path).get("GeneratedBy")
    names = [m.get("Name") for m in makers if isinstance(m, dict)] if makers else []
    if NAME not in names:
        raise OutputError(f"{path} describes a dataset of another program", "choose another folder")


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic.making(path.parent):
            atomic.write_text(path, text)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
