"""report.html: one file that shows a registration and opens anywhere, without a network.

`volumes` has the numbers, `tables` the text; template.html, page.css and page.js are the page.
The pictures are drawn by page.js on canvases from 8-bit volumes, so that every slice is there and the file stays small.
"""

from __future__ import annotations

import importlib.resources
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.page import tables

if TYPE_CHECKING:
    from hsyn_cli.page.volumes import Volumes

STEPS = {
    "affine": "after the affine step",
    "rigid": "after the rigid step",
    "none": "after the initial transform",
}


def make_page(report: Mapping[str, Any], volumes: Volumes) -> str:
    """The page as one text that refers to nothing outside itself.

    Args:
        report: what report.json holds (`report.to_dict`).
        volumes: `volumes.prepare` of the same run.
    """
    moving, fixed = (
        tables.escaped(Path(report["inputs"][side]["path"]).name) for side in ("moving", "fixed")
    )
    good, verdict = tables.verdict(report)
    extra = {
        "lowest": report["folding"]["min_det_at_mm"],
        "aligned": STEPS[report["affine"]],
    }
    return string.Template(_text("template.html")).substitute(
        style=_text("page.css"),
        script=_text("page.js"),
        data=json.dumps(volumes.to_dict() | extra, allow_nan=False).replace("<", "\\u003c"),
        moving=moving,
        fixed=fixed,
        state="good" if good else "bad",
        verdict=tables.escaped(verdict),
        folds=tables.escaped(tables.folds(report, volumes.folded)),
        spacing=f"{volumes.grid.spacing[0]:.3g}",
        windows=tables.escaped(tables.windows(volumes.windows)),
        warnings=tables.warnings(report),
        tables=tables.all_tables(report),
        lines=tables.lines_to_paste(report),
        version=tables.escaped(str(report["versions"]["hsyn"])),
    )


def _text(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
