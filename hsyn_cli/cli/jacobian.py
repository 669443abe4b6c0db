"""`hsyn jacobian`: the determinant map of a field and whether it folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import FILE, GroupedCommand, force_option, json_option, option, quiet_option, warn

if TYPE_CHECKING:
    from hsyn_cli.determinants import Jacobian

OUTPUT, VERDICT = "Output", "Verdict"


@click.command(cls=GroupedCommand, short_help="Map determinants, tell where a field folds.")
@click.argument("field", type=FILE)
@option(
    "-o",
    "--out",
    type=FILE,
    heading=OUTPUT,
    help="Image to write.  [default: FIELD's name with _jacobian.nii.gz or _log_jacobian.nii.gz]",
)
@option("--log", is_flag=True, heading=OUTPUT, help="Write the natural logarithm.")
@force_option
@option(
    "--max-folding",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    heading=VERDICT,
    help="Exit with code 9 if more of the field folds; the map is written all the same.",
)
@quiet_option
@json_option
def jacobian(
    field: Path, out: Path | None, log: bool, force: bool, max_folding: float | None, quiet: bool, as_json: bool
) -> None:  # fmt: skip
    """Map the Jacobian determinant of p -> p + d(p), and tell where the field folds.

    FIELD holds displacements in mm, LPS, as ANTs and hsyn write them, on a grid of any orientation. 1 is no change of volume,
    0.5 half of it, 0 or less a fold. Where there is no logarithm, --log writes that of 1e-9.

    \b
    Examples:
      hsyn jacobian out/forward_field.nii.gz
      hsyn jacobian 1Warp.nii.gz -o logj.nii.gz --log
      hsyn jacobian out/forward_field.nii.gz --max-folding 0 --json
    """
    from hsyn_cli import files, images, report
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.determinants import jacobian as measure

    target = out or files.beside(field, "_log_jacobian.nii.gz" if log else "_jacobian.nii.gz")
    files.check_image_names([target])
    with files.claim([target], force=force, inputs=[field]) as staging:
        with progress_bar(quiet) as progress:
            progress("reading", 0.0)
            read = images.read_field(field)
            progress("determinants", 0.3)
            result = measure(read.image, log=log)
            progress("writing", 0.7)
            images.write_image(result.image, staging.path(target))
        staging.commit()
    if as_json:
        plain = {"field": str(field), "output": str(target), **result.to_dict()}
        click.echo(report.record(plain, read.warnings), nl=False)
    elif not quiet:
        warn(read.warnings)
        _show(result, target, max_folding)
    report.check_folding(
        result.folding.percent, max_folding, f"the map was written; look at {target} where it is below 0"
    )


def _show(result: Jacobian, target: Path, max_folding: float | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hsyn_cli import report

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("folding", report.verdict(result.folding, max_folding=max_folding))
    table.add_row("smallest determinant", report.least_determinant(result.folding))
    if result.clipped:
        table.add_row("no logarithm", Text(f"{result.clipped} voxels hold that of 1e-9", "yellow"))
    table.add_row("written to", Text(str(target)))
    Console().print(table)
