"""`hsyn compose`: turn a chain of transforms into one displacement field or affine transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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

INPUT = "Input"


@click.command(cls=GroupedCommand, short_help="Compose a chain of transforms into one.")
@option(
    "-t",
    "--transform",
    "transforms",
    metavar="FILE|[FILE,1]",
    multiple=True,
    required=True,
    heading=INPUT,
    help="Displacement field or ITK transform, such as Composite.h5; [FILE,1] inverts a linear "
    "transform. Repeatable, in the order of antsApplyTransforms.",
)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=INPUT,
    help="Image whose grid the field gets.  [default: the grid of the first -t, if it is a field]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    heading=OUTPUT,
    help="Field to write (.nii.gz or another image format), or .h5 to keep all transforms as they "
    "are, as in ANTs' Composite.h5. A linear chain becomes one transform in .mat, .tfm, .txt, .h5.",
)
@force_option
@quiet_option
@json_option
def compose(
    transforms: tuple[str, ...],
    reference: Path | None,
    out: Path,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compose a chain of transforms into one transform.

    -t A -t B means the same as in `hsyn apply-field` and antsApplyTransforms: a point of the
    reference goes through A, then through B. The field is float32, in mm, LPS, with intent 1007.
    Where a point leaves the grid of a field in the chain, that field does not move it; a warning
    gives the share of such voxels.

    \b
    Examples:
      hsyn compose -t 1Warp.nii.gz -t 0GenericAffine.mat -r f.nii.gz \\
        -o total.nii.gz
      hsyn compose -t '[0GenericAffine.mat,1]' -t 1InverseWarp.nii.gz \\
        -r m.nii.gz -o inverse.nii.gz
      hsyn compose -t a.mat -t '[b.mat,1]' -o both.mat
      hsyn compose -t 1Warp.nii.gz -t 0GenericAffine.mat -o Composite.h5
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.record import record

    with progress_bar(quiet) as progress:
        done = api.compose_files(
            transforms, out, reference=reference, force=force, progress=progress
        )
    if as_json:
        click.echo(record(_plain(done.chain, reference, out), done.warnings), nl=False)
    elif not quiet:
        warn(done.warnings)
        count = len(done.chain.sources)
        click.echo(f"{count} {'transform' if count == 1 else 'transforms'} -> {out}")


def _plain(chain: Any, reference: Path | None, out: Path) -> dict[str, Any]:
    """What --json prints about the chain."""
    return {
        "transforms": [vars(source) for source in chain.sources],
        "reference": None if reference is None else str(reference),
        "output": str(out),
    }


COMMAND = compose
