"""The visits of a longitudinal template, as a section of the page. HTML is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hsyn_cli.results.page.tables import number, table

Record = Mapping[str, Any]
HEAD = ("subject", "visit", "volume change", "its local SD", "distance", "correlation", "doubts")
TOLD = (
    "Each visit against the template of the subject's own visits: its volume change is the mean of "
    "the logarithms over the mask, and the next column their spread. A distance is the mean "
    "displacement beyond a rigid motion. Doubts are also those of the subject in the group, and of "
    "the composed fields. For the change from one visit to another, take the difference."
)


def section(record: Record) -> str:
    """The section; nothing for a template that is not longitudinal."""
    if "longitudinal" not in record:
        return ""
    body = table("All visits", HEAD, _rows(record["longitudinal"]))
    return (
        '<section aria-labelledby="visits">\n<h2 id="visits">Visits</h2>\n'
        f'<p class="captions">{TOLD}</p>\n{body}\n</section>\n'
    )


def doubtful(record: Record) -> list[str]:
    """The visits that are not to be trusted, of subjects that are."""
    whole = {entry["id"] for entry in record["subjects"] if entry["problems"]}
    return [
        f"{subject['id']} {visit['visit']}"
        for subject in record.get("longitudinal", {"subjects": []})["subjects"]
        for visit in subject["visits"]
        if visit["problems"] and subject["id"] not in whole
    ]


def left_out(record: Record) -> list[str]:
    """The subjects and visits that failed."""
    found = record.get("longitudinal", {"left_out": []})["left_out"]
    return [" ".join(filter(None, (entry["id"], entry["visit"]))) for entry in found]


def _rows(found: Record) -> Iterator[tuple[str, ...]]:
    for subject in found["subjects"]:
        for visit in subject["visits"]:
            name = (subject["subject"], visit["visit"])
            yield *name, *_measures(visit["within"]), "; ".join(visit["problems"])
    for entry in found["left_out"]:
        empty = ("",) * (len(HEAD) - 3)
        told = f"left out in {entry['stage']}: " if "stage" in entry else "left out: "
        yield entry["id"], entry["visit"] or "all", *empty, told + entry["error"]


def _measures(within: Record | None) -> tuple[str, ...]:
    if within is None:
        return "the only one", "", "", ""
    return (
        _percent(within["log_det_mean"]),
        _percent(within["log_det_sd"]).lstrip("+"),
        f"{number(within['displacement_mm']['mean'])} mm",
        number(within["correlation"], 3),
    )


def _percent(log: float | None) -> str:
    """A logarithm of a ratio as what it adds, in percent."""
    if log is None:
        return number(None)
    return f"{100 * math.expm1(log):+.2f} %"
