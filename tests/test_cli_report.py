"""`hsyn report` on finished runs, on moved ones and on folders of something else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stand_ins import register

from hsyn_cli.cli import run


def test_the_page_of_a_run_is_made_again(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register("--quiet") == 0
    page = Path("out/report.html")
    page.write_text("old")
    assert run(["report", "out"]) == 5
    assert "out/report.html exists already" in capfd.readouterr().err
    assert run(["report", "out", "--force"]) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[0].startswith("No voxel folds.")
    assert captured.out.splitlines()[1].startswith("out/report.html (")
    assert captured.err == ""
    assert "No voxel folds." in page.read_text(encoding="utf-8")


def test_runs_without_a_page_get_one(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register("--quiet", "--no-html") == 0
    os.rename("out", "moved")  # the files of a run are looked for in its folder, wherever that lies
    assert run(["report", "moved", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["page"] == "moved/report.html"
    assert told["bytes"] == Path("moved/report.html").stat().st_size
    assert told["verdict"].startswith("No voxel folds.")
    assert run(["report", "moved", "--force", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_images_that_moved(here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert register("--quiet", "--no-html") == 0
    os.rename("m.nii.gz", "n.nii.gz")
    before = sorted(os.listdir("out"))
    assert run(["report", "out"]) == 3
    error, hint = capfd.readouterr().err.splitlines()
    assert error == f"error: moving image {Path('m.nii.gz').absolute()}: no such file"
    assert "--moving FILE" in hint
    assert sorted(os.listdir("out")) == before
    assert run(["report", "out", "-m", "n.nii.gz"]) == 0


@pytest.mark.parametrize("folder", ["none", "."])
def test_a_folder_of_something_else(
    folder: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", folder]) == 3
    error, hint = capfd.readouterr().err.splitlines()
    assert error.startswith(f"error: {folder} is not an output folder of hsyn register")
    assert hint.startswith("hint: ")
    assert not Path("none").exists()
