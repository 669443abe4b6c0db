"""What a run does to the page and the table of its study folder."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_cohorts import FAKE, job, ran

from hsyn_cli.cohort import batch
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources import local
from hsyn_cli.cohort.supervisor import News
from hsyn_cli.errors import Interrupted, OutputError


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "COMMAND", FAKE)


def run(study: Path, jobs: Sequence[Job], stop_at: str = "") -> None:
    """Run; `stop_at`: an interruption comes when this pair begins."""

    def take(news: News) -> None:
        if news.kind == "began" and news.status.id == stop_at:
            raise Interrupted("interrupted")

    batch.run(study, jobs, batch.Work(threads=1), lambda tally: take)


def table(study: Path) -> dict[str, dict[str, str]]:
    with (study / "cohort.csv").open(newline="", encoding="utf-8") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("name", ["index.html", "cohort.csv"])
def test_files_of_others_are_never_replaced(tmp_path: Path, name: str) -> None:
    study = tmp_path / "data"
    study.mkdir()
    (study / name).write_text("id,age\n1,40\n")
    with pytest.raises(OutputError, match=f"{name} is not of hsyn batch"):
        run(study, [job(tmp_path / "in", "a")])
    assert {path.name for path in study.iterdir()} == {name}
    assert (study / name).read_text() == "id,age\n1,40\n"


def test_a_study_without_its_status_files_goes_on(tmp_path: Path) -> None:
    study, jobs = tmp_path / "study", [job(tmp_path / "in", "a")]
    run(study, jobs)
    shutil.rmtree(study / "status")
    run(study, jobs)
    assert ran(study) == ["a near"] * 2


def test_an_interruption_leaves_a_page(tmp_path: Path) -> None:
    study, jobs = tmp_path / "study", [job(tmp_path / "in", name) for name in "abc"]
    with pytest.raises(Interrupted):
        run(study, jobs, stop_at="b")
    assert [row["state"] for row in table(study).values()] == ["done", "running", "waiting"]
    assert (study / "index.html").is_file()


def test_a_run_of_some_pairs_keeps_the_others_on_the_page(tmp_path: Path) -> None:
    study, jobs = tmp_path / "study", [job(tmp_path / "in", name) for name in "abc"]
    run(study, jobs)
    run(study, jobs[1:2])
    rows = table(study)
    assert [(name, row["in_last_list"]) for name, row in rows.items()] == [
        ("b", "yes"), ("a", "no"), ("c", "no"),
    ]  # fmt: skip
