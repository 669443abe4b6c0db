"""`hsyn check`: what hsyn sees in images, and what it would do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hsyn_cli.cli.method_options import (
    METHOD,
    head_option,
    model_option,
    preset_option,
    search_option,
    seed_option,
    similarity_option,
    smoothness_option,
    transform_option,
)
from hsyn_cli.cli.options import (
    FILE,
    OUTPUT,
    GroupedCommand,
    device_option,
    force_option,
    json_option,
    option,
    quiet_option,
    threads_option,
)
from hsyn_cli.errors import UsageError

INPUT = "Input"


@click.command(cls=GroupedCommand, short_help="Tell what hsyn would do with images, before a run.")
@click.argument("files", type=FILE, nargs=-1)
@option("-m", "--moving", type=FILE, heading=INPUT, help="Moving image of a pair.")
@option("-f", "--fixed", type=FILE, heading=INPUT, help="Fixed image of a pair.")
@option("--moving-mask", type=FILE, heading=INPUT, help="Mask of the moving image.")
@option("--fixed-mask", type=FILE, heading=INPUT, help="Mask of the fixed image.")
@option(
    "--initial-transform", type=FILE, heading=INPUT,
    help="Linear transform to start from, fixed to moving points.",
)  # fmt: skip
@option(
    "--write-repaired", type=FILE, metavar="OUT", heading=OUTPUT,
    help="Write the images whose headers can be repaired without a guess: to this file, or to this "
    "folder if there are several.",
)  # fmt: skip
@force_option
@preset_option
@model_option
@transform_option
@similarity_option
@search_option
@head_option
@smoothness_option
@device_option
@threads_option
@seed_option
@quiet_option
@json_option
def check(
    files: tuple[Path, ...], moving: Path | None, fixed: Path | None, moving_mask: Path | None,
    fixed_mask: Path | None, initial_transform: Path | None, write_repaired: Path | None,
    force: bool, device: str, threads: int | None, quiet: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Tell what hsyn would do with images, before a run.

    FILES are images, or one table of pairs as `hsyn batch` takes it. A pair is given by -m and -f.
    hsyn reads the images, aligns a pair as `hsyn register` does, and tells what the headers say,
    what it takes the images for, what it will use, and the time and memory that it will need here.
    If `hsyn register` would refuse the images, the line and the exit code are the same.

    \b
    Examples:
      hsyn check scan.nii.gz
      hsyn check -m moving.nii.gz -f fixed.nii.gz
      hsyn check -m moving.nii.gz -f fixed.nii.gz --preset fast --threads 2 --json
      hsyn check pairs.csv
      hsyn check scan.nii.gz --write-repaired repaired.nii.gz
    """
    if (moving is None) != (fixed is None):
        raise UsageError("one image of a pair is given", "give both -m and -f, or FILES")
    pair = None
    if moving is not None and fixed is not None:
        from hsyn_cli.results.register_files import Inputs

        pair = Inputs(
            moving, fixed, None, fixed_mask, moving_mask, initial_transform=initial_transform
        )
    elif moving_mask or fixed_mask or initial_transform:
        raise UsageError("masks and transforms are for a pair", "give -m and -f")
    if force and write_repaired is None:
        raise UsageError("--force is for --write-repaired, which is not given", "give both")
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar

    with progress_bar(quiet) as progress:
        found = api.check_files(
            files, pair, given=_given(), options=options, device=device, threads=threads,
            repaired=write_repaired, force=force, progress=progress,
        )  # fmt: skip
    if as_json:
        from hsyn_cli.results.record import record

        click.echo(record(found.to_dict(), found.warnings), nl=False)
    elif not quiet:
        from rich.console import Console

        from hsyn_cli.checks.render import render

        Console().print(render(found))
    found.raise_refusal()


def _given() -> list[str]:
    """The options of the method on the command line, such as --preset."""
    context = click.get_current_context()
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if getattr(parameter, "heading", "") == METHOD
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]


COMMAND = check
