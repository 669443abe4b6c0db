"""`hsyn ants register`: the flags of antsRegistrationSyN.sh and antsRegistrationSyNQuick.sh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsyn_cli.cli.ants import words
from hsyn_cli.cli.method_options import METHOD, model_option, preset_option
from hsyn_cli.cli.options import FILE, MACHINE, OUTPUT, F, device_option, option
from hsyn_cli.config.channels import channels_of
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.results.register_files import Inputs
    from hsyn_cli.results.run_folder import Wanted
    from hsyn_cli.results.starts import Starts

INPUT, TUNING = "Input", "Accepted with a note, for they tune the engine of ANTs"
TUNED = {
    "r": "radius of its correlation, or bins",
    "s": "distance of its splines",
    "g": "step of its gradient",
    "j": "histogram matching",
    "p": "precision",
    "y": "its mode of equal results; hsyn's are equal anyway",
}


def tuning(command: F) -> F:
    """The options that hsyn takes and has no use for."""
    for flag, about in reversed(TUNED.items()):
        command = option(f"-{flag}", f"tuned_{flag}", heading=TUNING, metavar="V", help=about)(
            command
        )
    return command


class RegisterCommand(words.AntsCommand):
    """The command; it tells flags of antsRegistration from those of its scripts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words.check_staged(args)
        return super().parse_args(ctx, args)


@click.command(cls=RegisterCommand, short_help="Take the flags of antsRegistrationSyN.sh.")
@option("-d", "dimension", type=click.Choice(["2", "3"]), heading=INPUT, help="Dimension.")
@option(
    "-f", "fixed", type=FILE, multiple=True, required=True, heading=INPUT,
    help="Fixed image; further channels by further -f and -m.",
)  # fmt: skip
@option(
    "-m", "moving", type=FILE, multiple=True, required=True, heading=INPUT,
    help="Moving image, which is warped.",
)  # fmt: skip
@option(
    "-x", "masks", multiple=True, metavar="FIXED[,MOVING]", heading=INPUT,
    help="Masks; NULL: none. Given for each stage, the last -x counts in all.",
)  # fmt: skip
@option(
    "-i", "starts", multiple=True, metavar="FILE|[FILE,1]", heading=INPUT,
    help="Linear transform to start from; repeatable, in the order of antsRegistration.",
)  # fmt: skip
@option("-o", "prefix", default="output", show_default=True, heading=OUTPUT, help="Output prefix.")
@option(
    "--report", type=FILE, metavar="FOLDER", heading=OUTPUT,
    help="Also write report.html, to look at, and report.json there.",
)  # fmt: skip
@option(
    "-z", "collapse", default="1", show_default=True, metavar="1", heading=OUTPUT,
    help="Collapse the linear transforms into one; hsyn does no other.",
)  # fmt: skip
@option(
    "-t", "kind", default="s", show_default=True, metavar="KIND", heading=METHOD,
    help="t: translation; r: rigid; a: affine; s: affine and deformation; sr: rigid and "
    "deformation; so: deformation alone.",
)  # fmt: skip
@preset_option
@model_option
@option(
    "--on-failure", type=click.Choice(["error", "warn"]), default="error", show_default=True,
    metavar="WHAT", heading=METHOD,
    help="If the result cannot be trusted, error exits with code 10, and warn with 0; the files "
    "are written anyway.",
)  # fmt: skip
@option(
    "-n", "threads", type=click.IntRange(min=0), metavar="N", heading=MACHINE,
    envvar="ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", show_envvar=True,
    help="Number of CPU threads; 0: all cores.  [default: all cores]",
)  # fmt: skip
@option(
    "-e", "seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
    heading=MACHINE, envvar="ANTS_RANDOM_SEED", show_envvar=True, help="Random seed.",
)  # fmt: skip
@device_option
@option("--quiet", is_flag=True, heading=MACHINE, help="Show no progress bar, note or table.")
@tuning
def register(
    dimension: str | None, fixed: tuple[Path, ...], moving: tuple[Path, ...],
    masks: tuple[str, ...], starts: tuple[str, ...], prefix: str, report: Path | None,
    collapse: str, kind: str, on_failure: str, threads: int | None, quiet: bool, **more: Any,
) -> None:  # fmt: skip
    """Register as antsRegistrationSyN.sh and antsRegistrationSyNQuick.sh do.

    The flags and the files are theirs, so a script needs one word changed. hsyn's own method does
    the work. It replaces files that exist, as ANTs does. -t t, r and a write no warps.

    \b
      P0GenericAffine.mat            the affine
      P1Warp.nii.gz                  the deformation, on the fixed grid
      P1InverseWarp.nii.gz           its inverse, on the fixed grid
      PWarped.nii.gz                 the moving image on the fixed grid
      PInverseWarped.nii.gz          the fixed image on the moving grid

    \b
    Examples:
      hsyn ants register -d 3 -f fixed.nii.gz -m moving.nii.gz -o out_
      hsyn ants register -d 3 -f t1.nii.gz -m t2.nii.gz -t r -n 4 -o out_
      hsyn ants register -d 3 -f f.nii.gz -m m.nii.gz -x f_mask.nii.gz -o out_
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.results.render import render
    from hsyn_cli.results.report import check_problems

    _check(prefix, collapse, report)
    asked = words.kind(kind)
    inputs, begun, notes = _inputs(asked, fixed, moving, masks, starts)
    tuned = [f"-{flag}" for flag in TUNED if more.pop(f"tuned_{flag}") is not None]
    if tuned:
        notes.append(f"left alone, as settings of the engine of ANTs: {', '.join(tuned)}")
    for note in notes if not quiet else ():
        click.echo(f"note: {note}", err=True)
    with progress_bar(quiet) as progress:
        done = api.register_files(
            inputs, _wanted(prefix, report, asked, len(fixed)), threads=threads or None,
            affine=asked.affine, transform=asked.transform, starts=begun,
            dimension=None if dimension is None else int(dimension), force=True, head="all",
            progress=progress, told=progress.say, **more,
        )  # fmt: skip
    if not quiet:
        from rich.console import Console

        Console().print(render(done))
    if on_failure == "error":
        look = f"look at {report / 'report.html'}" if report else "look at them, or at --report DIR"
        hint = f"the files were written; {look}, or give --on-failure warn"
        check_problems(done.facts.problems, hint)


def _check(prefix: str, collapse: str, report: Path | None) -> None:
    from hsyn_cli.results.register_files import check_prefix, names_file

    if prefix.startswith("["):
        raise UsageError(f"-o {prefix} is a form of antsRegistration", "give the prefix alone")
    if collapse != "1":
        raise UsageError(
            f"-z {collapse}: hsyn always writes one affine for all linear transforms",
            "leave -z out",
        )
    check_prefix("-o", prefix)
    for flag, typed, folder, example in (
        ("--report", report, report, "seen"),
        ("-o", prefix, Path(f"{prefix}x").parent, "out/sub1_"),
    ):
        if folder is not None and names_file(folder) and not folder.is_dir():
            text = f"{flag} {typed}: {folder} is the name of a file, not of a folder"
            raise UsageError(text, f"give a folder, e.g. {flag} {example}")


def _inputs(
    asked: words.Kind,
    fixed: tuple[Path, ...],
    moving: tuple[Path, ...],
    masks: tuple[str, ...],
    starts: tuple[str, ...],
) -> tuple[Inputs, Starts | None, list[str]]:
    """The files to register, and what to tell about them. Raises UsageError."""
    from hsyn_cli.results.register_files import Inputs
    from hsyn_cli.results.starts import Starts

    first, *others = channels_of(moving, fixed)
    fixed_mask, moving_mask, note = words.masks(masks, asked.stages)
    typed, other_note = words.starts(starts, asked)
    inputs = Inputs(
        first[0], first[1], fixed_mask=fixed_mask, moving_mask=moving_mask, others=tuple(others),
    )  # fmt: skip
    begun = None if typed is None else Starts(typed, asked.start)
    return inputs, begun, [text for text in (note, other_note) if text]


def _wanted(prefix: str, report: Path | None, asked: words.Kind, channels: int) -> Wanted:
    """The files of ANTs, and the report if there is a folder for it."""
    from hsyn_cli.results.run_folder import Wanted

    return Wanted(
        report or Path(f"{prefix}x").parent, prefix, channels=channels,
        keep=frozenset(["page"]), bare=report is None, clears=False,
        ants=words.FILES if asked.transform == "deformable" else words.LINEAR_FILES,
    )  # fmt: skip
