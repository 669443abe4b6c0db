"""What a template will cost here: its registrations, forecast before the first of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.forecast import Forecast, forecast
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.config.template import Settings
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.template import passes, rounds, visits
from hsyn_cli.template.subjects import Subject, read, refuse_inside

AT_ONCE = 3  # rounds' worth of fields on the disk: this one's, the last one's, the final ones


def plan_files(given: Sequence[Path], out: Path, settings: Settings, work: Work) -> Forecast:
    """Forecast the template of scans, or of those in a list, see `build.template_files`.

    Every round counts, also those that `tolerance` may spare; the averages do not. What an earlier
    run has done is not left out. Raises UsageError, InputError.
    """
    subjects = read(given)
    refuse_inside(subjects, out)
    return _forecast(list(_jobs(subjects, settings)), out, settings, work)


def plan_longitudinal(table: Path, out: Path, settings: Settings, work: Work) -> Forecast:
    """Forecast the template of a table of visits, see `longitudinal.longitudinal_files`.

    As `plan_files`. A subject's first visit stands for the subject's own template.
    """
    people = visits.read(table)
    refuse_inside([visit for person in people for visit in person.visits], out)
    jobs = list(_jobs([person.visits[0] for person in people], settings))
    for person in people:
        if len(person.visits) > 1:
            jobs += _jobs(person.visits, settings.within, f"{person.id}/")
    return _forecast(jobs, out, settings, work)


def _jobs(scans: Sequence[Subject], settings: Settings, prefix: str = "") -> Iterator[Job]:
    """The registrations of all passes and rounds; the next scan stands for the template."""
    affine: dict[str, Any] = {"transform": settings.frame, "preset": "fast", "keep": ["affine"]}
    stages = [(f"frame-{k + 1}", affine) for k in range(passes.PASSES)]
    for number in range(1, settings.rounds + 1):
        options = {"preset": settings.preset_of(number), "keep": sorted(rounds.KEPT)}
        stages.append((f"round-{number}", options))
    for stage, options in stages:
        for scan, other in zip(scans, [*scans[1:], scans[0]], strict=True):
            beside = tuple(zip(scan.scans[1:], other.scans[1:], strict=False))
            name = f"{prefix}{stage}/{scan.id}"
            inputs = Inputs(scan.scans[0], other.scans[0], others=beside)
            yield Job(name, inputs, f"plan/{name}", {**settings.method, **options, "rounded": True})


def _forecast(jobs: Sequence[Job], out: Path, settings: Settings, work: Work) -> Forecast:
    found = forecast(jobs, out, workers=work.workers, threads=work.threads_each)
    count = settings.rounds + 1 if settings.keep_rounds else min(AT_ONCE, settings.rounds + 1)
    return replace(found, disk_all_mb=found.disk_all_mb * count / settings.rounds)
