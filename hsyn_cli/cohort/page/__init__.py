"""index.html and cohort.csv of a study: every pair, and which to look at first.

`pairs` reads them, `words` makes the text and `table` the CSV; template.html, page.css, plots.js,
table.js and page.js make the page, in the style of report.html. It is one file without references
to others: thumbnails are in it, as long as they fit.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.resources
import json
import string
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.cohort.jobs import PAGE, STATUS, TABLE, Job
from hsyn_cli.cohort.measures import MEASURES
from hsyn_cli.cohort.outliers import NAMED, Finding, deviations, find, short
from hsyn_cli.cohort.page import words
from hsyn_cli.cohort.page.pairs import About, read_pairs
from hsyn_cli.cohort.page.table import to_csv
from hsyn_cli.cohort.rows import Row
from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic
from hsyn_cli.results import page as report_page
from hsyn_cli.results.page.tables import escaped

MOST_EMBEDDED = 16_000_000  # characters of thumbnails; the page reads further ones from their files
DIGITS = 4  # of the numbers on the page; cohort.csv has all

HEAD = 4096  # bytes of a file, in which its sign stands
SIGNS = {PAGE: b": cohort report</title>", TABLE: b'"id","moving","fixed","folder","state"'}


def check(study: Path) -> None:
    """Raise OutputError if a folder that is no study holds files which `write` would replace."""
    if (study / STATUS).is_dir():
        return
    for name, sign in SIGNS.items():
        path = study / name
        try:
            with path.open("rb") as stream:
                own = sign in stream.read(HEAD)
        except FileNotFoundError:
            continue
        except OSError:
            own = False
        if not own:
            text = f"{path} is not of hsyn batch and would be replaced"
            raise OutputError(text, "choose another folder")


def write(study: Path, jobs: Sequence[Job]) -> None:
    """Write index.html and cohort.csv of a study from its status files and reports, by rename.

    `jobs`: the list of this run; pairs of earlier ones follow. Raises OutputError.
    """
    rows, abouts = read_pairs(study, jobs)
    findings = find(rows)
    pictures = thumbnails(study, rows, findings)
    text = make_page(study.resolve().name, rows, findings, pictures, abouts)
    atomic.write_text(study / TABLE, _plain(to_csv(rows, abouts)))
    atomic.write_text(study / PAGE, _plain(text))


def make_page(
    name: str,
    rows: Sequence[Row],
    findings: Sequence[Finding],
    pictures: Mapping[str, str],
    abouts: Mapping[str, About],
) -> str:
    """Make the page as one text.

    Args:
        name: of the study. pictures: {id: address} of the thumbnails, see `thumbnails`.
        abouts: see `read_pairs`.
    """
    order = {row.id: k for k, row in enumerate(rows)}
    sources = "data:" if all(v.startswith("data:") for v in pictures.values()) else "data: file:"
    style = _text(report_page.__name__, "page.css") + _text(__name__, "page.css")
    script = "".join(_text(__name__, file) for file in ("plots.js", "table.js", "page.js"))
    data = _data(rows, findings, pictures, abouts)
    content = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return string.Template(_text(__name__, "template.html")).substitute(
        style=style,
        script=script,
        data=content.replace("<", "\\u003c"),
        sources=sources,
        name=escaped(name),
        state="bad" if any(f.row.failed or f.row.doubtful for f in findings) else "good",
        headline=escaped(words.headline(rows, findings, abouts)),
        findings=words.first(rows, findings, order),
        version=escaped(__version__),
    )


def thumbnails(study: Path, rows: Sequence[Row], findings: Sequence[Finding]) -> dict[str, str]:
    """{id: address} of the pictures: as data, those to look at first before all; else the path."""
    found: dict[str, str] = {}
    room = MOST_EMBEDDED
    for row in (*(finding.row for finding in findings), *rows):
        if row.id in found or not row.thumbnail:
            continue
        with contextlib.suppress(OSError):
            text = base64.b64encode((study / row.thumbnail).read_bytes()).decode("ascii")
            room -= len(text)
            fits = room >= 0
            found[row.id] = f"data:image/png;base64,{text}" if fits else address(row.thumbnail)
    return found


def address(path: str) -> str:
    """A path relative to the page as a link."""
    return urllib.parse.quote(f"./{path}", errors="surrogateescape") if path else ""


def _data(
    rows: Sequence[Row],
    findings: Sequence[Finding],
    pictures: Mapping[str, str],
    abouts: Mapping[str, About],
) -> dict[str, Any]:
    """What the scripts show."""
    known = {key for row in rows for key in row.values}
    shown = [measure for measure in MEASURES if measure.shown and measure.key in known]
    rank = {finding.row.id: k for k, finding in enumerate(findings)}
    texts = {finding.row.id: finding.texts for finding in findings}
    columns = [
        {"name": m.name, "unit": m.unit, "bad": m.bad, "start": m.start, "key": m.key}
        for m in shown
    ]
    place = {measure.key: k for k, measure in enumerate(shown)}
    plain = []
    for row, reasons in zip(rows, deviations(rows), strict=True):
        far = [reason for reason in reasons if reason.deviations > NAMED]
        entry = {
            "id": row.id,
            "state": words.state(row),
            "note": row.trouble,
            "listed": abouts[row.id].listed,
            "warnings": "; ".join(abouts[row.id].warnings),
            "moving": row.moving,
            "fixed": row.fixed,
            "attempts": row.attempts,
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
    return {"columns": columns, "rows": plain}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _plain(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()  # bytes in a name that are no UTF-8


def _text(package: str, name: str) -> str:
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
