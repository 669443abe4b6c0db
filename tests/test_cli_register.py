"""`hsyn register` around a stand-in for the pipeline: bad input, outputs, report, interruption."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from stand_ins import SIZE, fake_result, grid_image, register, replace_pipeline

import hsyn_cli
import hsyn_cli.method
from hsyn_cli.errors import DeviceError


def save(values: Any, name: str, like: sitk.Image | None = None) -> None:
    image = sitk.GetImageFromArray(np.asarray(values), isVector=False)
    if like is not None:
        image.CopyInformation(like)
    sitk.WriteImage(image, name)


def bad_inputs() -> dict[str, tuple[int, str, Callable[[], list[str]]]]:
    """Name -> (exit code, part of the error line, what makes the file and gives the options)."""
    noise = np.random.default_rng(0).normal(size=SIZE[::-1]).astype(np.float32)
    like = grid_image(SIZE, 1)

    def truncated() -> list[str]:
        data = Path("m.nii.gz").read_bytes()
        Path("bad.nii.gz").write_bytes(data[: len(data) // 2])
        return ["-m", "bad.nii.gz"]

    def text() -> list[str]:
        Path("bad.nii.gz").write_bytes(gzip.compress(b"hello " * 200))
        return ["-f", "bad.nii.gz"]

    def image(
        values: Any, option: str = "-m", geometry: sitk.Image | None = None
    ) -> Callable[[], list[str]]:
        def make() -> list[str]:
            save(values, "bad.nii.gz", geometry)
            return [option, "bad.nii.gz"]

        return make

    holes = noise.copy()
    holes[1, 2, 3] = np.nan
    return {
        "missing": (3, "fixed image none.nii.gz: no such file", lambda: ["-f", "none.nii.gz"]),
        "folder": (3, "is a folder", lambda: ["-m", "."]),
        "not an image": (3, "its header is damaged", text),
        "truncated": (3, "is truncated", truncated),
        "2-D": (3, "is a single slice, and the fixed image a volume", image(noise[0])),
        "4-D": (3, "is 4-D", image(np.stack([noise] * 3))),
        "thin": (3, "3 voxels thick", image(noise[:3])),
        "a line": (3, "one voxel thick", image(noise[:1, :1])),
        "zeros": (3, "all zeros", image(0 * noise)),
        "constant": (3, "constant", image(0 * noise + 5, "-f")),
        "NaN": (3, "NaN", image(holes)),
        "mask of another grid": (4, "lies on another grid", image(noise, "--fixed-mask")),
        "empty mask": (
            3,
            "moving mask bad.nii.gz is empty",
            image(0 * noise, "--moving-mask", like),
        ),
        "fractional labels": (3, "fractional", image(noise, "--moving-labels", like)),
        "labels of another grid": (
            4,
            "another grid",
            image(np.ones((4, 4, 4), np.uint8), "--moving-labels"),
        ),
        "no transform": (3, "not a transform", lambda: ["--initial-transform", "m.nii.gz"]),
        "unknown weights": (6, "unknown checkpoint 'nope'; known:", lambda: ["--weights", "nope"]),
        "missing weights": (
            6,
            "x/y.safetensors: no such file",
            lambda: ["--weights", "x/y.safetensors"],
        ),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input_gives_one_line_its_code_and_leaves_nothing(
    name: str, here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    code, text, make = bad_inputs()[name]
    options = make()
    before = sorted(os.listdir(here))
    assert register(*options, out="new/out") == code
    captured = capfd.readouterr()
    first, *rest = captured.err.splitlines()
    assert first.startswith("error: ")
    assert text in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert captured.out == ""
    assert sorted(os.listdir(here)) == before
    assert calls == []


def test_a_run_writes_its_files_and_shows_the_table(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register() == 0
    captured = capfd.readouterr()
    assert "inverse error, fixed" in captured.out
    assert captured.err == ""
    assert len(os.listdir("out")) == 7
    report = json.loads(Path("out/report.json").read_text())
    assert set(report["inputs"]) == {"moving", "fixed"}
    assert Path(report["outputs"]["warped"]).is_file()
    assert report["seconds_total"] > 0


def test_the_pipeline_gets_what_was_asked_for(here: Path, calls: list[dict[str, Any]]) -> None:
    like = grid_image(SIZE, 1)
    save((np.ones(SIZE[::-1])).astype(np.uint8), "mask.nii.gz", like)
    sitk.WriteTransform(sitk.Euler3DTransform(), "t.tfm")
    options = (
        "--rigid --preset fast --device cpu --threads 2 --seed 5 --initial-transform t.tfm --quiet "
        "--smoothness 1.5 --similarity mind --search full --head brain"
    )
    assert (
        register(*options.split(), "--fixed-mask", "mask.nii.gz", "--moving-labels", "mask.nii.gz")
        == 0
    )
    (call,) = calls
    assert isinstance(call.pop("initial_transform"), sitk.AffineTransform)
    assert call.pop("fixed_mask").GetPixelID() == sitk.sitkUInt8
    (moving,), (fixed,) = call["moving"], call["fixed"]  # one channel of each
    assert moving.GetPixelID() == sitk.sitkFloat32
    assert moving[1, 2, 3] == pytest.approx(grid_image(SIZE, 1)[1, 2, 3])
    assert fixed[1, 2, 3] == pytest.approx(grid_image(SIZE, 2)[1, 2, 3])
    plain = {key: call[key] for key in call if key not in ("moving", "fixed", "progress", "told")}
    assert plain == {
        "channel_weights": None,
        "preset": "fast",
        "weights": "auto",
        "device": "cpu",
        "threads": 2,
        "seed": 5,
        "smoothness": 1.5,
        "moving_mask": None,
        "fixed_lesion": None,
        "moving_lesion": None,
        "affine": "rigid",
        "transform": "deformable",
        "similarity": "mind",
        "search": "full",
        "head": "brain",
        "even": False,
    }
    assert Path("out/warped_labels.nii.gz").is_file()


def test_no_affine_and_defaults(here: Path, calls: list[dict[str, Any]]) -> None:
    assert register("--no-affine") == 0
    (call,) = calls
    assert (call["affine"], call["preset"], call["device"]) == ("none", "default", "auto")
    assert (call["threads"], call["seed"]) == (None, 0)


def test_json_is_the_report_and_nothing_else(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register("--json") == 0
    captured = capfd.readouterr()
    assert captured.out == Path("out/report.json").read_text()
    assert captured.err == ""


def test_quiet_says_nothing(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register("--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_a_progress_bar_on_a_terminal_only(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert register("--json") == 0
    captured = capfd.readouterr()
    assert "writing" in captured.err
    assert json.loads(captured.out)
    assert register("--quiet", "--force") == 0
    assert capfd.readouterr().err == ""


def test_warnings_reach_the_report(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    import nibabel as nib

    image = nib.load("m.nii.gz")
    image.set_qform(np.diag([2.0, 1, 1, 1]), 1)
    nib.save(image, "m2.nii.gz")
    assert register(moving="m2.nii.gz") == 0
    assert any(
        "disagree" in line for line in json.loads(Path("out/report.json").read_text())["warnings"]
    )
    assert "disagree" in capfd.readouterr().out


def test_outputs_that_exist_need_force(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register() == 0
    Path("out/notes.txt").write_text("mine")
    old = Path("out/report.json").read_text()
    assert register() == 5
    assert "out/warped.nii.gz and 6 more exist already" in capfd.readouterr().err
    assert len(calls) == 1
    assert Path("out/report.json").read_text() == old
    assert register("--force") == 0
    assert Path("out/report.json").read_text() != old
    assert sorted(os.listdir("out"))[-2:] == ["report.json", "warped.nii.gz"]
    assert Path("out/notes.txt").read_text() == "mine"


def test_an_input_is_never_overwritten(
    here: Path, calls: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    os.rename("m.nii.gz", "warped.nii.gz")
    assert register("--force", moving="warped.nii.gz", out=".") == 5
    assert "is an input of this run" in capfd.readouterr().err


def test_an_output_folder_that_is_a_file(here: Path, calls: list[Any]) -> None:
    Path("out").touch()
    assert register() == 5
    assert calls == []


def test_a_disk_too_full_is_told_before_the_work(
    here: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    from hsyn_cli.io import atomic

    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    assert register() == 5
    assert "no space left" in capfd.readouterr().err
    assert calls == []
    assert not Path("out").exists()


def test_errors_of_the_pipeline_leave_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for error, code in (
        (DeviceError("no CUDA", "use cpu"), 7),
        (MemoryError(), 8),
        (KeyboardInterrupt(), 130),
    ):

        def broken(*images: sitk.Image, problem: BaseException = error, **options: Any) -> None:
            raise problem

        replace_pipeline(monkeypatch, broken)
        assert register("--ants-prefix", "ants/p_") == code
        assert (
            capfd.readouterr().err.lstrip("\n").startswith("error: ")
        )  # click ends the line of a ^C
        assert sorted(os.listdir(here)) == ["f.nii.gz", "m.nii.gz"]


def test_max_folding_decides_the_exit_code_and_the_files_are_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    from hsyn_cli.fields.folding import Folding

    result = fake_result()
    folded = dataclasses.replace(result.facts, folding=Folding(3, 0.5, 9, -0.2, (0.0, 0.0, 0.0)))
    replace_pipeline(monkeypatch, lambda *a, **k: dataclasses.replace(result, facts=folded))
    assert register("--max-folding", "0.5") == 0
    assert register("--max-folding", "0.4", "--force") == 9
    assert "0.5 % of the voxels fold, more than the 0.4 % allowed" in capfd.readouterr().err
    assert len(os.listdir("out")) == 7


def test_no_html_leaves_the_page_out(here: Path, calls: list[Any]) -> None:
    assert register("--no-html") == 0
    assert "page" not in json.loads(Path("out/report.json").read_text())["outputs"]
    assert not Path("out/report.html").exists()


DRIVER = """
import sys, time
from types import ModuleType
module = ModuleType("hsyn_cli.method.register")
def register(*images, **options):
    print("working", flush=True)
    time.sleep(60)
module.register = register
sys.modules["hsyn_cli.method.register"] = module
from hsyn_cli.cli import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_cleanly(here: Path, number: signal.Signals, code: int) -> None:
    arguments = ["register", "-m", "m.nii.gz", "-f", "f.nii.gz", "-o", "new/out"]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert list(Path().glob(".hsyn-*/new"))
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count("\n"), err[:7]) == (code, 1, "error: ")
    assert sorted(os.listdir(here)) == ["f.nii.gz", "m.nii.gz"]
