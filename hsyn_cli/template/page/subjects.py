"""The subjects of a template as rows of a list: how far each is from it, and what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hsyn_cli.cohort.measures import Measure, values_of
from hsyn_cli.cohort.page.lists import Kind
from hsyn_cli.cohort.rows import Row
from hsyn_cli.errors import FailedError


def _error(side: str, which: str) -> Measure:
    at = f"inverse_error_{side}"
    name = f"inverse error, {side}, {'largest' if which == 'max' else which}"
    start = 0.1 if which == "max" else 0.01
    shown = which == "max"
    return Measure(f"{at}_{which}", name, "mm", (at, f"{which}_mm"), "high", 0.1, start, shown)


def _folding(name: str, at: str) -> Measure:
    return Measure(at, f"folding, {name} field", "%", (at, "percent"), "high", 0.01)


def _moved(name: str, which: str) -> Measure:
    at = ("displacement_mm", which)
    return Measure(f"displacement_{which}", f"{name} displacement", "mm", at, "high", 0.1, 1.0)


# As far as they mean the same, with the limits of a cohort's.
MEASURES = (
    _moved("mean", "mean"),
    _moved("largest", "max"),
    Measure("volume", "volume, times the template's", "", ("volume",), "both", 0.02, 0.0),
    Measure("log_det_sd", "local volume change, SD of log", "", ("log_det_sd",), "both", 0.1, 0.01),
    Measure("correlation", "correlation with the template", "", ("correlation",), "low", 0.01),
    _folding("forward", "folding"),
    _folding("inverse", "inverse_folding"),
    _error("template", "mean"),
    _error("template", "max"),
    _error("subject", "mean"),
    _error("subject", "max"),
    Measure("shear", "shear", "", ("linear", "shear"), "high", 0.1, 0.02, False),
    Measure("rotation", "rotation of the scan", "°", ("linear", "rotation_degrees")),
)
LISTED = Kind(
    "subject",
    "folder",
    lambda row: f"{row.moving}; its files: {row.folder}" if row.folder else row.moving,
    "A displacement is what a subject's field does beyond a rigid motion, over the template's "
    "mask. A volume above 1 is a subject larger than the template. A picture is the subject "
    "in template space, with the edges of the template in orange.",
    "template.json beside this page",
    MEASURES,
    tried=False,
    sort="displacement_mean",
)


def rows(record: Mapping[str, Any]) -> list[Row]:
    """The subjects of the content of template.json, the farthest first; then those left out."""
    found = [_row(entry) for entry in record["subjects"]]
    found.sort(key=lambda row: (-row.values.get("displacement_mean", 0.0), row.id))
    return found + [_left_out(entry) for entry in record["left_out"]]


def _row(entry: Mapping[str, Any]) -> Row:
    problems = "; ".join(entry["problems"])
    folder = f"subjects/{entry['id']}/"
    volume = math.prod(entry["linear"]["scales"])
    return Row(
        entry["id"], ", ".join(entry["scans"]), "", folder, "done",
        FailedError.exit_code if problems else 0, problems,
        values=values_of({**entry, "volume": volume}, MEASURES), page=folder,
    )  # fmt: skip


def _left_out(entry: Mapping[str, Any]) -> Row:
    why = f"left out in {entry['stage']}: {entry['error']}"
    scans = ", ".join(entry["scans"])
    return Row(entry["id"], scans, "", "", "failed", entry["exit_code"], why)
