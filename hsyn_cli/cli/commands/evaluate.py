"""`hsyn evaluate`: measure overlap, landmark errors, folding and inverse error of pairs."""

from __future__ import annotations

from pathlib import Path

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
from hsyn_cli.errors import UsageError

PAIR, OUTPUT = "The pair", "Output"


def _ids(ctx: click.Context, param: click.Parameter, value: str) -> frozenset[int]:
    """Parse whole numbers and ranges: 1,2,40-45."""
    ids: set[int] = set()
    for part in filter(None, value.split(",")):
        first, _, last = part.partition("-")
        try:
            ids |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            raise click.BadParameter(
                f"{part!r} is no whole number or range such as 40-45"
            ) from None
    return frozenset(ids)


@click.command(cls=GroupedCommand, short_help="Measure overlap, folding and errors of pairs.")
@click.argument("folder", metavar="[OUT_DIR]", type=FILE, required=False)
@option(
    "--forward", type=FILE, heading=PAIR, help="Field on the fixed grid, fixed to moving points."
)
@option(
    "--inverse", type=FILE, heading=PAIR, help="Field on the moving grid, moving to fixed points."
)
@option("-f", "--fixed", type=FILE, heading=PAIR, help="Fixed image; hsyn measures its foreground.")
@option(
    "-m",
    "--moving",
    type=FILE,
    heading=PAIR,
    help="Moving image; its label map must lie on its grid.",
)
@option("--fixed-labels", type=FILE, heading=PAIR, help="Label map of the fixed image.")
@option(
    "--moving-labels",
    type=FILE,
    heading=PAIR,
    help="Label map of the moving image, which hsyn warps.",
)
@option(
    "--fixed-mask",
    type=FILE,
    heading=PAIR,
    help="Mask that replaces the foreground of the fixed image.",
)
@option(
    "--landmarks",
    type=FILE,
    heading=PAIR,
    help="CSV with the columns fx, fy, fz, mx, my, mz in mm, LPS.",
)
@option(
    "--ignore",
    callback=_ids,
    default="",
    metavar="IDS",
    heading=PAIR,
    help="Labels to ignore, e.g. 1,2,40-45.",
)
@option(
    "--pairs",
    type=FILE,
    heading=PAIR,
    help="CSV with a pair per row. Columns: name and the files above (fixed_labels etc.). Paths "
    "are relative to the CSV.",
)
@option("--csv", "csv_file", type=FILE, heading=OUTPUT, help="Write one row per pair and label.")
@option("--json-file", type=FILE, heading=OUTPUT, help="Write everything as JSON.")
@force_option
@quiet_option
@json_option
def evaluate(
    folder: Path | None, ignore: frozenset[int], pairs: Path | None, csv_file: Path | None,
    json_file: Path | None, force: bool, quiet: bool, as_json: bool, **given: Path | None,
) -> None:  # fmt: skip
    """Measure a registration: overlap of labels, landmark errors, folding, inverse error.

    OUT_DIR is an output folder of `hsyn register`; its report.json names both images and both
    fields. For fields of other programs, give --forward and --fixed. hsyn skips each measure whose
    files are missing.

    For each label, hsyn computes Dice and HD95. HD95 is the larger of the two directed 95th
    percentiles of the distances between surface voxels, in mm. SDlogJ is the standard deviation of
    the log Jacobian determinant in the fixed foreground.

    \b
    Examples:
      hsyn evaluate out/ --fixed-labels f_seg.nii.gz --moving-labels m_seg.nii.gz
      hsyn evaluate --forward warp.nii.gz --fixed f.nii.gz --landmarks points.csv
      hsyn evaluate --pairs pairs.csv --csv scores.csv --json-file scores.json
      hsyn evaluate out/ --json
    """
    files_given = {name: path for name, path in given.items() if path is not None}
    if pairs is not None and (folder is not None or files_given):
        raise UsageError("--pairs stands alone", "leave out OUT_DIR and the files of a single pair")
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results import scores
    from hsyn_cli.results.pairs import pair_of, pairs_of

    work = pairs_of(pairs) if pairs is not None else [pair_of(files_given, folder)]
    with progress_bar(quiet) as progress:
        done = api.evaluate_files(
            work, table=pairs, ignore=ignore, csv_file=csv_file, json_file=json_file, force=force,
            progress=progress,
        )  # fmt: skip
    if as_json:
        click.echo(scores.to_json(done.results, done.warnings), nl=False)
    elif not quiet:
        from rich.console import Console

        warn(done.warnings)
        Console().print(scores.render(done.results))
        for path in (csv_file, json_file):
            if path is not None:
                click.echo(f"written: {path}")


COMMAND = evaluate
