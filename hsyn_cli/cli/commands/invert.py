"""`hsyn invert`: the inverse of any displacement field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import (
    FILE,
    GroupedCommand,
    device_option,
    force_option,
    json_option,
    option,
    quiet_option,
    threads_option,
    warn,
)

if TYPE_CHECKING:
    from hsyn_cli.tools.inversion import Inversion

INPUT, OUTPUT, METHOD = "Input", "Output", "Method"


@click.command(cls=GroupedCommand, short_help="Invert any displacement field.")
@click.argument("field", type=FILE)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=INPUT,
    help="Image whose grid the inverse gets, e.g. the moving image.  [default: the field's grid]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    heading=OUTPUT,
    help="File to write.  [default: FIELD's name with _inverse, beside FIELD]",
)
@option(
    "--residual-map",
    type=FILE,
    heading=OUTPUT,
    help="Also write the residual of every voxel in mm; -1 marks voxels outside the field's reach, "
    "-2 voxels in folds.",
)
@force_option
@option(
    "--tolerance",
    type=click.FloatRange(min=0.0005),
    default=0.005,
    show_default=True,
    metavar="MM",
    heading=METHOD,
    help="Residual at which the iteration stops.",
)
@option(
    "--fit",
    is_flag=True,
    heading=METHOD,
    help="Make both orders about as exact: FIELD before the inverse gains, the residual grows.",
)
@option(
    "--weights",
    metavar="NAME|PATH",
    heading=METHOD,
    help="Checkpoint that provides DI-Net.  [default: brain-t1]",
)
@device_option
@threads_option
@quiet_option
@json_option
def invert(
    field: Path, reference: Path | None, out: Path | None, residual_map: Path | None, force: bool,
    tolerance: float, fit: bool, weights: str | None, device: str, threads: int | None, quiet: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Invert a displacement FIELD made by hsyn, ANTs or any other program.

    DI-Net estimates the inverse e of the field d, and Newton steps make it exact. hsyn measures the
    residual |q + e(q) + d(q + e(q)) - q| at every voxel q. Where d folds, it has no inverse; hsyn
    counts these voxels and inverts the rest.

    The residual applies first e, then d, which is exact at the voxels of e. The other order, first
    d, then e, samples e between its voxels; linear interpolation then adds some hundredths of a mm
    in a brain. `hsyn evaluate` measures that order, and --fit lowers its error.

    \b
    Examples:
      hsyn invert forward_field.nii.gz
      hsyn invert forward_field.nii.gz --fit
      hsyn invert sub1Warp.nii.gz -o sub1InverseWarp.nii.gz --json
      hsyn invert field.nii.gz -r moving.nii.gz -o inverse.nii.gz \\
        --residual-map residual.nii.gz
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.record import record

    with progress_bar(quiet) as progress:
        done = api.invert_files(
            field, out, reference=reference, residual_map=residual_map, tolerance=tolerance,
            fit=fit, weights=weights, device=device, threads=threads, force=force,
            progress=progress,
        )  # fmt: skip
    if as_json:
        plain = {"field": str(field), "output": str(done.output), **done.inversion.to_dict()}
        click.echo(record(plain, done.warnings), nl=False)
    elif not quiet:
        warn(done.warnings)
        _show(done.inversion, done.output)


def _show(inversion: Inversion, out: Path) -> None:
    r = inversion.residual
    click.echo(f"residual  mean {r.mean_mm:.4f}, 99 % below {r.p99_mm:.4f}, max {r.max_mm:.4f} mm")
    if inversion.reversed is not None:
        o = inversion.reversed
        line = f"mean {o.mean_mm:.4f}, 99 % below {o.p99_mm:.4f}, max {o.max_mm:.4f} mm"
        click.echo(f"reversed  {line}")
    fold = inversion.folding
    if fold.voxels or fold.corner_voxels or inversion.folded:
        at = ", ".join(f"{v:.1f}" for v in fold.min_det_at_mm)
        text = (
            f"{fold.voxels} voxels of the field fold ({fold.corner_voxels} by the stricter corner "
            f"rule), worst at ({at}) mm LPS; {inversion.folded} voxels have no inverse"
        )
        click.secho(f"folding   {text}", fg="yellow")
    else:
        click.echo("folding   none")
    if inversion.unsolved:
        text = f"{inversion.unsolved} voxels keep a residual above ten times the tolerance"
        click.secho(f"unsolved  {text}", fg="yellow")
    if inversion.outside:
        share = 100 * inversion.outside / inversion.voxels
        click.echo(f"outside   {share:.1f} % of the voxels lie beyond the field's reach")
    click.echo(f"written   {out}")


COMMAND = invert
