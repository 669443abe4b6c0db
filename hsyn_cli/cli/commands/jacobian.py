"""`hsyn jacobian`: map the Jacobian determinant of a field and measure folding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import (
    FILE,
    GroupedCommand,
    force_option,
    json_option,
    option,
    quiet_option,
    warn,
)

if TYPE_CHECKING:
    from hsyn_cli.tools.jacobian import Jacobian

OUTPUT, VERDICT = "Output", "Verdict"


@click.command(cls=GroupedCommand, short_help="Map the Jacobian determinant and measure folding.")
@click.argument("field", type=FILE)
@option(
    "-o",
    "--out",
    type=FILE,
    heading=OUTPUT,
    help="Image to write.  [default: FIELD's name with _jacobian.nii.gz or _log_jacobian.nii.gz]",
)
@option(
    "--log", is_flag=True, heading=OUTPUT, help="Write the natural logarithm of the determinant."
)
@force_option
@option(
    "--max-folding",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    heading=VERDICT,
    help="Exit with code 9 if more of the field folds; the map is written anyway.",
)
@quiet_option
@json_option
def jacobian(
    field: Path, out: Path | None, log: bool, force: bool, max_folding: float | None, quiet: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Map the Jacobian determinant of p -> p + d(p) and measure folding.

    FIELD holds displacements in mm, LPS, as ANTs and hsyn write them, on a grid of any orientation.
    A determinant of 1 keeps the volume, 0.5 halves it, and 0 or less means folding. Where the
    determinant is below 1e-9, --log writes log(1e-9).

    \b
    Examples:
      hsyn jacobian out/forward_field.nii.gz
      hsyn jacobian 1Warp.nii.gz -o logj.nii.gz --log
      hsyn jacobian out/forward_field.nii.gz --max-folding 0 --json
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.record import record
    from hsyn_cli.results.report import check_folding

    with progress_bar(quiet) as progress:
        done = api.jacobian_files(field, out, log=log, force=force, progress=progress)
    result, target = done.result, done.output
    if as_json:
        plain = {"field": str(field), "output": str(target), **result.to_dict()}
        click.echo(record(plain, done.warnings), nl=False)
    elif not quiet:
        warn(done.warnings)
        _show(result, target, max_folding)
    hint = f"the map was written; the lowest values of {target} mark the folds"
    check_folding(result.folding.percent, max_folding, hint)


def _show(result: Jacobian, target: Path, max_folding: float | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hsyn_cli.results.render import least_determinant, verdict

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("folding", verdict(result.folding, max_folding=max_folding))
    table.add_row("smallest determinant", least_determinant(result.folding))
    if result.clipped:
        table.add_row("no logarithm", Text(f"{result.clipped} voxels hold log(1e-9)", "yellow"))
    table.add_row("written to", Text(str(target)))
    Console().print(table)


COMMAND = jacobian
