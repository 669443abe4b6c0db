"""index.html and cohort.csv of a study: every pair, and which to look at first.

`pairs` reads them, `words` makes the text, `lists` the list and `table` the CSV; template.html and
page.js make the page, in the style of report.html. It is one file without references to others:
thumbnails are in it, as long as they fit.
"""

from __future__ import annotations

import base64
import contextlib
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from hsyn_cli import __version__
from hsyn_cli.cohort.jobs import PAGE, STATUS, TABLE, Job
from hsyn_cli.cohort.outliers import Finding, find
from hsyn_cli.cohort.page import lists, words
from hsyn_cli.cohort.page.pairs import About, read_pairs
from hsyn_cli.cohort.page.table import to_csv
from hsyn_cli.cohort.rows import Row
from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic
from hsyn_cli.results.page.tables import escaped

MOST_EMBEDDED = 16_000_000  # characters of thumbnails; the page reads further ones from their files
PAIRS_LISTED = lists.Kind(
    "pair",
    "report",
    lambda row: f"{row.moving} onto {row.fixed}" if row.moving else "",
    "Volume change is the logarithm of the Jacobian determinant over the fixed image's content; "
    "displacements leave the affine out.",
    f"{TABLE} beside this page",
)
SIGNS = {PAGE: b": cohort report</title>", TABLE: b'"id","moving","fixed","folder","state"'}


def check(study: Path) -> None:
    """Raise OutputError if a folder that is no study holds files which `write` would replace."""
    if (study / STATUS).is_dir():
        return
    for name, sign in SIGNS.items():
        path = study / name
        if lists.foreign(path, sign):
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
    atomic.write_text(study / TABLE, lists.plain_text(to_csv(rows, abouts)))
    atomic.write_text(study / PAGE, lists.plain_text(text))


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
    sources = "data:" if all(v.startswith("data:") for v in pictures.values()) else "data: file:"
    return string.Template(lists.text_of(__name__, "template.html")).substitute(
        style=lists.style(),
        script=lists.script() + lists.text_of(__name__, "page.js"),
        data=lists.as_json(lists.content(PAIRS_LISTED, rows, findings, pictures, abouts)),
        sources=sources,
        name=escaped(name),
        state="bad" if any(f.row.failed or f.row.doubtful for f in findings) else "good",
        headline=escaped(words.headline(rows, findings, abouts)),
        sections=lists.sections(PAIRS_LISTED, rows, findings),
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
            found[row.id] = (
                f"data:image/png;base64,{text}" if fits else lists.address(row.thumbnail)
            )
    return found
