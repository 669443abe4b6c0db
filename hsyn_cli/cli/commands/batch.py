"""`hsyn batch`: register the pairs of a cohort, on this computer or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsyn_cli.cli.cohort_options import cohort_options, show_forecast, work_of
from hsyn_cli.cli.method_options import (
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
    OUTPUT,
    GroupedCommand,
    device_option,
    json_option,
    option,
    quiet_option,
    warn,
)
from hsyn_cli.errors import Interrupted, UsageError
from hsyn_cli.results import run_folder

if TYPE_CHECKING:
    from hsyn_cli.cohort.batch import Work
    from hsyn_cli.cohort.jobs import Job
    from hsyn_cli.cohort.supervisor import Tally

INPUT = "Input"
SUFFIX = "T1w"


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else sorted(run_folder.words_of(value))


@click.command(cls=GroupedCommand, short_help="Register the pairs of a cohort.")
@click.argument("files", type=FILE, nargs=-1)
@option(
    "-f", "--fixed", type=FILE, heading=INPUT,
    help="Fixed image of all SCANS, or of all scans of --bids.",
)  # fmt: skip
@option(
    "--bids", type=FILE, metavar="DIR", heading=INPUT,
    help="Take the scans of a BIDS dataset, and name the outputs as BIDS derivatives.",
)  # fmt: skip
@option(
    "--space", metavar="NAME", heading=INPUT,
    help="What BIDS calls the fixed image, e.g. MNI152NLin2009cAsym.",
)  # fmt: skip
@option(
    "--participant-label", "participants", multiple=True, metavar="LABEL", heading=INPUT,
    help="Take this participant of --bids alone; may be given again.  [default: all]",
)  # fmt: skip
@option(
    "--suffix", metavar="NAME", heading=INPUT,
    help=f"The kind of scans to take from --bids.  [default: {SUFFIX}]",
)  # fmt: skip
@option(
    "-o", "--out", type=FILE, required=True, heading=OUTPUT,
    help="Study folder; created if missing. A second run goes on where the first one ended.",
)  # fmt: skip
@option(
    "--keep", callback=_words, metavar="NAMES", heading=OUTPUT,
    help="Keep these outputs alone, parted by commas: "
    f"{', '.join(run_folder.KEEP)}. report.json always stays.  [default: all]",
)  # fmt: skip
@option(
    "--field-spacing", type=click.FloatRange(min=0, min_open=True), metavar="MM", heading=OUTPUT,
    help="Write the fields with a vector every MM, to save disk.  [default: every voxel]",
)  # fmt: skip
@preset_option
@model_option
@transform_option
@similarity_option
@search_option
@head_option
@smoothness_option
@cohort_options
@device_option
@seed_option
@quiet_option
@json_option
def batch(
    files: tuple[Path, ...], fixed: Path | None, bids: Path | None, space: str | None,
    participants: tuple[str, ...], suffix: str | None, out: Path, jobs: int, threads: int | None,
    timeout: float | None, memory: float | None, shard: str | None, scheduler: str | None,
    retry_failed: bool, dry_run: bool, quiet: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Register the pairs of a cohort.

    FILES are one table with the columns moving and fixed, or many scans for --fixed.
    Each pair gets a folder with the files of `hsyn register`, in the study folder. index.html and
    cohort.csv there compare all pairs. Run the same command again to go on after a stop: hsyn
    leaves what is done, and runs what is missing or changed. One bad pair never stops the rest.

    \b
    Examples:
      hsyn batch pairs.csv -o study/
      hsyn batch scans/*.nii.gz --fixed template.nii.gz -o study/ --jobs 4
      hsyn batch --bids data/ -f mni.nii.gz --space MNI152NLin2009cAsym -o data/derivatives/hsyn
      hsyn batch pairs.csv -o study/ --dry-run
      hsyn batch pairs.csv -o study/ --timeout 1800 --memory 8000
      hsyn batch pairs.csv -o study/ --shard slurm/10
    """
    from hsyn_cli.cli.cohort_result import tell
    from hsyn_cli.cohort import page
    from hsyn_cli.results.register_files import check_model

    work = work_of(jobs, threads, timeout, memory, shard, scheduler, retry_failed)
    options = {name: value for name, value in options.items() if value is not None}
    options["rounded"] = True
    check_model(options["model"])
    if bids is not None:
        suffix = SUFFIX if suffix is None else suffix
        pairs = _of_bids(files, bids, fixed, space, participants, suffix, options)
    else:
        _refuse({"--space": space, "--participant-label": participants, "--suffix": suffix})
        pairs = _of_files(files, fixed, options)
    _check_keep(pairs, out)
    if dry_run:
        from hsyn_cli.cohort.forecast import forecast

        pairs = work.shard.of(pairs)
        found = forecast(pairs, out, workers=work.workers, threads=work.threads_each)
        show_forecast(found, as_json)
        return
    if bids is not None:
        page.check(out)
        _describe(out, bids, pairs, str(space), str(suffix))
    tell(_run(out, pairs, work, quiet), out, quiet=quiet, as_json=as_json)


def _refuse(given: Mapping[str, object]) -> None:
    """Raise UsageError for options of --bids without it; those not given are None or empty."""
    for name, value in given.items():
        if value not in (None, ()):
            raise UsageError(f"{name} is for --bids, which is not given", "give both, or neither")


def _check_keep(jobs: Sequence[Job], study: Path) -> None:
    """Raise UsageError if a word of --keep stands for no file of any pair."""
    keep = jobs[0].options.get("keep")
    labels = any(job.inputs.moving_labels is not None for job in jobs)
    kept = None if keep is None else frozenset(keep)
    run_folder.check_keep(run_folder.Wanted(study, labels=labels, keep=kept))


def _run(study: Path, pairs: Sequence[Job], work: Work, quiet: bool) -> Tally:
    """Run the pairs under a line of progress. Raises Interrupted that tells how many are done."""
    from hsyn_cli.cli.cohort_progress import cohort_progress
    from hsyn_cli.cohort import batch as cohort

    tallies: list[Tally] = []
    with cohort_progress(quiet) as start:

        def begin(tally: Tally) -> Any:
            tallies.append(tally)
            return start(tally)

        try:
            return cohort.run(study, pairs, work, begin)
        except Interrupted as error:
            done = sum(tally.done + tally.before for tally in tallies)
            text = f"{error.message}; {done} of {len(pairs)} pairs are done"
            raise type(error)(text, "the same command goes on from there") from None


def _of_files(files: Sequence[Path], fixed: Path | None, options: dict[str, Any]) -> Sequence[Job]:
    """The pairs of a table, or of scans. Raises UsageError, InputError."""
    from hsyn_cli.cohort import lists

    if fixed is not None:
        return lists.from_scans(fixed, files, options)
    if len(files) != 1:
        hint = "give a table of pairs, or scans and --fixed"
        raise UsageError(f"{len(files) or 'no'} files are given, and no fixed image", hint)
    return lists.from_table(files[0], options)


def _of_bids(
    files: Sequence[Path], root: Path, fixed: Path | None, space: str | None,
    participants: Sequence[str], suffix: str, options: dict[str, Any],
) -> Sequence[Job]:  # fmt: skip
    """The pairs of a BIDS dataset. Raises UsageError, InputError."""
    from hsyn_cli.cohort import bids

    if files:
        raise UsageError("--bids and files are given", "give either")
    if fixed is None or space is None:
        missing = "--fixed" if fixed is None else "--space"
        raise UsageError(f"--bids needs {missing}", "give the template and its name in BIDS")
    wanted = list(participants) or None
    return bids.from_bids(root, fixed, space, options, wanted, suffix, lambda line: warn([line]))


def _describe(study: Path, root: Path, jobs: Sequence[Job], space: str, suffix: str) -> None:
    """Make the study folder a dataset of BIDS derivatives. Raises UsageError, OutputError."""
    from hsyn_cli.cohort import bids_study
    from hsyn_cli.cohort.tasks import wanted_of

    wanted, _ = wanted_of(study, jobs[0].inputs, jobs[0].options, {})
    bids_study.describe(study, root, jobs, run_folder.targets(wanted), space, suffix)


COMMAND = batch
