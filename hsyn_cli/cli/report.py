"""`hsyn report`: the page of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hsyn_cli.cli.options import FILE, GroupedCommand, force_option, json_option, option, quiet_option

INPUT = "Input"


@click.command(cls=GroupedCommand)
@click.argument("out_dir", type=FILE)
@option("-m", "--moving", type=FILE, heading=INPUT, help="The moving image, if it was moved since.")
@option("-f", "--fixed", type=FILE, heading=INPUT, help="The fixed image, if it was moved since.")
@force_option
@quiet_option
@json_option
def report(
    out_dir: Path, moving: Path | None, fixed: Path | None, force: bool, quiet: bool, as_json: bool
) -> None:
    """Make report.html for OUT_DIR, a folder that `hsyn register` wrote.

    One file that opens in any browser without a network: both images and the warped one slice by slice,
    their differences, the deformation, where it folds and how exact its inverse is, and report.json's tables.

    \b
    Examples:
      hsyn report out/ --force
      hsyn report out/ --moving /new/place/moving.nii.gz
    """
    from hsyn_cli import files, outputs, page
    from hsyn_cli.cli.progress import progress_bar

    outputs.read_report(out_dir)
    target = out_dir / outputs.PAGE
    with files.claim([target], force=force) as staging:
        with progress_bar(quiet) as progress:
            run = outputs.read(out_dir, moving, fixed, lambda step, share: progress(step, 0.7 * share))
            progress("drawing", 0.7)
            from hsyn_cli.page import tables, volumes

            text = page.make_page(run.report, volumes.prepare(run))
            files.write_text(staging.path(target), text)
        staging.commit()
    size = len(text.encode())
    _, verdict = tables.verdict(run.report)
    if as_json:
        click.echo(json.dumps({"page": str(target), "bytes": size, "verdict": verdict}))
    elif not quiet:
        click.echo(f"{verdict}\n{target} ({size / 1e6:.1f} MB)")
