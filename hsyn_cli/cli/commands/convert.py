"""`hsyn convert`: fields and affines from and to the forms of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hsyn_cli import api
from hsyn_cli.cli.options import (
    FILE,
    OUTPUT,
    GroupedCommand,
    force_option,
    json_option,
    option,
    quiet_option,
    warn,
)

FORM = "Forms and images"


def one_of_the_forms(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A callback in place of click.Choice: it looks up which forms there are when it runs."""
    if value is not None:
        click.Choice(list(api.forms())).convert(value, param, ctx)
    return value


def beginning_so(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion in a shell."""
    return [name for name in api.forms() if name.startswith(incomplete)]


class ConvertCommand(GroupedCommand):
    """A command whose --help also lists the forms."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Forms"):
            formatter.write_dl(list(api.forms().items()))
        super().format_options(ctx, formatter)


@click.command(cls=ConvertCommand, short_help="Change the form of a field or an affine.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@option(
    "--from",
    "source_form",
    callback=one_of_the_forms,
    shell_complete=beginning_so,
    metavar="FORM",
    heading=FORM,
    help="What IN holds, whatever its header says.  [default: guessed from name and header]",
)
@option(
    "--to",
    "target_form",
    callback=one_of_the_forms,
    shell_complete=beginning_so,
    metavar="FORM",
    heading=FORM,
    help="What OUT becomes.  [default: by name]",
)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=FORM,
    help="Fixed image, for its grid: .npz and .npy hold none, and FLIRT and LTA affines need it.",
)
@option(
    "-m",
    "--moving",
    type=FILE,
    heading=FORM,
    help="Moving image, for its grid: fsl and freesurfer depend on it, and voxel unless it is the "
    "fixed one's.",
)
@option(
    "--channels",
    type=click.Choice(["first", "last"]),
    default="last",
    show_default=True,
    heading=OUTPUT,
    help="Of .npz and .npy: (3, X, Y, Z) or (X, Y, Z, 3).",
)
@option("--half", is_flag=True, heading=OUTPUT, help="Of .npz and .npy: half precision (float16).")
@force_option
@quiet_option
@json_option
def convert(source: Path, target: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Convert the displacement field or affine IN to the form of another program, OUT.

    hsyn reads OUT back and compares it with IN. A NIfTI field without an intent does not say what
    it holds. Name its form with --from; OUT then has an intent.

    \b
    Examples:
      hsyn convert out/forward_field.nii.gz disp.npz --moving m.nii.gz --half
      hsyn convert disp.npz field.nii.gz --reference fixed.nii.gz
      hsyn convert no_intent.nii.gz field.nii.gz --from itk
      hsyn convert field.nii.gz warp.nii.gz --to fsl --moving moving.nii.gz
      hsyn convert 0GenericAffine.mat affine.txt --to ras
      hsyn convert bbregister.lta affine.tfm
      hsyn convert Composite.h5 field.nii.gz
    """
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.record import record

    with progress_bar(quiet) as progress:
        done = api.convert_files(source, target, progress=progress, **options)
    result = done.result
    if as_json:
        plain = {"source": str(source), "target": str(target), **result.to_dict()}
        click.echo(record(plain, done.warnings), nl=False)
    elif not quiet:
        warn(done.warnings)
        click.echo(f"{result.content}, {result.source_form} to {result.target_form}: {target}")
        click.echo(
            f"read back it differs by at most {result.difference_mm:.2g} mm "
            f"(rounding allows {result.allowed_mm:.2g})"
        )


COMMAND = convert
