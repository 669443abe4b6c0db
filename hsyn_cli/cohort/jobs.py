"""One pair of a cohort, and where its files go in the study folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsyn_cli.results.register_files import Inputs

PAIRS, STATUS = "pairs", "status"  # folders in the study folder
PAGE, TABLE = "index.html", "cohort.csv"
THUMBNAIL = "thumbnail.png"  # in a pair's folder


@dataclass(frozen=True)
class Job:
    """A registration to be done.

    Attributes:
        id: unique in the study, and a safe file name on every system.
        folder: of its outputs, relative to the study folder, with "/".
        options: further arguments of `register_files`, ready for JSON.
        names: {name of an output: its file name in `folder`}, where it is not the usual one.
    """

    id: str
    inputs: Inputs
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def status(self, study: Path) -> Path:
        """Its status file."""
        return study / STATUS / f"{self.id}.json"
