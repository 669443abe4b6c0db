"""The options of the method, for every command that registers."""

from __future__ import annotations

import click

from hsyn_cli import plugins
from hsyn_cli.cli.options import MACHINE, option
from hsyn_cli.config import presets

METHOD = "Method"
ORGANS = [name for name in plugins.names("hsyn_cli.anatomy.organs") if name != "none"]

preset_option = option(
    "--preset",
    type=click.Choice(presets.names()),
    default="default",
    show_default=True,
    metavar="NAME",
    heading=METHOD,
    help="; ".join(f"{name}: {presets.find(name).about}" for name in presets.names()) + ".",
)
model_option = option(
    "--model",
    "--weights",
    "model",
    default="auto",
    show_default=True,
    metavar="NAME|PATH",
    heading=METHOD,
    help="auto: the organ that hsyn recognises; "
    f"{', '.join(ORGANS)}: that organ; none: forces alone, without networks; or a checkpoint: "
    "brain-t1, lung-ct (see `hsyn weights list`) or a path.",
)
transform_option = option(
    "--transform",
    type=click.Choice(["translation", "rigid", "affine", "deformable"]),
    default="deformable",
    show_default=True,
    metavar="KIND",
    heading=METHOD,
    help="Where to stop: translation, rigid or affine for two images of one person, deformable for "
    "all else.",
)
similarity_option = option(
    "--similarity",
    type=click.Choice(["auto", "ncc", "mind"]),
    default="auto",
    show_default=True,
    metavar="NAME",
    heading=METHOD,
    help="ncc: local correlation, for equal contrasts. mind: descriptors of structure, for T1 to "
    "T2, CT to MR and the like. auto: by how the aligned images relate.",
)
search_option = option(
    "--search",
    type=click.Choice(["near", "full"]),
    default="near",
    show_default=True,
    metavar="POSES",
    heading=METHOD,
    help="near: turns of up to about 50 degrees; full: all turns. Left stays left.",
)
head_option = option(
    "--head",
    type=click.Choice(["auto", "all", "brain"]),
    default="auto",
    show_default=True,
    metavar="PART",
    heading=METHOD,
    help="What counts of whole heads. all: all of them; brain: hsyn finds their brains, and "
    "registers these as if skull-stripped; auto: the brains where hsyn is sure of them.",
)
smoothness_option = option(
    "--smoothness",
    type=click.FloatRange(presets.LEAST_SMOOTHNESS, presets.MOST_SMOOTHNESS),
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    heading=METHOD,
    help="Smooth the fields over lengths FACTOR times as long, from "
    f"{presets.LEAST_SMOOTHNESS:g} (rough) to {presets.MOST_SMOOTHNESS:g} (smooth).",
)
seed_option = option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    heading=MACHINE,
    help="Random seed. On a CPU, equal seed and threads give equal files.",
)
