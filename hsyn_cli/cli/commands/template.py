"""`hsyn template`: the mean image of a group in its mean shape, and each scan's fields to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsyn_cli.cli.cohort_options import cohort_options, show_forecast, work_of
from hsyn_cli.cli.method_options import (
    METHOD,
    model_option,
    preset_option,
    search_option,
    seed_option,
    similarity_option,
    smoothness_option,
)
from hsyn_cli.cli.options import (
    FILE,
    OUTPUT,
    GroupedCommand,
    device_option,
    json_option,
    option,
    quiet_option,
    warn,
)
from hsyn_cli.config import presets
from hsyn_cli.config.template import Settings
from hsyn_cli.errors import BatchError, FailedError, Interrupted, UsageError

if TYPE_CHECKING:
    from hsyn_cli.template.build import Template
    from hsyn_cli.template.run import Tell

USUAL = Settings()
TEMPLATE = "Template"


@click.command(cls=GroupedCommand, short_help="Make a template of a group of scans.")
@click.argument("files", type=FILE, nargs=-1)
@option(
    "-o", "--out", type=FILE, required=True, heading=OUTPUT,
    help="Folder of the template; created if missing. A second run goes on where the first ended.",
)  # fmt: skip
@option(
    "--keep-rounds", is_flag=True, heading=OUTPUT,
    help="Keep the fields of all rounds. They are removed otherwise when the next round stands.",
)  # fmt: skip
@option(
    "--longitudinal", type=FILE, metavar="TABLE", heading=TEMPLATE,
    help="In place of FILES: a table with the columns subject and scan, and as needed visit, mask, "
    "scan_2 and so on. Each subject's visits get a template of their own, and the group's is made "
    "of those.",
)  # fmt: skip
@option(
    "--rounds", type=click.IntRange(min=1), default=USUAL.rounds, show_default=True, metavar="N",
    heading=TEMPLATE, help="Most rounds of registrations to the template so far.",
)  # fmt: skip
@option(
    "--tolerance", type=click.FloatRange(min=0), default=USUAL.tolerance, show_default=True,
    metavar="SHARE", heading=TEMPLATE,
    help="End after a round that changes the template by less (relative L2 norm in its mask).",
)  # fmt: skip
@option(
    "--frame", type=click.Choice(["affine", "rigid"]), default=USUAL.frame, show_default=True,
    metavar="KIND", heading=TEMPLATE,
    help="affine or rigid: what aligns the scans before the first round.",
)  # fmt: skip
@option(
    "--spacing", type=click.FloatRange(min=0, min_open=True), metavar="MM", heading=TEMPLATE,
    help="Voxel size of the template.  [default: the median of the scans]",
)  # fmt: skip
@option(
    "--sharpen", type=click.FloatRange(0, 2), default=USUAL.sharpen, show_default=True,
    metavar="AMOUNT", heading=TEMPLATE,
    help="How much fine detail is added to each mean; 0 leaves the mean as it is.",
)  # fmt: skip
@option(
    "--leave-out", is_flag=True, heading=TEMPLATE,
    help="Go on without scans whose registration fails; the exit code is then 11. What cannot be "
    "read is not left out: it ends the run with 3.",
)  # fmt: skip
@preset_option
@option(
    "--first-preset", type=click.Choice(presets.names()), default=USUAL.first_preset,
    show_default=True, metavar="NAME", heading=METHOD,
    help="Preset of the first of several rounds, whose template is still blurred.",
)  # fmt: skip
@model_option
@similarity_option
@search_option
@smoothness_option
@cohort_options
@device_option
@seed_option
@quiet_option
@json_option
def template(
    files: tuple[Path, ...], longitudinal: Path | None, out: Path, jobs: int,
    threads: int | None, timeout: float | None, memory: float | None, shard: str | None,
    scheduler: str | None, retry_failed: bool, dry_run: bool, quiet: bool, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Make a template of a group of scans.

    FILES are the scans, or one list of them: a table with the columns scan, and as needed id, mask,
    scan_2 and so on, or a text file with a path on each line. The template is the mean of all scans
    in their mean shape. Each scan gets its fields to and from it. The order of the scans, their
    poses and their brightness do not matter. Run the same command again to go on after a stop.

    \b
    Examples:
      hsyn template scans/*.nii.gz -o tpl/
      hsyn template scans.csv -o tpl/ --jobs 4 --threads 1
      hsyn template scans/*.nii.gz -o tpl/ --rounds 6 --sharpen 0
      hsyn template --longitudinal subjects.csv -o tpl/
      hsyn template scans.csv -o tpl/ --dry-run
    """
    from hsyn_cli import api
    from hsyn_cli.results.record import record
    from hsyn_cli.results.register_files import check_model

    work = work_of(jobs, threads, timeout, memory, shard, scheduler, retry_failed)
    check_model(settings["model"])
    _check_given(files, longitudinal)
    rest = (out, Settings(**settings), work)
    if dry_run:
        planned = (
            api.plan_template(files, *rest)
            if longitudinal is None
            else (api.plan_longitudinal(longitudinal, *rest))
        )
        show_forecast(planned, as_json)
        return
    try:
        if longitudinal is None:
            made = api.template_files(files, *rest, _tell(quiet))
        else:
            made = api.longitudinal_files(longitudinal, *rest, _tell(quiet))
    except Interrupted as error:
        raise type(error)(error.message, "the same command goes on from there") from None
    if as_json:
        told = {k: v for k, v in made.record.items() if k not in ("schema_version", "versions")}
        warnings = told.pop("warnings")
        click.echo(record(told, warnings), nl=False)
    elif not quiet:
        warn(made.record["warnings"])
        click.echo(_summary(made))
    _judge(made)


def _check_given(files: tuple[Path, ...], longitudinal: Path | None) -> None:
    """Raise UsageError unless either files or a table of visits are given."""
    if not files and longitudinal is None:
        raise UsageError("no scan is given", "name the scans, a list, or --longitudinal TABLE")
    if files and longitudinal is not None:
        text = f"{files[0]} is given beside --longitudinal {longitudinal}"
        raise UsageError(text, "name all scans in the table, or leave --longitudinal out")


def _tell(quiet: bool) -> Tell:
    """Lines about the stages, and the progress of their pairs and averages, on stderr."""
    from hsyn_cli.cli.cohort_progress import cohort_progress
    from hsyn_cli.cli.progress import progress_bar
    from hsyn_cli.template.run import Tell

    def stage(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    return Tell(stage, lambda: cohort_progress(quiet), lambda: progress_bar(quiet))


def _summary(made: Template) -> str:
    """What was made, in three lines."""
    found = made.record
    count, last = len(found["rounds"]), found["rounds"][-1]
    of = f"{len(found['subjects'])} scans"
    if "longitudinal" in found:
        people = found["longitudinal"]["subjects"]
        of = f"{sum(len(one['visits']) for one in people)} visits of {len(people)} subjects"
    rounds = f"{count} round{'s' if count > 1 else ''}"
    before = " (it stood already)" if made.before else ""
    change = f"the last one changed it by {100 * last['change']:.2g} %"
    if found["ended"] == "rounds" and (least := found["settings"]["tolerance"]):
        change += f", not less than {100 * least:.2g} %: more --rounds may sharpen it"
    return (
        f"template of {of} after {rounds}, {change}{before}\n"
        f"{made.out / found['outputs']['template']}\n"
        f"look at it: {made.out / 'index.html'}"
    )


def _judge(made: Template) -> None:
    """Raise BatchError if subjects were left out, FailedError if some are not to be trusted."""
    visits = made.record.get("longitudinal", {"left_out": [], "subjects": []})
    out = [entry["id"] for entry in made.record["left_out"]]
    out += [" ".join(filter(None, (entry["id"], entry["visit"]))) for entry in visits["left_out"]]
    if out:
        text = f"the template lacks {len(out)} scan{'s' if len(out) > 1 else ''}: {', '.join(out)}"
        raise BatchError(text, f"see {made.out / 'template.json'}; --retry-failed tries them again")
    doubtful = {entry["id"]: entry["problems"] for entry in made.record["subjects"]}
    for subject in visits["subjects"]:
        for visit in subject["visits"]:
            doubtful[f"{subject['id']} {visit['id']}"] = visit["problems"]
    doubtful = {name: problems for name, problems in doubtful.items() if problems}
    if doubtful:
        name, problems = next(iter(doubtful.items()))
        more = f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""
        text = f"the result of {name}{more} is not to be trusted: {problems[0]}"
        raise FailedError(text, "look at its warped.nii.gz; take it off the list if it is wrong")


COMMAND = template
