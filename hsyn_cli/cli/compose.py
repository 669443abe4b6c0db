"""`hsyn compose`: a chain of transforms as one displacement field, or as one affine transform."""

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


@click.command(cls=GroupedCommand)
@option(
    "-t",
    "--transform",
    "transforms",
    metavar="FILE|[FILE,1]",
    multiple=True,
    required=True,
    heading=INPUT,
    help="Displacement field or ITK transform, or the inverse of a linear one; in antsApplyTransforms' order.",
)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=INPUT,
    help="Image whose grid the field gets.  [default: the grid of the first -t, if that is a field]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    heading=OUTPUT,
    help="Field (.nii.gz or another image format), or, for linear chains only, .mat, .tfm, .txt, .h5.",
)
@force_option
@quiet_option
@json_option
def compose(
    transforms: tuple[str, ...], reference: Path | None, out: Path, force: bool, quiet: bool, as_json: bool
) -> None:
    """Make one transform of a chain.

    -t A -t B means the same as to `hsyn apply-field` and antsApplyTransforms: a point of the reference goes through A,
    then B. The field is float32, mm, LPS, intent 1007. Where a point leaves the grid of a field in the chain, that
    field moves nothing; the share of such voxels is told.

    \b
    Examples:
      hsyn compose -t 1Warp.nii.gz -t 0GenericAffine.mat -r f.nii.gz -o total.nii.gz
      hsyn compose -t '[0GenericAffine.mat,1]' -t 1InverseWarp.nii.gz -r m.nii.gz \\
        -o inverse.nii.gz
      hsyn compose -t a.mat -t '[b.mat,1]' -o both.mat
    """
    from hsyn_cli import chain as chains
    from hsyn_cli import files, images, report
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.transforms import write_transform

    typed = [chains.parse(text)[0] for text in transforms]
    if out.suffix.lower() not in chains.TRANSFORM_FILES:
        files.check_image_names([out])
    inputs = [*typed, *([reference] if reference else [])]
    warnings: tuple[str, ...] = ()
    with files.claim([out], force=force, inputs=inputs) as staging, progress_bar(quiet) as progress:
        progress("reading", 0.0)
        chain = chains.read(transforms)
        if out.suffix.lower() in chains.TRANSFORM_FILES:
            write_transform(chains.to_affine(chain), staging.path(out))
        else:
            grid = chains.reference_grid(chain, reference)
            progress("composing", 0.4)
            warnings = chains.check_fields(chain, grid)
            field = chains.to_field(chain, grid)
            progress("writing", 0.8)
            images.write_image(field, staging.path(out))
        staging.commit()
    warnings = chain.warnings + warnings
    if as_json:
        click.echo(report.record(_plain(chain, reference, out), warnings), nl=False)
        return
    if not quiet:
        warn(warnings)
        count = len(chain.sources)
        click.echo(f"{count} {'transform' if count == 1 else 'transforms'} -> {out}")


def _plain(chain: Any, reference: Path | None, out: Path) -> dict[str, Any]:
    """What --json prints."""
    return {
        "transforms": [vars(source) for source in chain.sources],
        "reference": None if reference is None else str(reference),
        "output": str(out),
    }
