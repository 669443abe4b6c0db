"""A template from its scans, top to bottom.

read -> shift by the middles -> affine passes -> rounds -> each subject's files -> record ->
page. Each stage goes on from files of the one before, and is left alone where it stands.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.drivers import driving
from hsyn_cli.config.template import Settings
from hsyn_cli.devices import available_cores, use_threads
from hsyn_cli.errors import OutputError
from hsyn_cli.template import finish, page, passes, record, rounds
from hsyn_cli.template.pairs import register, wait
from hsyn_cli.template.run import Run, Tell
from hsyn_cli.template.stages import VISITS, WITHIN, WORK, Stage, forget_pairs, key_of
from hsyn_cli.template.subjects import Subject, read, refuse_inside, twins


@dataclass(frozen=True)
class Template:
    """A finished template: its folder, the content of its template.json, whether it was there."""

    out: Path
    record: Mapping[str, Any]
    before: bool


def template_files(
    given: Sequence[Path],
    out: Path,
    settings: Settings | None = None,
    work: Work | None = None,
    tell: Tell | None = None,
) -> Template:
    """Make a template of scans, or of those in a list, see `subjects.read`; or go on with it.

    Raises all `errors` but FoldingError and FailedError.
    """
    subjects = read(given)
    refuse_inside(subjects, out)
    return build(subjects, out, settings or Settings(), work or Work(), tell or Tell())


def build(
    subjects: Sequence[Subject], out: Path, settings: Settings, work: Work, tell: Tell
) -> Template:
    """Make the template of checked subjects in a folder, or go on with it."""
    check_folder(out)
    use_threads(min(available_cores(), work.workers * work.threads_each))
    run = Run(tuple(subjects), out, settings, work, tell)
    stages = [passes.begin(run)]
    for number in range(1, passes.PASSES + 1):
        stages.append(passes.align(run, stages[-1], number))
        run = _left(run, stages[-1])
    ended = "rounds"
    for number in range(1, settings.rounds + 1):
        stages.append(rounds.advance(run, stages[-1], number))
        run = _left(run, stages[-1])
        if not settings.keep_rounds:
            forget_pairs(stages[-2].folder)
        if number > 1 and stages[-1].entry["change"] < settings.tolerance:
            ended = "tolerance"
            break
    doubts = [line for stage in stages[:-1] for line in stage.doubts]
    return _end(run, stages, ended, [*twins(subjects), *doubts])


def _left(run: Run, stage: Stage) -> Run:
    """The run without the subjects that a stage left out."""
    return run.without([entry["id"] for entry in stage.left_out])


def check_folder(out: Path) -> None:
    """Raise OutputError for a folder with a template that is not hsyn's."""
    names = (record.TEMPLATE, record.MASK, record.RECORD, finish.SUBJECTS, WITHIN, VISITS)
    there = next((out / name for name in names if (out / name).exists()), None)
    begun = any((out / WORK).glob("*/stage.json")) or any((out / WITHIN).glob("*/work"))
    if there is not None and not begun and not record.known(out):
        raise OutputError(f"{there} is not of hsyn template", "give another folder")
    page.check(out)


def _end(run: Run, stages: Sequence[Stage], ended: str, warnings: Sequence[str]) -> Template:
    """Write the files of the subjects and the template, unless they are there."""
    lacking = sorted(str(entry["id"]) for stage in stages for entry in stage.left_out)
    key = key_of({"last": stages[-1].key, "channels": run.channels, "left_out": lacking})
    found = record.find(run, key)
    if found is not None:
        told = record.retell(run, found, ended) if run.leads else found
        if run.leads and (told is not found or not page.stands(run.out, told)):
            _show(run, told)
        return Template(run.out, told, before=True)
    last, before, number = stages[-1], stages[-2], int(stages[-1].entry["round"])
    jobs = rounds.jobs_of_round(run, before, number)
    again = replace(run, tell=run.tell.once_more())
    register(again, last.folder, jobs)  # some may have been removed
    if not run.leads:
        wait(run, last.folder, lambda: record.find(run, key) is not None)
        return Template(run.out, record.find(run, key) or {}, before=False)
    run.tell.stage("each subject's fields")
    start = time.monotonic()
    with driving(last.folder, run.work.shard), run.tell.steps() as step:
        done = finish.finish(run, last, before, key, step)
        written = record.write(run, stages, done, key, ended, warnings, time.monotonic() - start)
    _show(run, written)
    if not run.settings.keep_rounds:
        forget_pairs(last.folder)
    return Template(run.out, written, before=False)


def _show(run: Run, made: Mapping[str, Any]) -> None:
    """Write the page."""
    run.tell.stage("the page")
    with run.tell.steps() as step:
        page.write(run.out, made, step, fresh=True)
