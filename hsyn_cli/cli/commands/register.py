"""`hsyn register`: turn a pair of images into warped images, fields both ways and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

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
    MACHINE,
    OUTPUT,
    GroupedCommand,
    device_option,
    force_option,
    option,
    threads_option,
)
from hsyn_cli.config.channels import channels_of, weights_of
from hsyn_cli.errors import UsageError

Transform = Literal["translation", "rigid", "affine", "deformable"]
Affine = Literal["affine", "rigid", "none"]
Search = Literal["near", "full"]
Head = Literal["auto", "all", "brain"]
INPUT = "Input"


@click.command(cls=GroupedCommand, short_help="Register a moving image to a fixed one, both ways.")
@option(
    "-m",
    "--moving",
    type=FILE,
    required=True,
    multiple=True,
    heading=INPUT,
    help="Moving image, which is warped. Give further channels of it, such as T2 beside T1, by "
    "further -m and -f, in one order; the first pair drives the affine step.",
)
@option(
    "-f",
    "--fixed",
    type=FILE,
    required=True,
    multiple=True,
    heading=INPUT,
    help="Fixed image, the target.",
)
@option(
    "--weight",
    type=click.FloatRange(0),
    multiple=True,
    metavar="W",
    heading=INPUT,
    help="How much a channel pulls, one for each -m.  [default: all the same]",
)
@option(
    "--moving-labels",
    type=FILE,
    heading=INPUT,
    help="Label map of the moving image; hsyn warps it and keeps its ids.",
)
@option(
    "--fixed-mask",
    type=FILE,
    heading=INPUT,
    help="Mask of the fixed image; hsyn ignores voxels where it is 0. For chests, give lung masks "
    "of both images.",
)
@option("--moving-mask", type=FILE, heading=INPUT, help="The same for the moving image.")
@option(
    "--fixed-lesion",
    type=FILE,
    heading=INPUT,
    help="Mask of a lesion in the fixed image that the moving image lacks; nothing in it pulls, "
    "the field passes smoothly, and the report gives its change of volume.",
)
@option("--moving-lesion", type=FILE, heading=INPUT, help="The same for the moving image.")
@option(
    "--initial-transform",
    type=FILE,
    heading=INPUT,
    help="Linear transform to start from, fixed to moving points (.mat, .tfm, .txt, .h5).",
)
@option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    heading=OUTPUT,
    help="Output folder; created if missing.",
)
@option(
    "--ants-prefix",
    metavar="P",
    heading=OUTPUT,
    help="Also write the five files of ANTs, P0GenericAffine.mat etc.",
)
@option(
    "--composite",
    metavar="P",
    heading=OUTPUT,
    help="Also write PComposite.h5 and PInverseComposite.h5, affine and field in one file, as ANTs "
    "and fMRIPrep have them.",
)
@option(
    "--save-midspace",
    is_flag=True,
    heading=OUTPUT,
    help="Also write both half-way fields and images.",
)
@option(
    "--no-html",
    is_flag=True,
    heading=OUTPUT,
    help="Skip report.html, the page with the pictures.",
)
@option(
    "--keep",
    metavar="NAMES",
    heading=OUTPUT,
    help="Write these alone, and the report: warped, inverse_warped, fields, forward_field, "
    "inverse_field, affine, page, labels, midspace.",
)
@option(
    "--field-spacing",
    type=click.FloatRange(0, min_open=True),
    metavar="MM",
    heading=OUTPUT,
    help="Write fields with a vector about every MM; the report says what that costs.",
)
@force_option
@preset_option
@model_option
@transform_option
@similarity_option
@search_option
@option(
    "--rigid",
    is_flag=True,
    heading=METHOD,
    help="Start with a rigid instead of an affine alignment.",
)
@option(
    "--no-affine",
    is_flag=True,
    heading=METHOD,
    help="Skip the alignment: the images are aligned already.",
)
@head_option
@smoothness_option
@option(
    "--max-folding",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    heading=METHOD,
    help="Exit with code 9 if more of either field folds; the files are written anyway.",
)
@option(
    "--on-failure",
    type=click.Choice(["error", "warn"]),
    default="error",
    show_default=True,
    metavar="WHAT",
    heading=METHOD,
    help="If the result cannot be trusted, error exits with code 10, and warn with 0; the files "
    "are written anyway.",
)
@device_option
@threads_option
@seed_option
@option("--quiet", is_flag=True, heading=MACHINE, help="Show no progress bar and no table.")
@option(
    "--json",
    "as_json",
    is_flag=True,
    heading=MACHINE,
    help="Print the report as JSON instead of the table.",
)
def register(
    out: Path, ants_prefix: str | None, composite: str | None, save_midspace: bool, no_html: bool,
    keep: str | None, field_spacing: float | None, force: bool, preset: str, model: str,
    transform: Transform, similarity: str, search: Search, head: Head, rigid: bool, no_affine: bool,
    smoothness: float, max_folding: float | None, on_failure: str, device: str,
    threads: int | None, seed: int, quiet: bool, as_json: bool,
    moving: tuple[Path, ...], fixed: tuple[Path, ...], weight: tuple[float, ...], **inputs: Any,
) -> None:  # fmt: skip
    """Register a moving image to a fixed one, 3-D or 2-D, both ways.

    hsyn writes warped.nii.gz, inverse_warped.nii.gz, forward_field.nii.gz (fixed grid),
    inverse_field.nii.gz (moving grid), affine.mat, report.json and report.html to the output
    folder.

    \b
    Examples:
      hsyn register -m moving.nii.gz -f fixed.nii.gz -o out/
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --moving-labels m_seg.nii.gz
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --ants-prefix out/m_to_f_
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --composite out/a_ --json
      hsyn register -m t2.nii.gz -f t1.nii.gz -o out/ --transform rigid
      hsyn register -m at1.nii -f bt1.nii -m at2.nii -f bt2.nii -o out/
      hsyn register -m exhale.nii.gz -f inhale.nii.gz -o out/ --model lung
    """
    affine = _affine(transform, rigid=rigid, no_affine=no_affine)
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.register_files import Inputs
    from hsyn_cli.results.report import check_folding, check_problems, to_json
    from hsyn_cli.results.run_folder import Wanted, check_keep, words_of

    (first, *others), labels = channels_of(moving, fixed), inputs["moving_labels"] is not None
    weights_of(weight, len(moving))
    wanted = Wanted(
        out, ants_prefix, save_midspace, labels, html=not no_html, channels=len(moving),
        keep=None if keep is None else words_of(keep), field_spacing=field_spacing,
        composite=composite,
    )  # fmt: skip
    check_keep(wanted)
    with progress_bar(quiet) as progress:
        report = api.register_files(
            Inputs(first[0], first[1], others=tuple(others), **inputs), wanted,
            channel_weights=weight or None, preset=preset, model=model,
            device=device, threads=threads, affine=affine, transform=transform,
            similarity=similarity, search=search, head=head, smoothness=smoothness, seed=seed,
            force=force, progress=progress, told=progress.say,
        )  # fmt: skip
    if as_json:
        click.echo(to_json(report), nl=False)
    elif not quiet:
        from rich.console import Console

        from hsyn_cli.results.render import render

        Console().print(render(report, max_folding=max_folding))
    if on_failure == "error":
        hint = "the files were written; look at report.html, or give --on-failure warn"
        check_problems(report.facts.problems, hint)
    hint = "the files were written; see report.json, or try --smoothness 1.5"
    check_folding(report.facts.folded_percent, max_folding, hint)


def _affine(transform: Transform, *, rigid: bool, no_affine: bool) -> Affine:
    """The alignment at the start. Raises UsageError for options that contradict one another."""
    if transform != "deformable" and (no_affine or (rigid and transform != "rigid")):
        which = "--no-affine" if no_affine else "--rigid"
        raise UsageError(f"--transform {transform} and {which} contradict each other", "give one")
    if no_affine and rigid:
        raise UsageError("--no-affine and --rigid contradict each other", "give one of them")
    return "none" if no_affine else "rigid" if rigid else "affine"


COMMAND = register
