"""Each pair of a batch gets a picture, whatever else is kept, and the page shows it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import SimpleITK as sitk
from test_batch_forecast import SMALL, phantom

from hsyn_cli.cohort import page, status, thumbnail
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.status import Status
from hsyn_cli.cohort.tasks import Outcome, Task
from hsyn_cli.cohort.worker import carry_out
from hsyn_cli.results.register_files import Inputs

FIELDS = ("forward_field.nii.gz", "inverse_field.nii.gz")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, seed in (("m", 0), ("f", 1)):
        sitk.WriteImage(phantom(SMALL, seed), str(tmp_path / f"{name}.nii.gz"))
    inputs = Inputs(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")
    options = {"model": "none", "preset": "fast", "transform": "affine"}
    return Job("a", inputs, "pairs/a", options)


def work(job: Job, study: Path) -> Outcome:
    return carry_out(Task.of(job, study, threads=1), lambda line: None)


def done(job: Job, study: Path) -> None:
    status.write(job.status(study), Status(job.id, "key", "done", job.folder))


@pytest.mark.parametrize("keep", [None, ["fields"]])
def test_a_pair_gets_a_picture_that_the_page_embeds(
    keep: list[str] | None, job: Job, tmp_path: Path
) -> None:
    names = {"thumbnail": "own.png"} if keep else {}
    job = dataclasses.replace(job, options={**job.options, "keep": keep}, names=names)
    outcome = work(job, tmp_path)
    assert outcome.exit_code in (0, 10)
    kept = {f"pairs/a/{name}" for name in FIELDS}
    picture = f"pairs/a/{names.get('thumbnail', 'thumbnail.png')}"
    assert picture in outcome.files
    assert {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "pairs/a").iterdir()} == (
        set(outcome.files)
    )
    if keep:
        assert set(outcome.files) == {*kept, picture, "pairs/a/report.json"}
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / picture)))
    assert (seen == thumbnail.EDGE).all(-1).any()
    done(job, tmp_path)
    page.write(tmp_path, [job])
    assert "data:image/png;base64," in (tmp_path / "index.html").read_text()


def test_a_picture_that_cannot_be_drawn_fails_no_pair_and_leaves_no_old_one(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*images: sitk.Image) -> bytes:
        raise ValueError("no plane")

    folder = tmp_path / job.folder
    folder.mkdir(parents=True)
    (folder / "thumbnail.png").write_bytes(b"of an earlier run")
    monkeypatch.setattr(thumbnail, "thumbnail", broken)
    outcome = work(job, tmp_path)
    assert outcome.exit_code in (0, 10)
    assert "pairs/a/warped.nii.gz" in outcome.files
    assert not (folder / "thumbnail.png").exists()
    assert "ValueError: no plane" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_fails_no_pair(job: Job, tmp_path: Path) -> None:
    (tmp_path / job.folder / "thumbnail.png").mkdir(parents=True)
    outcome = work(job, tmp_path)
    assert outcome.exit_code in (0, 10)
    assert "pairs/a/thumbnail.png" not in outcome.files
