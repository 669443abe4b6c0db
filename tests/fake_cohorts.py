"""Cohorts of tiny files, and workers that register nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.sources.local import LocalWorkers
from hsyn_cli.cohort.status import Status
from hsyn_cli.cohort.supervisor import News, Supervisor, Tally
from hsyn_cli.results.register_files import Inputs

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_worker.py")))


def job(folder: Path, name: str, do: str = "ok", **options: object) -> Job:
    """A pair of two text files; `do`: what its worker does."""
    folder.mkdir(exist_ok=True)
    moving, fixed = folder / f"{name}.nii", folder / "fixed.nii"
    for path in (moving, fixed):
        if not path.exists():
            path.write_text(path.name)
    return Job(name, Inputs(moving, fixed), f"pairs/{name}", {"model": "none", "do": do, **options})


def supervise(
    study: Path,
    jobs: Sequence[Job],
    *,
    workers: int = 2,
    limits: Limits | None = None,
    threads: int = 1,
    again: bool = False,
    news: list[News] | None = None,
) -> Tally:
    """Run a cohort with fake workers."""
    study.mkdir(exist_ok=True)
    supervisor = Supervisor(
        study,
        jobs,
        LocalWorkers(workers, limits or Limits(), FAKE),
        threads=threads,
        again=again,
    )
    if news is not None:
        supervisor.tell = news.append
    return supervisor.run()


def ran(study: Path) -> list[str]:
    """Each attempt so far, as "id search"."""
    path = study / "ran.txt"
    return path.read_text().splitlines() if path.exists() else []


def status(study: Path, name: str) -> Status:
    found = statuses.read(study / "status" / f"{name}.json")
    assert found is not None
    return found
