"""`hsyn apply-field`: move images, label maps, series and points through a chain of transforms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.tools.apply_files import Applied
    from hsyn_cli.tools.labels import Change

POINT_FILES = (".csv", ".vtk")
INPUT, METHOD = "Input", "Method"
SHOWN = 10  # labels in the table, those that changed most; lost labels come on top


@click.command("apply-field", cls=GroupedCommand)
@option(
    "-i",
    "--input",
    "inputs",
    type=FILE,
    multiple=True,
    heading=INPUT,
    help="Image, label map, vector image or 4-D series (NIfTI) to move; repeatable.",
)
@option(
    "--points",
    type=FILE,
    multiple=True,
    heading=INPUT,
    help="Points to move instead of images, in mm, LPS: a CSV with the columns x,y,z (ANTs writes "
    "x,y,z,t,label,...) or a legacy VTK file; repeatable.",
)
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
    help="Image whose grid the output gets.  [default: the grid of the first -t, if it is a field]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    heading=OUTPUT,
    help="Output file; for several inputs a folder, in which they keep their names.",
)
@force_option
@option(
    "-n",
    "--interpolation",
    type=click.Choice(["linear", "nearest", "bspline", "lanczos", "label"]),
    default="linear",
    show_default=True,
    metavar="NAME",
    heading=METHOD,
    help="linear, nearest, bspline (cubic), lanczos, or label. label is for label maps: each voxel "
    "gets the id with the largest linear weight, which keeps borders smooth.",
)
@option(
    "--default-value",
    type=float,
    default=0.0,
    show_default=True,
    metavar="VALUE",
    heading=METHOD,
    help="Value outside the input image.",
)
@option(
    "--keep-type",
    is_flag=True,
    heading=METHOD,
    help="Keep the input's pixel type, with rounded values. By default only nearest and label keep "
    "it; the others write float32.",
)
@option(
    "--reorient",
    is_flag=True,
    heading=METHOD,
    help="Rotate the vectors of a vector image (mm, LPS) with the transform; their lengths stay "
    "the same.",
)
@quiet_option
@json_option
def apply_field(
    inputs: tuple[Path, ...], points: tuple[Path, ...], transforms: tuple[str, ...],
    reference: Path | None, out: Path, force: bool, interpolation: str, default_value: float,
    keep_type: bool, reorient: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Move images or points through a chain of transforms.

    -t A -t B means the same as in antsApplyTransforms: a point of the reference goes through A,
    then through B, and the output takes the input's value there. So B is nearest to the input
    image. Fields are NIfTI files with intent 1007, in mm, LPS.

    Points move against the direction of images: the chain that moves an image from moving to fixed
    moves points from fixed to moving. To move points from moving to fixed, give the inverse:

    \b
      of hsyn  -t inverse_field.nii.gz
      of ANTs  -t '[0GenericAffine.mat,1]' -t 1InverseWarp.nii.gz

    \b
    Examples:
      hsyn apply-field -i m.nii.gz -t out/forward_field.nii.gz -o moved.nii.gz
      hsyn apply-field -i m.nii.gz -t 1Warp.nii.gz -t 0GenericAffine.mat \\
        -r f.nii.gz -o moved.nii.gz
      hsyn apply-field -i seg.nii.gz -t out/forward_field.nii.gz -n label \\
        -o seg_f.nii.gz
      hsyn apply-field -i f.nii.gz -t '[affine.mat,1]' -r m.nii.gz -o f_m.nii.gz
      hsyn apply-field --points m.csv -t out/inverse_field.nii.gz -o f.csv
    """
    start = time.monotonic()
    _check(inputs, points, out)
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.record import record

    settings = api.ApplySettings(interpolation, default_value, keep_type, reorient)
    with progress_bar(quiet) as progress:
        done = api.apply_files(
            inputs, points, transforms, _targets(inputs or points, out), reference=reference,
            settings=settings, force=force, progress=progress,
        )  # fmt: skip
    if as_json:
        plain = {
            "transforms": [vars(source) for source in done.chain.sources],
            "reference": None if reference is None else str(reference),
            "interpolation": None if points else interpolation,
            "moved": _plain(done, "points" if points else "volumes"),
            "seconds_total": round(time.monotonic() - start, 3),
        }
        click.echo(record(plain, done.warnings), nl=False)
    elif not quiet:
        _show(done)


def _check(inputs: Sequence[Path], points: Sequence[Path], out: Path) -> None:
    if inputs and points:
        raise UsageError(
            "-i and --points in one call: the same chain moves images one way and points the other",
            "move the points in a separate call, through the chain of the inverse",
        )
    if not inputs and not points:
        raise UsageError("nothing to move", "give -i IMAGE or --points FILE")
    wrong = [path for path in inputs if path.suffix.lower() in POINT_FILES]
    if wrong:
        raise UsageError(
            f"{wrong[0]} is a file of points, not an image", "give it as --points FILE"
        )
    endings = {path.suffix.lower() for path in points}
    if points and out.suffix.lower() not in ("", *endings):
        kinds = ", ".join(sorted({path.suffix for path in points}))
        text = f"points keep their format ({kinds}), but {out} has another ending"
        raise UsageError(text, "give --out the ending of the input")
    names = [path.name for path in inputs or points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        text = f"two inputs are called {twice[0]}"
        raise UsageError(text, "move them in two calls, to two folders")


def _targets(sources: Sequence[Path], out: Path) -> list[Path]:
    """One file per source: `out` itself, or a file in `out`.

    `out` is a folder if it exists as one, has no ending or serves several sources.
    """
    if len(sources) > 1 or out.is_dir() or not out.suffix:
        return [out / path.name for path in sources]
    return [out]


def _plain(done: Applied, counted: str) -> list[dict[str, Any]]:
    """What --json prints about each output."""
    return [
        {
            "input": str(one.path),
            "sha256": one.sha256,
            "output": str(target),
            counted: one.count,
            "labels": [_label(change) for change in one.changes],
            "warnings": list(one.warnings),
        }
        for one, target in zip(done.moved, done.outputs, strict=True)
    ]


def _label(change: Change) -> dict[str, Any]:
    return {
        "label": change.label,
        f"before_{change.unit}": change.before,
        f"after_{change.unit}": change.after,
        "percent": change.percent if change.before else None,
        "lost": change.lost,
    }


def _show(done: Applied) -> None:
    warn((*done.warnings, *(line for one in done.moved for line in one.warnings)))
    for one, target in zip(done.moved, done.outputs, strict=True):
        click.echo(f"{one.path} -> {target}")
        if one.changes:
            _table(one.changes)


def _table(changes: Sequence[Change]) -> None:
    """Print the lost labels and those whose volume changed most."""
    from rich.console import Console
    from rich.table import Table

    lost = [change for change in changes if change.lost]
    kept = sorted((c for c in changes if not c.lost), key=lambda c: -abs(c.percent))
    unit = changes[0].unit
    table = Table("label", f"{unit} before", f"{unit} after", "change", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for change in (*lost, *kept[:SHOWN]):
        cells = (str(change.label), f"{change.before:.1f}", f"{change.after:.1f}")
        table.add_row(
            *cells,
            "lost" if change.lost else f"{change.percent:+.1f} %",
            style="red" if change.lost else None,
        )
    Console().print(table)
    more = (
        f"; {len(kept) - SHOWN} with smaller changes are not shown (--json has all)"
        if len(kept) > SHOWN
        else ""
    )
    click.echo(f"{len(lost)} of {len(changes)} labels lost{more}")


COMMAND = apply_field
