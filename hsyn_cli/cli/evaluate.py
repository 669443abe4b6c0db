"""`hsyn evaluate`: overlap, landmark errors, folding and inverse error of one pair or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import FILE, GroupedCommand, force_option, json_option, option, quiet_option, warn
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.cli.progress import Progress

PAIR, OUTPUT = "The pair", "Output"


def _ids(ctx: click.Context, param: click.Parameter, value: str) -> frozenset[int]:
    """Whole numbers and ranges: 1,2,40-45."""
    ids: set[int] = set()
    for part in filter(None, value.split(",")):
        first, _, last = part.partition("-")
        try:
            ids |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            raise click.BadParameter(f"{part!r} is no whole number or range such as 40-45") from None
    return frozenset(ids)


@click.command(cls=GroupedCommand, short_help="Measure overlap, folding, errors of a pair.")
@click.argument("folder", metavar="[OUT_DIR]", type=FILE, required=False)
@option("--forward", type=FILE, heading=PAIR, help="Field on the fixed grid, fixed to moving.")
@option("--inverse", type=FILE, heading=PAIR, help="Field on the moving grid, moving to fixed.")
@option("-f", "--fixed", type=FILE, heading=PAIR, help="Fixed image; its foreground counts.")
@option("-m", "--moving", type=FILE, heading=PAIR, help="Moving image; its labels must lie on its grid.")
@option("--fixed-labels", type=FILE, heading=PAIR, help="Label map of the fixed image.")
@option("--moving-labels", type=FILE, heading=PAIR, help="Label map of the moving image, to be warped.")
@option("--fixed-mask", type=FILE, heading=PAIR, help="Counts instead of the fixed image's foreground.")
@option(
    "--landmarks", type=FILE, heading=PAIR, help="CSV with the columns fx, fy, fz, mx, my, mz in mm, LPS."
)
@option(
    "--ignore",
    callback=_ids,
    default="",
    metavar="IDS",
    heading=PAIR,
    help="Labels that do not count, e.g. 1,2,40-45.",
)
@option(
    "--pairs",
    type=FILE,
    heading=PAIR,
    help="CSV of pairs: columns as these options (fixed_labels ...) and name; paths relative to it.",
)
@option("--csv", "csv_file", type=FILE, heading=OUTPUT, help="Write one row per pair and label.")
@option("--json-file", type=FILE, heading=OUTPUT, help="Write everything as JSON.")
@force_option
@quiet_option
@json_option
def evaluate(
    folder: Path | None, ignore: frozenset[int], pairs: Path | None, csv_file: Path | None, json_file: Path | None,
    force: bool, quiet: bool, as_json: bool, **given: Path | None,
) -> None:  # fmt: skip
    """Measure a registration: Dice and HD95 per label, landmark errors, folding, SDlogJ, inverse error.

    OUT_DIR is an output folder of hsyn register; its report.json knows both images and both fields. Fields of other programs:
    --forward and --fixed. What is not given is left out.

    HD95 is the larger of the two directed 95th percentiles between surface voxels, in mm. SDlogJ is the standard deviation of
    the log determinant in the fixed foreground.

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
    from hsyn_cli import files, scores
    from hsyn_cli.cli.progress import progress_bar

    work = scores.pairs_of(pairs) if pairs is not None else [scores.pair_of(files_given, folder)]
    targets = [path for path in (csv_file, json_file) if path is not None]
    inputs = [path for pair in work for path in pair.paths] + ([pairs] if pairs else [])
    with files.claim(targets, force=force, inputs=inputs) as staging:
        results = {}
        warnings = tuple(dict.fromkeys(line for pair in work for line in scores.header_warnings(pair)))
        with progress_bar(quiet) as progress:
            for k, pair in enumerate(work):
                results[pair.name] = scores.evaluate_pair(pair, ignore, _share(progress, k, len(work)))
        if csv_file is not None:
            files.write_text(staging.path(csv_file), scores.to_csv(results))
        if json_file is not None:
            files.write_text(staging.path(json_file), scores.to_json(results, warnings))
        staging.commit()
    if as_json:
        click.echo(scores.to_json(results, warnings), nl=False)
    elif not quiet:
        from rich.console import Console

        warn(warnings)
        Console().print(scores.render(results))
        for path in targets:
            click.echo(f"written: {path}")


def _share(progress: Progress, done: int, count: int) -> Progress:
    """Progress of one pair as a part of all."""
    head = f"{done + 1}/{count} " if count > 1 else ""
    return lambda step, part: progress(head + step, (done + part) / count)
