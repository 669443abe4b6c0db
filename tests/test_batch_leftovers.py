"""What an attempt wrote does not outlive it: who fails in the end leaves no results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_cohorts import job, ran, status, supervise

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort import supervisor as engine
from hsyn_cli.cohort.sources import Limits


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def test_a_redone_pair_that_fails_leaves_no_old_results(study: Path, tmp_path: Path) -> None:
    supervise(study, [job(tmp_path, "a"), job(tmp_path, "b")])
    own = study / "pairs" / "a" / "notes.txt"
    own.write_text("of the user")
    tally = supervise(study, [job(tmp_path, "a", "bad input"), job(tmp_path, "b")])
    assert [failed.exit_code for failed in tally.failed] == [3]
    assert status(study, "a").files == ()
    assert list((study / "pairs" / "a").iterdir()) == [own]
    assert (study / "pairs" / "b" / "out.txt").exists()


def test_the_results_of_a_first_attempt_go_with_a_second_that_hangs(
    study: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, "a", "poor then hang")]
    (failed,) = supervise(study, jobs, limits=Limits(seconds=0.5)).failed
    assert ran(study) == ["a near", "a full"]
    assert (failed.exit_code, failed.files) == (124, ())
    assert not (study / "pairs" / "a").exists()


def test_a_driver_killed_meanwhile_leaves_them_to_the_next(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervise(study, [job(tmp_path, "a")])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        supervise(study, [job(tmp_path, "a", "bad input")])
    monkeypatch.undo()
    assert (status(study, "a").state, status(study, "a").files) == ("running", ("pairs/a/out.txt",))
    supervise(study, [job(tmp_path, "a", "bad input")])
    assert status(study, "a").state == "failed"
    assert not (study / "pairs" / "a").exists()


def test_no_file_beside_the_study_is_removed(study: Path, tmp_path: Path) -> None:
    supervise(study, [job(tmp_path, "a")])
    (tmp_path / "mine.txt").write_text("x")
    outside = ("../mine.txt", str(tmp_path / "mine.txt"))
    statuses.write(study / "status" / "a.json", replace(status(study, "a"), files=outside))
    supervise(study, [job(tmp_path, "a", "bad input")])
    assert status(study, "a").state == "failed"
    assert (tmp_path / "mine.txt").exists()


def test_an_input_that_is_away_costs_no_results(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a")]
    supervise(study, jobs)
    (tmp_path / "a.nii").rename(tmp_path / "away")
    assert len(supervise(study, jobs).failed) == 1
    assert (study / "pairs" / "a" / "out.txt").exists()
    assert status(study, "a").files == ("pairs/a/out.txt",)
