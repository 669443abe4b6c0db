"""`hsyn ants apply`: the flags of antsApplyTransforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hsyn_cli.cli.ants import words
from hsyn_cli.cli.options import FILE, MACHINE, OUTPUT, option, warn
from hsyn_cli.errors import UsageError

INPUT, METHOD = "Input", "Method"
SWITCH = click.Choice(["0", "1"])


@click.command(cls=words.AntsCommand, short_help="Take the flags of antsApplyTransforms.")
@option(
    "-d",
    "--dimensionality",
    "dimension",
    type=click.Choice(["2", "3"]),
    heading=INPUT,
    help="Dimension of the transforms.",
)
@option("-i", "--input", "image", type=FILE, heading=INPUT, help="Image to move.")
@option(
    "-e", "--input-image-type", "held", default="0", show_default=True, metavar="TYPE",
    heading=INPUT,
    help="What it holds. 0: scalar; 1: vectors along its axes; 3: time-series; 4: multichannel; 6: "
    "physical-vector.",
)  # fmt: skip
@option(
    "-r",
    "--reference-image",
    "reference",
    type=FILE,
    heading=INPUT,
    help="Image whose grid the output gets.",
)
@option(
    "-t", "--transform", "transforms", multiple=True, metavar="FILE|[FILE,1]", heading=INPUT,
    help="Field or ITK transform; [FILE,1] inverts a linear one. Repeatable; the last one is "
    "nearest to the input image.",
)  # fmt: skip
@option(
    "-o", "--output", "output", required=True, metavar="FILE|[FILE,1]|Linear[FILE]",
    heading=OUTPUT,
    help="Moved image; [FILE,1] or DisplacementField[FILE]: the chain as one field; Linear[FILE]: "
    "as one linear transform, Linear[FILE,1]: its inverse.",
)  # fmt: skip
@option(
    "-u", "--output-data-type", "pixel", type=click.Choice(list(words.TYPES)), metavar="TYPE",
    default="default", show_default=True, heading=OUTPUT,
    help="char, uchar, short, int, float or double. default: float, and for labels the type of the "
    "input.",
)  # fmt: skip
@option(
    "-n", "--interpolation", "interpolation", default="Linear", show_default=True, metavar="NAME",
    heading=METHOD,
    help="Linear, NearestNeighbor, GenericLabel, MultiLabel[SIGMA,ALPHA], "
    "Gaussian[SIGMA,ALPHA], BSpline[1] to BSpline[5], or Cosine-, Welch-, Hamming- or "
    "LanczosWindowedSinc.",
)  # fmt: skip
@option(
    "-f",
    "--default-value",
    "default",
    type=float,
    default=0.0,
    show_default=True,
    metavar="VALUE",
    heading=METHOD,
    help="Value outside the input image.",
)
@option(
    "--float",
    "single",
    type=SWITCH,
    is_flag=False,
    flag_value="1",
    metavar="0|1",
    heading=METHOD,
    help="Taken and of no effect: hsyn maps points in double precision.",
)
@option(
    "-v",
    "--verbose",
    "verbose",
    type=SWITCH,
    is_flag=False,
    flag_value="1",
    default="0",
    metavar="0|1",
    heading=MACHINE,
    help="Tell what is written.",
)
def apply(
    dimension: str | None, image: Path | None, held: str, reference: Path | None,
    transforms: tuple[str, ...], output: str, pixel: str, interpolation: str, default: float,
    single: str | None, verbose: str,
) -> None:  # fmt: skip
    """Move an image as antsApplyTransforms does.

    The flags are the same, so a script needs one word changed. hsyn replaces an output that exists,
    as ANTs does. With -u, hsyn rounds, where ANTs cuts off.

    \b
    Examples:
      hsyn ants apply -d 3 -i m.nii.gz -r f.nii.gz -o moved.nii.gz \\
        -t out_1Warp.nii.gz -t out_0GenericAffine.mat
      hsyn ants apply -d 3 -i seg.nii.gz -r m.nii.gz -n GenericLabel \\
        -t [out_0GenericAffine.mat,1] -t out_1InverseWarp.nii.gz -o seg_m.nii.gz
      hsyn ants apply -d 3 -r f.nii.gz -o [total.nii.gz,1] \\
        -t out_1Warp.nii.gz -t out_0GenericAffine.mat
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar

    wanted, how, holds = words.output(output), words.interpolation(interpolation), words.holds(held)
    if wanted.what == "image" and None in (image, reference):
        name = "-i" if image is None else "-r"
        raise UsageError(f"{name} is missing", f"give {name} IMAGE")
    typed = [text for text in transforms if not words.is_identity(text)]
    common: dict[str, Any] = {
        "reference": reference, "dimension": dimension and int(dimension), "force": True,
    }  # fmt: skip
    settings = api.ApplySettings(
        how.name, default, pixel=words.TYPES[pixel], holds=holds, sigma=how.sigma, alpha=how.alpha,
        reorient=holds in ("vector", "physical"),
    )  # fmt: skip
    with progress_bar(quiet=False) as progress:
        done: Any
        if wanted.what == "image" and image is not None:
            done = api.apply_files(
                [image], (), typed, [wanted.path], settings=settings, progress=progress, **common
            )
        else:
            of_image = image is not None or holds != "scalar" or pixel != "default" or default != 0
            if of_image or interpolation != "Linear":
                click.echo("note: -i, -e, -u, -n and -f say nothing of transforms", err=True)
            done = api.compose_files(
                typed, wanted.path, linear=wanted.what == "linear", inverse=wanted.inverse,
                progress=progress, **common,
            )  # fmt: skip
    if how.note:
        click.echo(f"note: {how.note}", err=True)
    warn((*done.warnings, *(line for one in getattr(done, "moved", ()) for line in one.warnings)))
    if verbose == "1":
        given = [str(image), *typed] if image else typed
        click.echo(f"{' '.join(given)} -> {wanted.path}")
