"""What a cohort costs is told before it starts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pretend import pretending
from rich.console import Console

from hsyn_cli.cohort import costs, forecast, speed, status
from hsyn_cli.cohort.costs import Content
from hsyn_cli.cohort.forecast import Forecast
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.status import Status
from hsyn_cli.method.register import register
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.run_folder import Wanted, words_of

MM = 4.0
SMALL = (24, 28, 20)


def phantom(size: tuple[int, int, int], seed: int, mm: float = MM) -> sitk.Image:
    """An ellipsoid with structure."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size[::-1]), indexing="ij")
    a, b, c = rng.uniform(5, 8, 3)
    values = 100 + 30 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * z)
    inside = (x / 0.7) ** 2 + (y / 0.75) ** 2 + (z / 0.7) ** 2 < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    image.SetSpacing((mm, mm, mm))
    return image


Make = Callable[..., Job]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a job on phantoms of a size."""

    def job(name: str, size: tuple[int, int, int] = SMALL, **options: object) -> Job:
        moving, fixed = (tmp_path / f"{name}_{role}.nii.gz" for role in "mf")
        for k, path in enumerate((moving, fixed)):
            sitk.WriteImage(phantom(size, k), str(path))
        return Job(name, Inputs(moving, fixed), f"pairs/{name}", {"model": "none"} | options)

    return job


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine on which a second is a second."""
    asked: list[tuple[int, int]] = []

    def measure(workers: int, threads: int) -> speed.Speed:
        asked.append((workers, threads))
        return speed.Speed(2.0, 1.9)

    monkeypatch.setattr(speed, "measure", measure)
    return asked


def test_the_working_grid_is_about_that_of_a_run(make: Make) -> None:
    job = make("a", preset="fast")
    found = costs.look(job.inputs, job.options)
    paths = [sitk.ReadImage(str(path)) for path in (job.inputs.moving, job.inputs.fixed)]
    result = register(*paths, weights="none", preset="fast", affine="none")
    assert found.working == pytest.approx(np.prod(result.working.grid.size), rel=0.25)
    assert (found.moving, found.fixed) == (np.prod(SMALL), np.prod(SMALL))
    assert not found.networks
    assert found.work == 0


def test_options_decide_what_runs(make: Make) -> None:
    job = make("a")
    plain, mind, affine = (
        costs.look(job.inputs, {**job.options, **more})
        for more in ({}, {"similarity": "mind"}, {"transform": "affine"})
    )
    assert plain.work == 5
    assert mind.other_contrast
    assert not affine.deformable
    assert affine.seconds < plain.seconds < mind.seconds
    assert affine.memory < plain.memory


def test_memory_is_that_of_a_run(make: Make, tmp_path: Path) -> None:
    job = make("a", preset="fast")
    moving, fixed = str(job.inputs.moving), str(job.inputs.fixed)
    line = ["register", "-m", moving, "-f", fixed, "-o", str(tmp_path / "out"), "--quiet"]
    more = ["--preset", "fast", "--model", "none", "--threads", "1", "--on-failure", "warn"]
    subprocess.run([sys.executable, "-m", "hsyn_cli", *line, *more], check=True)
    peak = json.loads((tmp_path / "out" / "report.json").read_text())["peak_memory_mb"]
    assert costs.look(job.inputs, job.options).memory / 1e6 == pytest.approx(peak, rel=0.25)


def test_libraries_of_cuda_take_memory_of_the_computer(make: Make) -> None:
    found = []
    for device in ("cpu", "cuda"):
        with pretending() as _:
            found.append(costs.look(make(device).inputs, {"model": "none", "device": device}))
    assert found[1].memory == found[0].memory + costs.CUDA
    assert (found[0].on_device, found[1].on_device > 0) == (0.0, True)


def test_a_cohort_of_several_kinds(make: Make, tmp_path: Path, steady: list[object]) -> None:
    jobs = [make(f"a{k}") for k in range(3)] + [make("b", (30, 32, 28))]
    told = forecast.forecast(jobs, tmp_path / "study", workers=2, threads=1)
    assert steady == [(2, 1)]  # the self-test runs as the pairs will
    assert (told.pairs, told.kinds, told.looked) == (4, 2, 2)
    one, other = (costs.look(job.inputs, job.options) for job in (jobs[0], jobs[3]))
    assert told.seconds_pair == pytest.approx(2 * (3 * one.seconds + other.seconds) / 4)
    assert told.seconds_all == pytest.approx(2 * told.seconds_pair + 2 * costs.START)
    assert told.memory_pair_mb == pytest.approx(other.memory / 1e6)
    assert told.memory_all_mb == pytest.approx(2 * told.memory_pair_mb)
    kept = [dataclasses.replace(job, options={**job.options, "keep": ["warped"]}) for job in jobs]
    few = forecast.forecast(kept, tmp_path / "study", workers=1, threads=1)
    assert few.disk_all_mb < 0.5 * told.disk_all_mb
    assert told.disk_all_mb == pytest.approx(4 * told.disk_pair_mb)
    assert told.memory_free_mb is None or told.memory_free_mb > 0
    assert told.disk_free_mb is not None
    plain = told.to_dict()
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.usefixtures("steady")
def test_only_few_pairs_are_read(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make(f"a{n}", (20 + n, 24, 20)) for n in range(7)]
    read: list[Path] = []

    def look(inputs: Inputs, _: object) -> Content:
        read.append(inputs.moving)
        return Content(10_000, 10_000, 5_000, 4_000, 60_000, 60_000, 5)

    monkeypatch.setattr(costs, "look", look)
    told = forecast.forecast(jobs, tmp_path, workers=1, threads=1)
    assert (told.kinds, told.looked, len(read)) == (7, 3, 3)
    assert jobs[-1].inputs.moving in read  # the largest
    assert all(np.isfinite(v) for v in vars(told).values() if isinstance(v, float))


@pytest.mark.usefixtures("steady")
def test_pairs_that_cannot_be_read_are_told(make: Make, tmp_path: Path) -> None:
    good, bad = make("good"), make("bad")
    bad.inputs.moving.write_bytes(b"no image")
    told = forecast.forecast([good, bad], tmp_path, workers=1, threads=1)
    (line,) = told.problems
    assert line.startswith("bad: ")
    assert told.seconds_all > 0
    nothing = forecast.forecast([bad], tmp_path, workers=1, threads=1)
    assert len(nothing.problems) == 1
    assert nothing.seconds_pair == 0


def test_pairs_that_are_done_are_left_out(make: Make, tmp_path: Path, steady: list[object]) -> None:
    study, jobs = tmp_path / "study", [make(f"a{k}") for k in range(4)]
    for job, state in zip(jobs, ("done", "done", "failed"), strict=False):
        file = f"{job.folder}/report.json"
        status.write(job.status(study), Status(job.id, "key", state, job.folder, files=(file,)))
    (study / jobs[0].folder).mkdir(parents=True)
    (study / jobs[0].folder / "report.json").write_text("{}")  # the second one's was removed
    told = forecast.forecast(jobs, study, workers=1, threads=1)
    rest = forecast.forecast(jobs[1:], study, workers=1, threads=1)
    assert (told.done, told.pairs, rest.done) == (1, 3, 0)
    assert (told.seconds_all, told.disk_all_mb) == (rest.seconds_all, rest.disk_all_mb)
    assert "1 of 4 pairs already; they are left out here" in " ".join(shown(told).split())
    assert len(steady) == 2
    nothing = forecast.forecast(jobs[:1], study, workers=1, threads=1)
    assert " ".join(shown(nothing).split()) == "done 1 of 1 pairs already; they are left out here"
    assert (len(steady), nothing.disk_all_mb) == (2, 0)


def test_disk_follows_what_is_kept_and_how(tmp_path: Path) -> None:
    content = Content(2e6, 3e6, 2.5e6, 1e6, 4e6, 4e6, 5)

    def disk(**more: object) -> float:
        return content.disk(dataclasses.replace(Wanted(tmp_path), **more), (1.0, 1.0))

    fields = disk(keep=words_of("fields"))
    assert fields == pytest.approx(12 * 5e6 * 0.92)
    assert disk(keep=words_of("fields"), field_spacing=2.0) == pytest.approx(fields / 8)
    assert disk(keep=words_of("fields"), field_spacing=0.5) == fields
    assert disk(keep=words_of("fields"), rounded=True) < 0.6 * fields
    assert disk(keep=words_of("report")) == 0
    assert disk() > fields + disk(keep=words_of("warped"))


def plain(**more: object) -> Forecast:
    usual = Forecast(
        100, 1, 1, 2, 1, 1.0, 79.0, 3950.0, 1750.0, 3500.0, 8000.0, 130.0, 13000.0, 90000.0, "study"
    )
    return dataclasses.replace(usual, **more)


def shown(told: Forecast) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(told.table())
    return capture.get()


def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "available_cores", lambda: 2)
    assert [" ".join(line.split()) for line in shown(plain()).splitlines()] == [
        "pairs 100, all alike; 1 read for this forecast",
        "one pair 79 s, 1.8 GB of memory at most, 130 MB on disk",
        "all pairs 66 min with 2 workers of 1 thread, on the CPU",
        "memory 3.5 GB; 8.0 GB are free",
        "disk 13 GB; 90 GB are free",
    ]
    text = shown(plain(memory_free_mb=2000.0, disk_free_mb=5000.0, workers=4))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "4 workers need 3.5 GB of memory, and 2.0 GB are free: give --jobs 1" in words
    assert "the outputs need 13 GB, and 5.0 GB are free in study" in words
    assert "want more than the 2 cores" in words
    assert not plain(slowness_alone=0.9).warnings
    (line,) = plain(slowness_alone=0.5).warnings
    assert line == "other programs use the cores now; with all cores free it takes 33 min"


def test_the_self_test_leaves_the_threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "TEST_SIZE", (16, 18, 20))
    before = torch.get_num_threads()
    found = speed.measure(2, 1)
    assert 0 < found.alone <= found.now
    assert torch.get_num_threads() == before
