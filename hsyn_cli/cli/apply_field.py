"""`hsyn apply-field`: images, label maps, series and points through a chain of transforms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsyn_cli.cli.options import FILE, OUTPUT, GroupedCommand, force_option, json_option, option, quiet_option
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.apply import Moved
    from hsyn_cli.chain import Chain
    from hsyn_cli.files import Staging
    from hsyn_cli.labels import Change

INPUT, METHOD = "Input", "Method"
SHOWN = 10  # labels whose volume changed most; lost ones are all shown


@dataclass(frozen=True)
class Options:
    """The command line of `hsyn apply-field`, as typed."""

    inputs: tuple[Path, ...]
    points: tuple[Path, ...]
    transforms: tuple[str, ...]
    reference: Path | None
    out: Path
    force: bool
    interpolation: str
    default_value: float
    keep_type: bool
    reorient: bool
    quiet: bool
    as_json: bool

    @property
    def sources(self) -> tuple[Path, ...]:
        return self.inputs or self.points


@click.command("apply-field", cls=GroupedCommand)
@option(
    "-i",
    "--input",
    "inputs",
    type=FILE,
    multiple=True,
    heading=INPUT,
    help="Image, label map, vector image or 4-D series (NIfTI) to move; may be given often.",
)
@option(
    "--points",
    type=FILE,
    multiple=True,
    heading=INPUT,
    help="Points to move instead, mm LPS: CSV with the columns x,y,z (ANTs' x,y,z,t,label,...), or legacy VTK.",
)
@option(
    "-t",
    "--transform",
    "transforms",
    metavar="FILE|[FILE,1]",
    multiple=True,
    required=True,
    heading=INPUT,
    help="Displacement field or ITK transform, or the inverse of a linear one; may be given often, in "
    "antsApplyTransforms' order.",
)
@option(
    "-r",
    "--reference",
    type=FILE,
    heading=INPUT,
    help="Image whose grid the output gets.  [default: the grid of the first -t, if that is a field]",
)
@option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    heading=OUTPUT,
    help="File; for several inputs a folder, where they keep their names.",
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
    help="linear, nearest, bspline (cubic), lanczos; label: of label maps the id with the largest linear weight, which "
    "leaves no stairs.",
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
    help="Write the input's pixel type, rounded. Nearest and label always do; the others write float32.",
)
@option(
    "--reorient",
    is_flag=True,
    heading=METHOD,
    help="Turn the vectors of a vector image (mm, LPS) by the transform's local rotation; lengths are kept.",
)
@quiet_option
@json_option
def apply_field(**values: Any) -> None:
    """Move images or points through a chain of transforms.

    -t A -t B means what it means to antsApplyTransforms: a point of the reference goes through A, then B, and there the
    input is looked up. So B is nearest to the input image. Fields are NIfTI files with intent 1007, mm, LPS.

    Points go the other way than images: the chain that moves an image from moving to fixed moves points from fixed to
    moving. Points of the moving image reach the fixed one by inverse_field.nii.gz, or ANTs'
    -t [0GenericAffine.mat,1] -t 1InverseWarp.nii.gz.

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
    options = Options(**values)
    _check(options)
    targets = _targets(options)
    from hsyn_cli import chain as chains
    from hsyn_cli import files

    typed = [chains.parse(text)[0] for text in options.transforms]
    if options.inputs:
        files.check_image_names(targets)
    inputs = [*options.sources, *typed, *([options.reference] if options.reference else [])]
    with files.claim(targets, force=options.force, inputs=inputs) as staging:
        chain, moved, warnings = _run(options, targets, staging)
        staging.commit()
    if options.as_json:
        seconds = time.monotonic() - start
        from hsyn_cli import report

        click.echo(report.record(_plain(options, chain, moved, targets, seconds), warnings), nl=False)
    elif not options.quiet:
        _tell(moved, targets, warnings)


def _check(options: Options) -> None:
    if options.inputs and options.points:
        raise UsageError(
            "-i and --points in one call: the same chain moves images one way and points the other",
            "move the points in a call of their own, by the chain of the inverse",
        )
    if not options.sources:
        raise UsageError("nothing to move", "give -i IMAGE or --points FILE")
    if options.points and options.out.suffix.lower() not in (
        "",
        *(path.suffix.lower() for path in options.points),
    ):
        kinds = ", ".join(sorted({path.suffix for path in options.points}))
        raise UsageError(
            f"points stay in their format ({kinds}), {options.out} has another name", "name it so"
        )
    names = [path.name for path in options.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two inputs are called {twice[0]}", "move them in two calls, to two folders")


def _targets(options: Options) -> list[Path]:
    """One file per input: --out itself, or in it if it is a folder, has no extension, or is for several."""
    out = options.out
    if len(options.sources) > 1 or out.is_dir() or not out.suffix:
        return [out / path.name for path in options.sources]
    return [out]


def _run(
    options: Options, targets: Sequence[Path], staging: Staging
) -> tuple[Chain, list[Moved], tuple[str, ...]]:
    from hsyn_cli import apply
    from hsyn_cli import chain as chains
    from hsyn_cli.cli.progress import progress_bar

    how = apply.Settings(options.interpolation, options.default_value, options.keep_type, options.reorient)
    with progress_bar(options.quiet) as progress:
        progress("reading", 0.0)
        chain = chains.read(options.transforms)
        outs = [staging.path(target) for target in targets]
        if options.points:
            moved = [apply.move_point_file(*pair, chain) for pair in zip(options.points, outs, strict=True)]
            return chain, moved, chain.warnings
        reference = chains.reference_grid(chain, options.reference)
        warnings = chain.warnings + chains.check_fields(chain, reference)
        moved = []
        for k, (path, out) in enumerate(zip(options.inputs, outs, strict=True)):

            def share(done: float, k: int = k, name: str = path.name) -> None:
                progress(name, (k + done) / len(outs))

            share(0.0)
            moved.append(apply.move_file(path, out, chain, reference, how, share))
    return chain, moved, warnings


def _plain(
    options: Options,
    chain: Chain,
    moved: Sequence[Moved],
    targets: Sequence[Path],
    seconds: float,
) -> dict[str, Any]:
    """What --json prints."""
    return {
        "transforms": [vars(source) for source in chain.sources],
        "reference": None if options.reference is None else str(options.reference),
        "interpolation": None if options.points else options.interpolation,
        "moved": [
            {
                "input": str(one.path),
                "sha256": one.sha256,
                "output": str(target),
                "points" if options.points else "volumes": one.count,
                "labels": [_label(change) for change in one.changes],
                "warnings": list(one.warnings),
            }
            for one, target in zip(moved, targets, strict=True)
        ],
        "seconds_total": round(seconds, 3),
    }


def _label(change: Change) -> dict[str, Any]:
    return {
        "label": change.label,
        "before_mm3": change.before_mm3,
        "after_mm3": change.after_mm3,
        "percent": change.percent if change.before_mm3 else None,
        "lost": change.lost,
    }


def _tell(moved: Sequence[Moved], targets: Sequence[Path], warnings: Sequence[str]) -> None:
    for warning in (*warnings, *(line for one in moved for line in one.warnings)):
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    for one, target in zip(moved, targets, strict=True):
        click.echo(f"{one.path} -> {target}")
        if one.changes:
            _table(one.changes)


def _table(changes: Sequence[Change]) -> None:
    """Labels lost, and those whose volume changed most."""
    from rich.console import Console
    from rich.table import Table

    lost = [change for change in changes if change.lost]
    kept = sorted((c for c in changes if not c.lost), key=lambda c: -abs(c.percent))
    table = Table("label", "mm3 before", "mm3 after", "change", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for change in (*lost, *kept[:SHOWN]):
        cells = (str(change.label), f"{change.before_mm3:.1f}", f"{change.after_mm3:.1f}")
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
