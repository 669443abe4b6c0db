"""The list of a study's pairs, or of other things of one kind: what to look at first, and a table.

list.html, page.css, plots.js, table.js and list.js make it, beside the files of
`hsyn_cli.results.page`. Several pages hold one.
"""

from __future__ import annotations

import importlib.resources
import json
import string
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.measures import MEASURES, Measure
from hsyn_cli.cohort.outliers import NAMED, Finding, deviations, short
from hsyn_cli.cohort.page import words
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.rows import Row
from hsyn_cli.results import page as report_page

DIGITS = 4  # of the numbers on the page
HEAD = 4096  # bytes of a file, in which its sign stands


@dataclass(frozen=True)
class Kind:
    """What is listed.

    Attributes:
        one: its name, such as "pair". opened: what its link leads to, such as "report".
        files: its files, in words. explained: sentences on the measures.
        elsewhere: the file beside the page that has all numbers.
        tried: whether the number of attempts is told.
        sort: the key of the measure by which the table is sorted first; "": those to look at first.
    """

    one: str
    opened: str
    files: Callable[[Row], str]
    explained: str
    elsewhere: str
    measures: Sequence[Measure] = MEASURES
    tried: bool = True
    sort: str = ""


def style() -> str:
    """The style of the list, and of what all pages share."""
    return text_of(report_page.__name__, "page.css") + text_of(__package__ or "", "page.css")


def script() -> str:
    """The functions of the list: `showList` with `content`."""
    return text_of(report_page.__name__, "helpers.js") + "".join(
        text_of(__package__ or "", file) for file in ("plots.js", "table.js", "list.js")
    )


def sections(kind: Kind, rows: Sequence[Row], findings: Sequence[Finding]) -> str:
    """The HTML of the list."""
    order = {row.id: k for k, row in enumerate(rows)}
    return string.Template(text_of(__package__ or "", "list.html")).substitute(
        one=kind.one,
        opened=f"the {kind.opened}",
        explained=kind.explained,
        elsewhere=kind.elsewhere,
        findings=words.first(rows, findings, order, kind.one),
    )


def content(
    kind: Kind,
    rows: Sequence[Row],
    findings: Sequence[Finding],
    pictures: Mapping[str, str],
    abouts: Mapping[str, About],
) -> dict[str, Any]:
    """What the scripts show; `pictures`: {id: address}."""
    known = {key for row in rows for key in row.values}
    shown = [measure for measure in kind.measures if measure.shown and measure.key in known]
    rank = {finding.row.id: k for k, finding in enumerate(findings)}
    texts = {finding.row.id: finding.texts for finding in findings}
    columns = [
        {"name": m.name, "unit": m.unit, "bad": m.bad, "start": m.start, "key": m.key}
        for m in shown
    ]
    place = {measure.key: k for k, measure in enumerate(shown)}
    plain = []
    for row, reasons in zip(rows, deviations(rows, kind.measures), strict=True):
        far = [reason for reason in reasons if reason.deviations > NAMED]
        about = abouts.get(row.id, About())
        entry = {
            "id": row.id,
            "state": words.state(row),
            "note": row.trouble,
            "listed": about.listed,
            "warnings": "; ".join(about.warnings),
            "files": kind.files(row),
            "attempts": row.attempts if kind.tried else None,
            "kind": row.measure,
            "lesions": {role: short(factor) for role, factor in row.lesions.items()},
            "values": [_rounded(row.values.get(measure.key)) for measure in shown],
            "most": round(reasons[0].deviations, 1) if reasons else None,
            "far": {place[r.measure.key]: r.text for r in far if r.measure.key in place},
            "rank": rank.get(row.id),
            "why": texts.get(row.id, ()),
            "page": address(row.page),
            "picture": pictures.get(row.id, ""),
        }
        plain.append(entry)
    told = {"one": kind.one, "open": f"Open {kind.opened}", "sort": kind.sort}
    return {**told, "columns": columns, "rows": plain}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def as_json(data: Mapping[str, Any]) -> str:
    """Data for a <script>, which no text in it can end."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def address(path: str) -> str:
    """A path relative to the page as a link."""
    return urllib.parse.quote(f"./{path}", errors="surrogateescape") if path else ""


def foreign(path: Path, sign: bytes) -> bool:
    """Whether a path holds something whose first bytes lack the sign of a file of hsyn."""
    try:
        with path.open("rb") as stream:
            return sign not in stream.read(HEAD)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def plain_text(text: str) -> str:
    """The text with bytes of names that are no UTF-8 written out."""
    return text.encode(errors="backslashreplace").decode()


def text_of(package: str, name: str) -> str:
    """A file of a package."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
