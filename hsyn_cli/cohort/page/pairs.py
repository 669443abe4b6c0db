"""The pairs of a study: those of this run's list, then those that only earlier lists had."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.jobs import STATUS, THUMBNAIL, Job
from hsyn_cli.cohort.rows import WROTE, Row, read_row
from hsyn_cli.cohort.status import Status
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.run_folder import PAGE, REPORT

UNKNOWN = Inputs(Path(), Path())  # of pairs that the list of this run lacks


@dataclass(frozen=True)
class About:
    """What the row of a pair leaves out.

    Attributes:
        listed: whether the list of this run has the pair. warnings: of its registration.
        left: whether it left its device for the CPU.
    """

    listed: bool = True
    warnings: tuple[str, ...] = ()
    left: bool = False


def read_pairs(study: Path, jobs: Sequence[Job]) -> tuple[list[Row], dict[str, About]]:
    """The rows of a study, and {id: what they leave out}."""
    rows: list[Row] = []
    abouts: dict[str, About] = {}
    for job in (*jobs, *_unlisted(study, jobs)):
        row, listed = read_row(study, job), job.inputs is not UNKNOWN
        name = job.names.get("report", REPORT)
        report = _report(study / job.folder / name) if row.exit_code in WROTE else {}
        if not listed:
            moving, fixed = (_path(report, role) for role in ("moving", "fixed"))
            row = dataclasses.replace(row, moving=moving, fixed=fixed)
        warnings = report.get("warnings")
        lines = tuple(map(str, warnings)) if isinstance(warnings, list) else ()
        rows.append(row)
        device = report.get("device_memory")
        abouts[row.id] = About(listed, lines, isinstance(device, dict) and bool(device.get("left")))
    return rows, abouts


def _unlisted(study: Path, jobs: Sequence[Job]) -> list[Job]:
    """The pairs that have a status file alone, by id."""
    known = {job.id.casefold() for job in jobs}
    found = []
    for path in sorted((study / STATUS).glob("*.json")):
        status = None if path.stem.casefold() in known else statuses.read(path)
        if status is not None and status.id == path.stem:
            found.append(Job(status.id, UNKNOWN, status.folder, names=_names(status)))
    return found


def _names(status: Status) -> dict[str, str]:
    """The names of what the page needs, by the one file that every pair keeps."""
    for file in status.files:
        if file.endswith(REPORT):
            start = file.removeprefix(f"{status.folder}/").removesuffix(REPORT)
            usual = {"report": REPORT, "page": PAGE, "thumbnail": THUMBNAIL}
            return {name: start + end for name, end in usual.items()}
    return {}


def _path(report: Mapping[str, Any], role: str) -> str:
    """The path of an input; "" where it is not known."""
    try:
        return str(report["inputs"][role]["path"])
    except (KeyError, TypeError):
        return ""


def _report(path: Path) -> dict[str, Any]:
    """The content of report.json; nothing where there is no such object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
