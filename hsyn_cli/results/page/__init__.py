"""report.html: one file that shows a registration and opens anywhere without a network.

`volumes` makes the data and `tables` the text; template.html, page.css, helpers.js, viewer.js and
page.js make the page. viewer.js draws the pictures on canvases from 8-bit volumes, so that the page
has every slice and the file stays small. The other pages of hsyn share all but page.js.
"""

from __future__ import annotations

import importlib.resources
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.results.page import tables

if TYPE_CHECKING:
    from hsyn_cli.results.page.volumes import Volumes

SIDES = " The patient's left is on the right."
STEPS = {
    "affine": "after the affine step",
    "rigid": "after the rigid step",
    "translation": "after the translation",
    "none": "after the initial transform",
}


def make_page(report: Mapping[str, Any], volumes: Volumes) -> str:
    """Make the page as one text without references to other files.

    Args:
        report: the content of report.json (`report.to_dict`).
        volumes: `page_volumes` of the same run.
    """
    moving, fixed = (
        tables.escaped(Path(report["inputs"][side]["path"]).name) for side in ("moving", "fixed")
    )
    good, verdict = tables.verdict(report)
    extra = {
        "lowest": report["folding"]["min_det_at_mm"],
        "aligned": STEPS[report["affine"]],
    }
    text = string.Template(_text("template.html")).substitute(
        style=_text("page.css"),
        script="".join(map(_text, ("helpers.js", "viewer.js", "page.js"))),
        data=json.dumps(volumes.to_dict() | extra, allow_nan=False).replace("<", "\\u003c"),
        moving=moving,
        fixed=fixed,
        state="good" if good else "bad",
        verdict=tables.escaped(verdict),
        folds=tables.escaped(tables.folds(report, volumes.folded)),
        spacing=f"{volumes.grid.spacing[0]:.3g}",
        windows=tables.escaped(tables.windows(volumes.windows)),
        sides="" if volumes.grid.normal is not None else SIDES,
        warnings=tables.warnings(report),
        tables=tables.all_tables(report),
        lines=tables.lines_to_paste(report),
        version=tables.escaped(str(report["versions"]["hsyn"])),
    )
    return text.encode(errors="backslashreplace").decode()  # bytes in a name that are no UTF-8


def _text(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
