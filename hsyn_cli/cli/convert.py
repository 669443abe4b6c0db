"""`hsyn convert`: fields and affines from and to the forms of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hsyn_cli.cli.options import FILE, GroupedCommand, force_option, json_option, option, quiet_option, warn

FORMS = click.Choice(["itk", "ras", "voxel", "fsl"])
FORM, OUTPUT = "Forms and images", "Output"


@click.command(cls=GroupedCommand, short_help="Change the form of a field or an affine.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@option(
    "--from",
    "source_form",
    type=FORMS,
    metavar="FORM",
    heading=FORM,
    help="What IN holds, whatever its header says.  [default: guessed from name and header]",
)
@option(
    "--to",
    "target_form",
    type=FORMS,
    metavar="FORM",
    heading=FORM,
    help="What OUT becomes.  [default: by name]",
)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=FORM,
    help="Fixed image, for its grid: .npz and .npy hold none, and FLIRT matrices depend on it.",
)
@option(
    "-m",
    "--moving",
    type=FILE,
    heading=FORM,
    help="Moving image, for its grid: fsl depends on it, and voxel where it is not the fixed one's.",
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
def convert(
    source: Path, target: Path, reference: Path | None, moving: Path | None, force: bool, quiet: bool, as_json: bool,
    **forms: Any,
) -> None:  # fmt: skip
    """Convert the displacement field or affine IN to the form of another program, OUT, and check it by reading it back.

    \b
    itk    mm, LPS: NIfTI intent 1007, .nrrd, .mha, .h5; affines .mat .tfm .txt .h5
           (ANTs, SimpleITK, Slicer, greedy, hsyn)
    ras    mm, RAS: NIfTI intent 1006; affines as 4 x 4 text, fixed to moving
    voxel  from fixed to moving index: .npz, .npy, or NIfTI (X, Y, Z, 3)
           (VoxelMorph, TransMorph, Learn2Reg)
    fsl    FNIRT's relative warps, intent 2006; affines as FLIRT's .mat

    A NIfTI field without an intent does not say what it holds: --from tells, and the file written is whole again.

    \b
    Examples:
      hsyn convert out/forward_field.nii.gz disp.npz --moving m.nii.gz --half
      hsyn convert disp.npz field.nii.gz --reference fixed.nii.gz
      hsyn convert no_intent.nii.gz field.nii.gz --from itk
      hsyn convert field.nii.gz warp.nii.gz --to fsl --moving moving.nii.gz
      hsyn convert 0GenericAffine.mat affine.txt --to ras
    """
    from hsyn_cli import files, formats, images, report
    from hsyn_cli.cli.progress import progress_bar

    inputs = [path for path in (source, reference, moving) if path is not None]
    with files.claim([target], force=force, inputs=inputs) as staging:
        with progress_bar(quiet) as progress:
            progress("converting", 0.0)
            fixed_grid = images.read_grid(reference, "reference image") if reference else None
            moving_grid = images.read_grid(moving, "moving image") if moving else None
            done = formats.convert(
                source, staging.path(target), fixed=fixed_grid, moving=moving_grid, **forms
            )
        warnings: tuple[str, ...] = ()
        if done.content == "field" and source.name.endswith((".nii", ".nii.gz")):
            warnings = images.header_warnings(source, "field")
        if done.content == "field" and "voxel" in (done.source_form, done.target_form) and moving is None:
            warnings += (
                "the moving image's grid is taken to be the fixed one's; give --moving if it is another",
            )
        staging.commit()
    if as_json:
        click.echo(
            report.record({"source": str(source), "target": str(target), **done.to_dict()}, warnings),
            nl=False,
        )
    elif not quiet:
        warn(warnings)
        click.echo(f"{done.content}, {done.source_form} to {done.target_form}: {target}")
        click.echo(
            f"read back it differs by at most {done.difference_mm:.2g} mm (rounding allows {done.allowed_mm:.2g})"
        )
