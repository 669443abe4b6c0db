"""Make the page of a finished template, or of a registration, again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hsyn_cli.errors import UsageError
from hsyn_cli.io import atomic
from hsyn_cli.results import written
from hsyn_cli.template import page, record
from hsyn_cli.template.page import words


def report_files(
    folder: Path,
    moving: Path | None = None,
    fixed: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> written.Page:
    """Rewrite index.html of a template's folder, or report.html of a registration's.

    Raises UsageError, OutputError and the errors of `written.read`.
    """
    found = record.read(folder) if record.known(folder) else None
    if found is None:
        return written.report_files(folder, moving, fixed, force=force, progress=progress)
    if moving or fixed:
        text = f"{folder} holds a template, which has no moving and no fixed image"
        raise UsageError(text, "leave out --moving and --fixed")
    page.check(folder)
    target = folder / page.PAGE
    with atomic.claim([target], force=force) as staging:
        text = page.make(folder, found, progress)
        atomic.write_text(staging.path(target), text)
        staging.commit()
    return written.Page(target, len(text.encode()), words.headline(found))
