"""One row a pair, from its status file and its report.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.jobs import THUMBNAIL, Job
from hsyn_cli.cohort.measures import number, values_of
from hsyn_cli.errors import FailedError, FoldingError
from hsyn_cli.results.run_folder import PAGE, REPORT

State = Literal["waiting", "running", "done", "failed"]
WROTE = (0, FoldingError.exit_code, FailedError.exit_code)  # codes of runs that wrote their files


@dataclass(frozen=True)
class Row:
    """What became of a pair.

    Attributes:
        trouble: one line: its error, or why its result is not to be trusted.
        measure: which similarity drove it.
        values: {key of a Measure: value}; what is not known is missing.
        lesions: {role: factor of its volume}.
        page, thumbnail: relative to the study folder, with "/"; "" where there is none.
    """

    id: str
    moving: str
    fixed: str
    folder: str
    state: State = "waiting"
    exit_code: int | None = None
    trouble: str = ""
    attempts: int = 0
    measure: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    lesions: Mapping[str, float] = field(default_factory=dict)
    page: str = ""
    thumbnail: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether its files are there and its own checks speak against it."""
        return bool(self.trouble) and self.exit_code in WROTE

    @property
    def failed(self) -> bool:
        """Whether it ended without a result."""
        return self.state == "failed" and not self.doubtful


def read_row(study: Path, job: Job) -> Row:
    """Read what a pair has come to. Files that are missing or damaged leave cells empty."""
    moving, fixed = job.inputs.moving, job.inputs.fixed
    row = Row(job.id, str(moving), str(fixed), job.folder)
    status = statuses.read(job.status(study))
    if status is None:
        return row
    trouble = " ".join((str(status.error) or "; ".join(status.problems)).split())
    known = _numbers({"seconds": status.seconds or None, "peak_memory_mb": status.peak_memory_mb})
    row = dataclasses.replace(
        row, state=status.state, attempts=status.attempts, trouble=trouble, values=known,
        exit_code=None if status.state == "running" else status.exit_code,
    )  # fmt: skip
    if row.exit_code not in WROTE:
        return row
    report = _json(study / job.folder / job.names.get("report", REPORT))
    similarity = report.get("similarity")
    return dataclasses.replace(
        row,
        values=values_of(report) | known,
        measure=str(similarity.get("measure", "")) if isinstance(similarity, dict) else "",
        lesions=_numbers(report.get("lesions")),
        page=_present(study, job.folder, job.names.get("page", PAGE)),
        thumbnail=_present(study, job.folder, job.names.get("thumbnail", THUMBNAIL)),
    )


def _present(study: Path, folder: str, name: str) -> str:
    return f"{folder}/{name}" if (study / folder / name).is_file() else ""


def _numbers(plain: Any) -> dict[str, float]:
    """The numbers in an object of a JSON file; nothing where it is none."""
    found = {k: number(v) for k, v in plain.items()} if isinstance(plain, dict) else {}
    return {key: value for key, value in found.items() if value is not None}


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is no such object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
