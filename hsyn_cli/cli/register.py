"""`hsyn register`: read, check, register, write, tell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

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
from hsyn_cli.errors import UsageError

if TYPE_CHECKING:
    from hsyn_cli.files import Staging
    from hsyn_cli.images import Scan
    from hsyn_cli.outputs import Wanted
    from hsyn_cli.transforms import Transform

BEFORE_WRITING = 0.9  # of the progress bar
INPUT, METHOD = "Input", "Method"


@dataclass(frozen=True)
class Options:
    """The command line of `hsyn register`, as typed."""

    moving: Path
    fixed: Path
    moving_labels: Path | None
    fixed_mask: Path | None
    moving_mask: Path | None
    initial_transform: Path | None
    out: Path
    ants_prefix: str | None
    save_midspace: bool
    no_html: bool
    force: bool
    preset: str
    model: str
    no_affine: bool
    rigid: bool
    max_folding: float | None
    device: str
    threads: int | None
    seed: int
    quiet: bool
    as_json: bool

    @property
    def affine(self) -> Literal["affine", "rigid", "none"]:
        return "none" if self.no_affine else "rigid" if self.rigid else "affine"

    @property
    def inputs(self) -> dict[str, Path]:
        names = ("moving", "fixed", "moving_labels", "fixed_mask", "moving_mask", "initial_transform")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Inputs:
    """The files of a command line, read and checked one by one."""

    moving: Scan
    fixed: Scan
    moving_labels: Scan | None
    fixed_mask: Scan | None
    moving_mask: Scan | None
    initial_transform: Transform | None

    @property
    def warnings(self) -> tuple[str, ...]:
        scans = (self.moving, self.fixed, self.moving_labels, self.fixed_mask, self.moving_mask)
        return tuple(line for scan in scans if scan is not None for line in scan.warnings)


@click.command(cls=GroupedCommand)
@option("-m", "--moving", type=FILE, required=True, heading=INPUT, help="Image that is warped.")
@option("-f", "--fixed", type=FILE, required=True, heading=INPUT, help="Image it is warped to.")
@option(
    "--moving-labels",
    type=FILE,
    heading=INPUT,
    help="Label map of the moving image, warped with its ids kept.",
)
@option(
    "--fixed-mask",
    type=FILE,
    heading=INPUT,
    help="Only where it is not 0 does the fixed image count. Of chests: masks of the lungs, of both images.",
)
@option("--moving-mask", type=FILE, heading=INPUT, help="The same for the moving image.")
@option(
    "--initial-transform",
    type=FILE,
    heading=INPUT,
    help="Linear transform, fixed point to moving point, to start from (.mat, .tfm, .txt, .h5).",
)
@option("-o", "--out", type=FILE, required=True, heading=OUTPUT, help="Folder to write to; made if need be.")
@option(
    "--ants-prefix", metavar="P", heading=OUTPUT, help="Also write ANTs' five files, P0GenericAffine.mat etc."
)
@option("--save-midspace", is_flag=True, heading=OUTPUT, help="Also write both half-way fields and images.")
@option("--no-html", is_flag=True, heading=OUTPUT, help="Leave report.html out, the page with the pictures.")
@force_option
@option(
    "--preset",
    type=click.Choice(["fast", "default", "accurate"]),
    default="default",
    show_default=True,
    metavar="NAME",
    heading=METHOD,
    help="fast: networks and exact inverse only; default: also refines the pair's own fields; "
    "accurate: refines longer.",
)
@option(
    "--model",
    "--weights",
    "model",
    default="auto",
    show_default=True,
    metavar="NAME|PATH",
    heading=METHOD,
    help="auto: as the images look; brain, lung; or a checkpoint: brain-t1, lung-ct (`hsyn weights list`), a path.",
)
@option("--rigid", is_flag=True, heading=METHOD, help="Rigid instead of affine alignment first.")
@option(
    "--no-affine",
    is_flag=True,
    heading=METHOD,
    help="No alignment first: the images lie on each other already.",
)
@option(
    "--max-folding",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    heading=METHOD,
    help="Exit with code 9 if more of either field folds; the files are written all the same.",
)
@device_option
@threads_option
@option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    heading=MACHINE,
    help="On a CPU, equal seed and threads give equal files.",
)
@option("--quiet", is_flag=True, heading=MACHINE, help="No progress bar and no table.")
@option(
    "--json", "as_json", is_flag=True, heading=MACHINE, help="Print the report as JSON instead of the table."
)
def register(**values: Any) -> None:
    """Register a moving to a fixed 3-D image, both ways.

    Writes warped.nii.gz, inverse_warped.nii.gz, forward_field.nii.gz (fixed grid), inverse_field.nii.gz
    (moving grid), affine.mat, report.json and report.html into the output folder.

    \b
    Examples:
      hsyn register -m moving.nii.gz -f fixed.nii.gz -o out/
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --moving-labels m_seg.nii.gz
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --ants-prefix out/m_to_f_
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ --preset fast --json
      hsyn register -m exhale.nii.gz -f inhale.nii.gz -o out/ --model lung
    """
    start = time.monotonic()
    options = Options(**values)
    if options.no_affine and options.rigid:
        raise UsageError("--no-affine and --rigid contradict each other", "give one of them")
    from hsyn_cli import config, files, outputs, report, weights

    if options.model != "auto":
        weights.find(config.CHECKPOINTS.get(options.model, options.model))
    wanted = outputs.Wanted(
        options.out,
        options.ants_prefix,
        options.save_midspace,
        labels=options.moving_labels is not None,
        html=not options.no_html,
    )
    claimed = outputs.targets(wanted).values()
    with files.claim(claimed, force=options.force, inputs=options.inputs.values()) as staging:
        percent = _run(options, wanted, staging, start)
    report.check_folding(
        percent, options.max_folding, "the files were written; look at report.json, or try --preset fast, whose fields are smoother"
    )


def _run(options: Options, wanted: Wanted, staging: Staging, start: float) -> float:
    """Everything between claiming the outputs and the exit code. Returns the percentage of folded voxels."""
    from hsyn_cli import files, outputs
    from hsyn_cli import report as reports
    from hsyn_cli.cli.progress import progress_bar

    with progress_bar(options.quiet) as progress:
        progress("reading", 0.0)
        inputs = _read(options)
        voxels = (inputs.moving.image.GetNumberOfPixels(), inputs.fixed.image.GetNumberOfPixels())
        files.check_space(options.out, outputs.needed_bytes(wanted, *voxels))
        from hsyn_cli import pipeline

        result = pipeline.register(
            inputs.moving.image,
            inputs.fixed.image,
            preset=options.preset,
            weights=options.model,
            device=options.device,
            threads=options.threads,
            seed=options.seed,
            fixed_mask=inputs.fixed_mask and inputs.fixed_mask.image,
            moving_mask=inputs.moving_mask and inputs.moving_mask.image,
            initial_transform=inputs.initial_transform and inputs.initial_transform.transform,
            affine=options.affine,
            progress=lambda step, fraction: progress(step, BEFORE_WRITING * fraction),
        )
        progress("writing", BEFORE_WRITING)

        def make_report() -> reports.Report:
            return reports.assemble(
                result.facts,
                inputs={
                    name: reports.Source(str(path.absolute()), getattr(inputs, name).sha256)
                    for name, path in options.inputs.items()
                },
                outputs=outputs.targets(wanted),
                warnings=inputs.warnings,
                seconds_total=time.monotonic() - start,
                peak_memory_mb=reports.peak_memory_mb(),
            )

        labels = inputs.moving_labels and inputs.moving_labels.image
        report = outputs.write(result, wanted, staging, make_report, moving_labels=labels)
    if options.as_json:
        click.echo(reports.to_json(report), nl=False)
    elif not options.quiet:
        from rich.console import Console

        Console().print(reports.render(report, max_folding=options.max_folding))
    return report.facts.folded_percent


def _read(options: Options) -> Inputs:
    from hsyn_cli import images
    from hsyn_cli.transforms import read_transform

    o = options
    moving = images.read_image(o.moving, "moving image")
    fixed = images.read_image(o.fixed, "fixed image")
    return Inputs(
        moving,
        fixed,
        images.read_labels(o.moving_labels, moving.image, "moving labels") if o.moving_labels else None,
        images.read_mask(o.fixed_mask, fixed.image, "fixed mask") if o.fixed_mask else None,
        images.read_mask(o.moving_mask, moving.image, "moving mask") if o.moving_mask else None,
        read_transform(o.initial_transform) if o.initial_transform else None,
    )
