"""index.html of a template: one file that shows the template, how it was made, and its subjects.

`pictures` makes the pictures, `subjects` the rows, `visits` the table of a longitudinal template,
`words` the text and `plots` the plots of the rounds; template.html, page.css and page.js make the
page, with the parts of the other pages: the slices of a registration's and the list of a cohort's.
The folder pictures/ holds those of the rounds, so that the page can be made again when work/ is
gone.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.outliers import find
from hsyn_cli.cohort.page import lists
from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic
from hsyn_cli.results import page as report_page
from hsyn_cli.results.page import tables
from hsyn_cli.results.page.tables import escaped
from hsyn_cli.template.page import pictures, plots, subjects, visits, words
from hsyn_cli.template.page.pictures import Pictures
from hsyn_cli.template.run import Progress

PAGE = "index.html"
SIGN = b": template report</title>"
SIDES = " The patient's left is on the right."

Record = Mapping[str, Any]


def check(out: Path) -> None:
    """Raise OutputError if the page would replace a file that is not a template's page."""
    if lists.foreign(out / PAGE, SIGN):
        text = f"{out / PAGE} is not of hsyn template and would be replaced"
        raise OutputError(text, "move it, or choose another folder")


def stands(out: Path, record: Record) -> bool:
    """Whether the page in a folder is that of this record."""
    path, sign = out / PAGE, f'content="{_key(record)}"'.encode()
    return path.is_file() and not lists.foreign(path, sign)


def _key(record: Record) -> str:
    """The key of all that the page shows: that of the visits decides on the template, too."""
    return str(record.get("longitudinal", record)["key"])


def write(
    out: Path, record: Record, step: Progress = lambda name, part: None, *, fresh: bool = False
) -> str:
    """Write the page of a finished template by rename; returns it.

    `fresh`: with new pictures of the rounds, from work/. Raises OutputError, InputError.
    """
    check(out)
    if fresh:
        pictures.store(out, record)
    text = make(out, record, step)
    atomic.write_text(out / PAGE, text)
    return text


def make(out: Path, record: Record, step: Progress = lambda name, part: None) -> str:
    """Make the page from the files of a template. Raises InputError."""
    return make_page(out.resolve().name, record, pictures.read(out, record, step), str(out))


def make_page(name: str, record: Record, drawn: Pictures, out: str) -> str:
    """Make the page as one text without references to files that it needs.

    Args:
        name: of the template. out: its folder, for the lines to paste.
    """
    rows = subjects.rows(record)
    findings = find(rows, subjects.MEASURES)
    shown = {key: data_address(data) for key, data in drawn.subjects.items()}
    data = {
        "list": lists.content(subjects.LISTED, rows, findings, shown, {}),
        "volumes": drawn.volumes.to_dict(),
    }
    text = string.Template(lists.text_of(__name__, "template.html")).substitute(
        style=lists.style() + lists.text_of(__name__, "page.css"),
        script=lists.script()
        + lists.text_of(report_page.__name__, "viewer.js")
        + lists.text_of(__name__, "page.js"),
        data=lists.as_json(data),
        key=escaped(_key(record)),
        name=escaped(name),
        what=escaped(words.what(record)),
        state="bad" if words.doubts(record) else "good",
        headline=escaped(words.headline(record)),
        warnings=tables.warnings(record),
        channels=words.channels(record),
        caption=escaped(words.caption(record, drawn.volumes)),
        sides="" if drawn.volumes.grid.normal is not None else SIDES,
        rounds=_rounds(record, drawn.stages),
        plots=plots.figures(record),
        stages=words.stages(record),
        sections=lists.sections(subjects.LISTED, rows, findings),
        visits=visits.section(record),
        use=words.use(out),
        again=words.again(record, out),
        tables=words.all_tables(record),
        version=escaped(str(record["versions"]["hsyn"])),
    )
    return lists.plain_text(text)


def data_address(png: bytes) -> str:
    """A picture as the address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _rounds(record: Record, shown: Mapping[str, bytes]) -> str:
    """The pictures of the stages in a row."""
    parts = [
        f'<figure><img src="{data_address(shown[stage])}" alt="{escaped(told)}, middle slices">'
        f"<figcaption>{escaped(told)}</figcaption></figure>"
        for stage, told in words.stage_names(record).items()
        if stage in shown
    ]
    if not parts:
        return "<p>The pictures of the rounds are gone.</p>"
    return f'<div class="rounds">{"".join(parts)}</div>'
