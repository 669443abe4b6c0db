"""A cohort on a real Dask scheduler and workers: killed workers, a scheduler that goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cohorts import FAKE, job, ran, status

import hsyn_cli
from hsyn_cli.cohort.drivers import driving
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.sources.cluster import Cluster, carry_out
from hsyn_cli.cohort.supervisor import News, Supervisor, Tally
from hsyn_cli.cohort.tasks import Task
from hsyn_cli.errors import BatchError, InputError

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kills processes"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        map(str, (Path(hsyn_cli.__file__).parents[1], Path(__file__).parent))
    ),
}
PRELOAD = """
from hsyn_cli.cohort.sources import local
import fake_cohorts
local.COMMAND = fake_cohorts.FAKE
"""


class Dask:
    """A scheduler and its workers, whose warm workers register nothing."""

    def __init__(self, folder: Path) -> None:
        self.file, self._folder, self.workers = folder / "scheduler.json", folder, []
        (folder / "fakes.py").write_text(PRELOAD)
        self._port, self._all = "0", []
        self.scheduler = self.start_scheduler()
        self._port = self._address().rpartition(":")[2]

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self._folder / "dask.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                env=ENVIRONMENT, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        self._all.append(process)
        return process

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        self.file.unlink(missing_ok=True)
        words = ["--host", "127.0.0.1", "--port", self._port, "--no-dashboard", "--no-show"]
        process = self._dask("dask_scheduler", *words, "--scheduler-file", str(self.file))
        while not self._address():
            assert process.poll() is None, (self._folder / "dask.log").read_text()
            time.sleep(0.02)
        return process

    def _address(self) -> str:
        """The scheduler's; empty while its file is not there or not yet written in full."""
        try:
            return str(json.loads(self.file.read_text())["address"])
        except (FileNotFoundError, json.JSONDecodeError):
            return ""

    def add_worker(self, *more: str) -> None:
        words = [*more, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--preload", "fakes.py"]
        self.workers.append(self._dask("dask_worker", "--scheduler-file", str(self.file), *words))

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    cluster = Dask(tmp_path)
    cluster.add_worker()
    yield cluster
    cluster.close()


def supervise(
    dask: Dask,
    study: Path,
    does: dict[str, str],
    tell: object = None,
    seconds: float | None = None,
    **options: str,
) -> Tally:
    jobs = [job(study.parent / "images", name, do, **options) for name, do in does.items()]
    with driving(study, Shard()) as (sign, _):
        source = Cluster(str(dask.file), Limits(seconds), sign)
        supervisor = Supervisor(study, jobs, source, threads=1)
        if callable(tell):
            supervisor.tell = tell
        return supervisor.run()


def test_pairs_run_and_a_hanging_one_is_killed(dask: Dask, tmp_path: Path) -> None:
    study = tmp_path / "study"
    tally = supervise(dask, study, {"a": "ok", "b": "hang", "c": "poor near"}, seconds=1.0)
    assert tally.done == 2
    assert [failed.error for failed in tally.failed] == ["killed after 1 s (--timeout)"]
    assert status(study, "c").search == "full"
    assert sorted(ran(study)) == ["a near", "b near", "b near", "c full", "c near"]
    tally = supervise(dask, study, {"a": "ok", "c": "poor near"})
    assert (tally.done, tally.before) == (0, 2)


def test_the_pair_of_a_killed_worker_goes_to_another(dask: Dask, tmp_path: Path) -> None:
    study, done = tmp_path / "study", []

    def tell(news: News) -> None:
        if news.kind == "began" and news.status.id == "b" and not done:
            while "b near" not in ran(study):
                time.sleep(0.02)
            done.append(dask.workers[0].kill())
            dask.add_worker()

    tally = supervise(dask, study, {"a": "ok", "b": "slow once", "c": "ok"}, tell)
    assert done
    assert (tally.done, tally.failed) == (3, [])
    assert ran(study).count("b near") == 2


def test_a_scheduler_that_goes_ends_in_one_line_and_the_next_run_goes_on(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, killed = tmp_path / "study", []
    monkeypatch.setattr("hsyn_cli.cohort.sources.cluster.RECONNECT", 2.0)

    def tell(news: News) -> None:
        if news.kind == "began" and news.status.id == "b" and not killed:
            while "b near" not in ran(study):
                time.sleep(0.02)
            killed.append(dask.scheduler.kill())

    does = {"a": "ok", "b": "slow once", "c": "ok"}
    with pytest.raises(BatchError, match="is gone"):
        supervise(dask, study, does, tell)
    assert status(study, "a").state == "done"
    dask.start_scheduler()
    dask.add_worker()
    tally = supervise(dask, study, does)
    assert (tally.done, tally.before) == (2, 1)
    assert ran(study).count("a near") == 1


def test_a_scheduler_that_comes_back_is_found_again(dask: Dask, tmp_path: Path) -> None:
    study, killed = tmp_path / "study", []

    def tell(news: News) -> None:
        if news.kind == "began" and news.status.id == "b" and not killed:
            while "b near" not in ran(study):
                time.sleep(0.02)
            dask.scheduler.kill()
            dask.scheduler.wait()
            killed.append(dask.start_scheduler())
            dask.add_worker()

    tally = supervise(dask, study, {"a": "ok", "b": "slow once", "c": "ok"}, tell)
    assert killed
    assert (tally.done, tally.failed) == (3, [])
    assert status(study, "b").attempts == 1


def test_a_pair_for_a_gpu_waits_for_a_worker_that_has_one(dask: Dask, tmp_path: Path) -> None:
    study = tmp_path / "study"
    before: list[list[str]] = []

    def tell(news: News) -> None:
        if news.kind == "began" and not before:
            time.sleep(1.0)
            before.append(ran(study))
            dask.add_worker("--resources", "GPU=1")

    tally = supervise(dask, study, {"a": "ok", "b": "ok"}, tell, device="cuda")
    assert before == [[]]
    assert tally.done == 2


def test_two_clients_of_one_scheduler(dask: Dask, tmp_path: Path) -> None:
    dask.add_worker()
    rows = "\n".join(f"{k},{k}.nii,0.nii" for k in range(1, 7))
    (tmp_path / "pairs.csv").write_text(f"id,moving,fixed\n{rows}\n")
    for k in range(7):
        (tmp_path / f"{k}.nii").write_text(str(k))
    words = [sys.executable, "-m", "hsyn_cli", "batch", str(tmp_path / "pairs.csv"), "--quiet"]
    words += ["--model", "none", "-o", str(tmp_path / "study"), "--scheduler", str(dask.file)]
    clients = [subprocess.Popen([*words, "--shard", f"{k}/2"], env=ENVIRONMENT) for k in (1, 2)]
    assert [client.wait() for client in clients] == [0, 0]
    assert sorted(ran(tmp_path / "study")) == [f"{k} near" for k in range(1, 7)]


def test_a_pair_ends_with_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsyn_cli.cohort.sources.local.COMMAND", FAKE)
    task = Task.of(job(tmp_path / "images", "a", "hang"), tmp_path, search="near")
    told = carry_out(task.plain(), {}, str(tmp_path / "gone.driver"), hsyn_cli.__version__)
    assert (told["exit_code"], told["error"]) == (137, "hsyn batch ended")


def test_a_worker_of_another_version_reads_no_task() -> None:
    assert carry_out({"unknown": 1}, {}, "gone", "0") == {"version": hsyn_cli.__version__}


def test_a_worker_of_another_version_ends_the_run_in_one_line(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    monkeypatch.setattr("hsyn_cli.cohort.sources.cluster.__version__", "0")
    with pytest.raises(BatchError) as caught:
        supervise(dask, study, {"a": "ok", "b": "ok"})
    monkeypatch.undo()
    theirs = hsyn_cli.__version__
    assert caught.value.message == f"a Dask worker has hsyn {theirs}, and hsyn batch is 0"
    assert ran(study) == []
    assert not (study / "status" / "b.json").exists()
    assert supervise(dask, study, {"a": "ok", "b": "ok"}).done == 2


def test_no_scheduler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsyn_cli.cohort.sources.cluster.CONNECT", 0.5)
    with pytest.raises(InputError, match="does not answer"):
        Cluster("tcp://127.0.0.1:1", Limits(), tmp_path / "x")
