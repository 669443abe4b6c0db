"""`hsyn invert`: the inverse of any displacement field."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
    from hsyn_cli.inversion import Inversion

INPUT, OUTPUT, METHOD = "Input", "Output", "Method"


@click.command(cls=GroupedCommand, short_help="Invert any displacement field.")
@click.argument("field", type=FILE)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=INPUT,
    help="Image on whose grid the inverse is wanted, e.g. the moving one.  [default: the field's grid]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    heading=OUTPUT,
    help="Where to write it.  [default: FIELD's name with _inverse, beside it]",
)
@option(
    "--residual-map",
    type=FILE,
    heading=OUTPUT,
    help="Also write the residual in mm at every voxel; -1 outside the field's reach, -2 in folds.",
)
@force_option
@option(
    "--tolerance",
    type=click.FloatRange(min=0.0005),
    default=0.005,
    show_default=True,
    metavar="MM",
    heading=METHOD,
    help="Residual to stop at.",
)
@option(
    "--weights",
    metavar="NAME|PATH",
    heading=METHOD,
    help="Checkpoint whose DI-Net begins.  [default: brain-t1]",
)
@device_option
@threads_option
@quiet_option
@json_option
def invert(
    field: Path, reference: Path | None, out: Path | None, residual_map: Path | None, force: bool, tolerance: float,
    weights: str | None, device: str, threads: int | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Invert a displacement FIELD, made by hsyn, ANTs or any other program.

    DI-Net begins and an exact iteration ends; the residual |q + e(q) + d(q + e(q)) - q| is measured at every voxel. A field
    that folds has no inverse there: where is told, and the rest is inverted.

    This order, first e and then d, is exact at the voxels of e. The other, d and then e, meets e between its voxels and is off by
    what linear interpolation gives: some hundredths of a mm in a brain. `hsyn evaluate` measures that one.

    \b
    Examples:
      hsyn invert forward_field.nii.gz
      hsyn invert sub1Warp.nii.gz -o sub1InverseWarp.nii.gz --json
      hsyn invert field.nii.gz -r moving.nii.gz -o inverse.nii.gz --residual-map residual.nii.gz
    """
    from hsyn_cli import files, report

    out = out or files.beside(field, "_inverse.nii.gz")
    targets = [out] if residual_map is None else [out, residual_map]
    files.check_image_names(targets)
    inputs = [path for path in (field, reference) if path is not None]
    with files.claim(targets, force=force, inputs=inputs) as staging:
        from hsyn_cli import images
        from hsyn_cli.cli.progress import progress_bar

        with progress_bar(quiet) as progress, ThreadPoolExecutor(1) as pool:
            progress("reading", 0.0)
            reading = pool.submit(images.read_field, field)
            from hsyn_cli.inversion import invert as invert_field  # loads torch meanwhile

            read = reading.result()
            found = invert_field(
                read.image, reference, tolerance=tolerance, weights=weights, device=device, threads=threads,
                progress=lambda step, fraction: progress(step, 0.1 + 0.75 * fraction),
            )  # fmt: skip
            progress("writing", 0.85)
            images.write_image(found.inverse, staging.path(out))
            if residual_map is not None:
                images.write_image(found.residual_map, staging.path(residual_map))
            staging.commit()
    if as_json:
        plain = {"field": str(field), "output": str(out), **found.to_dict()}
        click.echo(report.record(plain, read.warnings), nl=False)
    elif not quiet:
        warn(read.warnings)
        _tell(found, out)


def _tell(found: Inversion, out: Path) -> None:
    r = found.residual
    click.echo(f"residual  mean {r.mean_mm:.4f}, 99 % below {r.p99_mm:.4f}, max {r.max_mm:.4f} mm")
    fold = found.folding
    if fold.voxels or fold.corner_voxels or found.folded:
        at = ", ".join(f"{v:.1f}" for v in fold.min_det_at_mm)
        where = f"{fold.voxels} voxels of the field fold ({fold.corner_voxels} by the stricter corner rule), worst at ({at}) mm LPS"
        click.secho(f"folding   {where}; {found.folded} voxels have no inverse", fg="yellow")
    else:
        click.echo("folding   none")
    if found.unsolved:
        click.secho(f"unsolved  {found.unsolved} voxels keep more than ten times the tolerance", fg="yellow")
    if found.outside:
        click.echo(
            f"outside   {100 * found.outside / found.voxels:.1f} % of the voxels lie beyond the field's reach"
        )
    click.echo(f"written   {out}")
