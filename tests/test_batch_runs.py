"""Cohorts with real workers: equal files however often the driver or a worker was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fake_cohorts import status

import hsyn_cli
from hsyn_cli.cohort import batch
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources.local import COMMAND
from hsyn_cli.cohort.tasks import Task
from hsyn_cli.results.register_files import Inputs, register_files
from hsyn_cli.results.run_folder import Wanted

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])}
OPTIONS = {"model": "none", "preset": "fast", "seed": 3}
COMPARED = ("warped.nii.gz", "inverse_warped.nii.gz", "forward_field.nii.gz", "affine.mat")


def phantom(seed: int) -> sitk.Image:
    """An ellipsoid with structure, 20 x 28 x 24 voxels of 8 mm."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 28, 24)), indexing="ij")
    a, b, c = rng.uniform(5, 8, 3)
    values = 100 + 30 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * z)
    inside = (x / 0.7) ** 2 + (y / (0.75 + 0.02 * seed)) ** 2 + (z / 0.7) ** 2 < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    image.SetSpacing((8.0, 8.0, 8.0))
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pairs.csv of two pairs and a poisoned one."""
    place = tmp_path_factory.mktemp("cohort")
    for k in range(3):
        sitk.WriteImage(phantom(k), str(place / f"{k}.nii.gz"))
    (place / "bad.nii.gz").write_bytes(b"\x1f\x8bnonsense")
    rows = ["id,moving,fixed", "one,1.nii.gz,0.nii.gz", "bad,bad.nii.gz,0.nii.gz"]
    (place / "pairs.csv").write_text("\n".join([*rows, "two,2.nii.gz,0.nii.gz"]))
    return place


def start(folder: Path, study: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["batch", str(folder / "pairs.csv"), "-o", str(study), "--threads", "1", "--quiet"]
    method = ["--model", "none", "--preset", "fast", "--seed", "3"]
    return subprocess.Popen(
        [sys.executable, "-m", "hsyn_cli", *words, *method, *more],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )


def compared(study: Path) -> dict[str, bytes]:
    found = (study / "pairs" / name / file for name in ("one", "two") for file in COMPARED)
    return {str(path.relative_to(study)): path.read_bytes() for path in found}


def workers(study: Path) -> list[int]:
    """The processes of this study's workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            above = (Path(f"/proc/{parent}") / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if b"hsyn_cli.cohort.worker" in words and str(study).encode() in above:
            found.append(int(path.parent.name))
    return found


def wait_for(driver: subprocess.Popen[bytes], study: Path, pattern: str) -> None:
    """Wait until such a file is there."""
    while not any(study.glob(pattern)):
        assert driver.poll() is None
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    study = folder / "undisturbed"
    assert start(folder, study, "--jobs", "2").wait() == 11
    return study


def test_a_batch_gives_the_files_of_register(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    inputs = Inputs(folder / "1.nii.gz", folder / "0.nii.gz")
    register_files(inputs, Wanted(tmp_path / "out", rounded=True), threads=1, **OPTIONS)  # type: ignore[arg-type]
    for name in COMPARED:
        alone = (tmp_path / "out" / name).read_bytes()
        assert (undisturbed / "pairs" / "one" / name).read_bytes() == alone
    one = status(undisturbed, "one")
    written = {f"pairs/one/{path.name}" for path in (tmp_path / "out").iterdir()}
    assert set(one.files) == {*written, "pairs/one/thumbnail.png"}
    assert one.peak_memory_mb is not None
    assert one.peak_memory_mb > 50


def test_a_poisoned_pair_is_told_with_its_traceback_in_the_log(undisturbed: Path) -> None:
    bad = status(undisturbed, "bad")
    assert (bad.state, bad.exit_code, bad.attempts) == ("failed", 3, 1)
    assert bad.error.endswith("bad.nii.gz: the gzip stream is damaged")
    assert "Traceback" in (undisturbed / "logs" / "bad.log").read_text()
    assert [path.name for path in (undisturbed / "logs").iterdir()] == ["bad.log"]
    assert not (undisturbed / "pairs" / "bad").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("whom", ["driver", "worker", "both"])
def test_killed_and_resumed_gives_the_same(
    whom: str, folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    driver = start(folder, study)
    wait_for(driver, study, "pairs/one/report.json" if whom == "driver" else ".hsyn-*/new")
    if whom != "driver":
        for pid in workers(study):
            os.kill(pid, signal.SIGKILL)
    if whom != "worker":
        driver.kill()
    driver.wait()
    last = start(folder, study)
    assert last.wait() == 11
    assert compared(study) == compared(undisturbed)
    assert workers(study) == []
    assert not list(study.rglob(".hsyn-*"))
    assert not list((study / "status").glob("*.driver"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_ends_the_workers_too(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    driver = start(folder, study)
    wait_for(driver, study, ".hsyn-*/new")
    driver.send_signal(signal.SIGTERM)
    assert driver.wait() == 143
    assert not list(study.rglob(".hsyn-*"))
    assert not list((study / "status").glob("*.driver"))
    assert workers(study) == []


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_a_worker_takes_one_pair_after_another_and_ends_with_its_stdin(
    worker: subprocess.Popen[bytes], folder: Path, tmp_path: Path
) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    codes = []
    for name, options in (("bad", OPTIONS), ("1", OPTIONS), ("1", {**OPTIONS, "device": "x"})):
        inputs = Inputs(folder / f"{name}.nii.gz", folder / "0.nii.gz")
        job = Job(name, inputs, f"pairs/{name}", options)
        worker.stdin.write(json.dumps(Task.of(job, tmp_path, threads=1).plain()).encode() + b"\n")
        worker.stdin.flush()
        for line in worker.stdout:
            told = json.loads(line)
            if "outcome" in told:
                codes.append(told["outcome"]["exit_code"])
                break
            assert 0 <= told["fraction"] <= 1
    assert codes == [3, 0, 2]
    worker.stdin.close()
    assert worker.wait(timeout=60) == 0


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "available_cores", lambda: 8)
    assert batch.Work(workers=3).threads_each == 2
    assert batch.Work(workers=16).threads_each == 1
    assert batch.Work(workers=3, threads=5).threads_each == 5
    assert batch.Work(scheduler="x").threads_each == 1
