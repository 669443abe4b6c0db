"""What is done is left, what changed is redone, what fails gets two attempts and stops nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_cohorts import FAKE, job, ran, status, supervise

from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.drivers import Driver, driving
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.cohort.sources import Limits, local
from hsyn_cli.cohort.sources.local import LocalWorkers
from hsyn_cli.cohort.supervisor import News, Supervisor
from hsyn_cli.errors import OutputError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def test_a_second_run_does_nothing(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in "abc"]
    tally = supervise(study, jobs)
    assert (tally.done, tally.before, tally.left) == (3, 0, 0)
    assert sorted(ran(study)) == ["a near", "b near", "c near"]
    done = status(study, "a")
    assert (done.state, done.files, done.pid) == ("done", ("pairs/a/out.txt",), os.getpid())
    assert done.finished >= done.started > 0
    tally = supervise(study, jobs)
    assert (tally.done, tally.before) == (0, 3)
    assert len(ran(study)) == 3


def test_what_changed_or_went_missing_is_redone(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in "abcd"]
    supervise(study, jobs)
    (tmp_path / "a.nii").write_text("another image")
    (study / "pairs" / "b" / "out.txt").unlink()
    (study / "status" / "c.json").write_text('{"id": "c"')
    tally = supervise(study, jobs)
    assert (tally.done, tally.before) == (3, 1)
    assert sorted(ran(study)[4:]) == ["a near", "b near", "c near"]
    supervise(study, jobs, threads=2)
    assert len(ran(study)) == 11


def test_a_poor_result_gets_a_full_search(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "poor near"), job(tmp_path, "b")]
    news: list[News] = []
    tally = supervise(study, jobs, workers=1, news=news)
    assert ran(study) == ["a near", "b near", "a full"]
    assert (tally.done, tally.failed) == (2, [])
    a = status(study, "a")
    assert (a.state, a.attempts, a.search, a.problems) == ("done", 2, "full", ())
    assert [(n.kind, n.status.id) for n in news if n.kind in ("retry", "ended")] == [
        ("retry", "a"),
        ("ended", "b"),
        ("ended", "a"),
    ]


def test_what_failed_twice_is_reported_and_left(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "poor"), job(tmp_path, "b")]
    for _ in range(2):
        tally = supervise(study, jobs, workers=1)
        (failed,) = tally.failed
        assert (failed.exit_code, failed.attempts) == (10, 2)
        assert failed.problems == ("do not trust this",)
        assert ran(study) == ["a near", "b near", "a full"]
    tally = supervise(study, jobs, again=True)
    assert ran(study)[3:] == ["a near", "a full"]
    assert len(tally.failed) == 1


@pytest.mark.parametrize(
    ("do", "searches", "code"),
    [("bad input", ["near"], 3), ("bug", ["near", "full"], 1), ("die", ["near", "near"], 137)],
)
def test_what_another_attempt_is_for(
    do: str, searches: list[str], code: int, study: Path, tmp_path: Path
) -> None:
    tally = supervise(study, [job(tmp_path, "a", do), job(tmp_path, "b")])
    assert [line for line in ran(study) if line[0] == "a"] == [f"a {s}" for s in searches]
    assert [failed.exit_code for failed in tally.failed] == [code]
    assert tally.done == 1


def test_a_pair_whose_process_was_killed_twice_runs_in_the_next_run(
    study: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, "a", "die"), job(tmp_path, "b", "leave")]
    for runs in (1, 2):
        assert len(supervise(study, jobs).failed) == 2
        assert ran(study).count("a near") == 2 * runs
        assert [line for line in ran(study) if line[0] == "b"] == ["b near", "b full"]


@pytest.mark.parametrize("code", [2, 5, 6, 7])
def test_what_failed_by_its_computer_runs_in_the_next_run(
    code: int, study: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, "a", f"code {code}")]
    for runs in (1, 2):
        assert [failed.exit_code for failed in supervise(study, jobs).failed] == [code]
        assert ran(study) == ["a near"] * runs


def test_a_full_search_that_fails_is_not_repeated(study: Path, tmp_path: Path) -> None:
    supervise(study, [job(tmp_path, "a", "poor", search="full")])
    assert ran(study) == ["a full"]


def test_an_input_that_cannot_be_read_is_looked_at_in_each_run(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    (tmp_path / "a.nii").unlink()
    tally = supervise(study, jobs)
    assert tally.failed[0].error == f"moving image {tmp_path / 'a.nii'}: no such file"
    assert ran(study) == ["b near"]
    (tmp_path / "a.nii").write_text("found")
    assert supervise(study, jobs).failed == []
    assert ran(study) == ["b near", "a near"]


def test_a_hanging_pair_is_killed_and_the_others_go_on(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "hang"), *(job(tmp_path, name) for name in "bcd")]
    tally = supervise(study, jobs, workers=1, limits=Limits(seconds=0.5))
    (failed,) = tally.failed
    assert failed.error == "killed after 0.5 s (--timeout)"
    assert failed.exit_code == 124
    assert failed.seconds >= 0.5
    assert tally.done == 3
    runs = len(ran(study))
    for seconds in (0.5, 0.3):
        supervise(study, jobs, limits=Limits(seconds=seconds))
        assert len(ran(study)) == runs
    (failed,) = supervise(study, jobs, limits=Limits(seconds=0.6)).failed
    assert failed.error == "killed after 0.6 s (--timeout)"
    assert ran(study)[runs:] == ["a near", "a near"]


@pytest.mark.parametrize("code", [124, 8])
def test_a_pair_runs_again_without_the_limit_that_killed_it(
    code: int, study: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, "a")]
    supervise(study, jobs)
    killed = replace(status(study, "a"), state="failed", exit_code=code, attempts=2, limit=60.0)
    statuses.write(study / "status" / "a.json", replace(killed, limit=None))
    assert len(supervise(study, jobs).failed) == 1  # by something else
    statuses.write(study / "status" / "a.json", killed)
    assert supervise(study, jobs).done == 1
    assert status(study, "a").limit is None


@linux
def test_a_pair_that_eats_the_memory_is_killed(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "eat"), job(tmp_path, "b")]
    tally = supervise(study, jobs, limits=Limits(memory_mb=120))
    (failed,) = tally.failed
    assert failed.exit_code == 8
    assert failed.error.startswith("used ")
    assert failed.error.endswith(" MB, more than --memory 120")
    assert failed.peak_memory_mb is not None
    assert failed.peak_memory_mb > 120
    assert tally.done == 1
    left = len(ran(study))
    supervise(study, jobs, limits=Limits(seconds=60, memory_mb=110))
    assert len(ran(study)) == left
    more = Limits(memory_mb=130)
    assert [failed.limit for failed in supervise(study, jobs, limits=more).failed] == [130]


def test_a_worker_that_died_is_replaced(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "die once"), job(tmp_path, "b", "leave"), job(tmp_path, "c")]
    tally = supervise(study, jobs, workers=1)
    assert [(s.id, s.error) for s in tally.failed] == [("b", "worker ended with exit code 3")]
    a = status(study, "a")
    assert (a.state, a.attempts, a.search) == ("done", 2, "near")


def test_a_worker_that_never_starts_is_told(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STARTING", 0.2)
    silent = (sys.executable, "-S", "-c", "import sys; print(1); sys.stdin.read()")
    source = LocalWorkers(1, Limits(), silent)
    study.mkdir()
    (failed,) = Supervisor(study, [job(tmp_path, "a")], source, threads=1).run().failed
    assert failed.error == "its worker did not start within 0.2 s"


def test_what_a_killed_driver_left_running_is_redone(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in "ab"]
    supervise(study, jobs)
    left = {**vars(status(study, "a")), "state": "running", "attempts": 2, "search": "full"}
    statuses.write(study / "status" / "a.json", statuses.Status(**left))
    supervise(study, jobs)
    assert ran(study)[2:] == ["a full"]
    assert status(study, "a").attempts == 2


def test_a_second_attempt_that_was_due_comes_in_the_next_run(study: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "poor near")]
    supervise(study, jobs)
    due = {**vars(status(study, "a")), "state": "failed", "attempts": 1, "search": "near"}
    statuses.write(study / "status" / "a.json", statuses.Status(**{**due, "exit_code": 10}))
    supervise(study, jobs)
    assert ran(study)[2:] == ["a full"]


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_pair_that_another_driver_runs_or_will_try_again_is_left_to_it(
    state: statuses.State, study: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, name) for name in "ab"]
    supervise(study, jobs[:1])
    other = replace(status(study, "a"), state=state, exit_code=10, host="node7", pid=12)
    statuses.write(study / "status" / "a.json", other)
    elsewhere = Driver(2, 2, "node7", 12, "node7 x", 1)
    source = LocalWorkers(1, Limits(), FAKE)
    with driving(study, Shard(1, 2)) as (_, others):
        sign = study / "status" / "2-of-2.1.driver"  # of one that began later
        sign.write_text(json.dumps(vars(elsewhere)))
        tally = Supervisor(study, jobs, source, threads=1, others=others).run()
    assert (tally.done, tally.busy) == (1, 1)
    assert status(study, "a").host == "node7"


def test_what_a_driver_ends_with_before_it_goes_is_not_run_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path, "a")
    supervise(study, [one])
    done = status(study, "a")
    statuses.write(one.status(study), replace(done, state="running", host="node7", pid=12))
    with driving(study, Shard(1, 2)) as (_, others):
        monkeypatch.setattr(others, "living", lambda: statuses.write(one.status(study), done) or [])
        source = LocalWorkers(1, Limits(), FAKE)
        tally = Supervisor(study, [one], source, threads=1, others=others).run()
    assert (tally.done, tally.before) == (0, 1)


@linux
def test_a_driver_that_was_taken_for_dead_ends_its_workers(study: Path, tmp_path: Path) -> None:
    pids: list[int] = []
    study.mkdir()
    with driving(study, Shard()) as (sign, others):

        def tell(news: News) -> None:
            if news.kind == "progress":
                children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                pids.extend(map(int, children))
                sign.unlink()

        jobs = [job(tmp_path, "a", "hang"), job(tmp_path, "b")]
        source = LocalWorkers(1, Limits(20), FAKE)
        supervisor = Supervisor(study, jobs, source, threads=1, others=others, tell=tell)
        with pytest.raises(OutputError, match="took this one for dead"):
            supervisor.run()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert ran(study) == ["a near"]
    assert status(study, "a").state == "running"


@linux
def test_no_worker_outlives_the_supervisor(study: Path, tmp_path: Path) -> None:
    pids: list[int] = []

    def stop(news: News) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        pids.extend(map(int, children))
        if news.kind == "progress":
            raise KeyboardInterrupt

    study.mkdir()
    source = LocalWorkers(2, Limits(), FAKE)
    supervisor = Supervisor(study, [job(tmp_path, "a", "hang")], source, threads=1, tell=stop)
    with pytest.raises(KeyboardInterrupt):
        supervisor.run()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert status(study, "a").state == "running"
    assert time.time() - status(study, "a").started < 60
