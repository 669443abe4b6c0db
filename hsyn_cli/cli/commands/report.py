"""`hsyn report`: write the page of a finished registration."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hsyn_cli.cli.options import (
    FILE,
    GroupedCommand,
    force_option,
    json_option,
    option,
    quiet_option,
)

INPUT = "Input"


@click.command(cls=GroupedCommand, short_help="Write the page of a finished registration.")
@click.argument("out_dir", type=FILE)
@option(
    "-m", "--moving", type=FILE, heading=INPUT, help="New path of the moving image, if it changed."
)
@option(
    "-f", "--fixed", type=FILE, heading=INPUT, help="New path of the fixed image, if it changed."
)
@force_option
@quiet_option
@json_option
def report(
    out_dir: Path, moving: Path | None, fixed: Path | None, force: bool, quiet: bool, as_json: bool
) -> None:
    """Write report.html for OUT_DIR, an output folder of `hsyn register`.

    The page is one file that opens in any browser without a network. It shows both images and the
    warped one slice by slice, their differences, the deformation, folding, the inverse error and
    the tables of report.json. In a folder of `hsyn template`, it is index.html, which shows the
    template, its rounds and its subjects.

    \b
    Examples:
      hsyn report out/ --force
      hsyn report out/ --moving /new/place/moving.nii.gz
      hsyn report tpl/ --force
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar

    with progress_bar(quiet) as progress:
        page = api.report_files(out_dir, moving, fixed, force=force, progress=progress)
    if as_json:
        plain = {"page": str(page.path), "bytes": page.size, "verdict": page.verdict}
        click.echo(json.dumps(plain))
    elif not quiet:
        click.echo(f"{page.verdict}\n{page.path} ({page.size / 1e6:.1f} MB)")


COMMAND = report
