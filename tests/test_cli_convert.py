"""`hsyn convert`: forms by name, images for their grids, exit codes, nothing half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import GRIDS, field_image

from hsyn_cli.cli import run
from hsyn_cli.space import Grid

GRID = GRIDS["oblique"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with field.nii.gz and the images f.nii.gz, m.nii.gz."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(0, 5, (*GRID.size[::-1], 3)).astype(np.float32)
    sitk.WriteImage(sitk.Cast(field_image(GRID, values), sitk.sitkVectorFloat32), "field.nii.gz")
    sitk.WriteImage(GRID.empty_image(sitk.sitkUInt8), "f.nii.gz")
    series = [
        Grid((6, 7, 8), (1.0, 2.0, 3.0), (0.0, 1.0, 2.0), GRID.direction).empty_image(
            sitk.sitkInt16
        )
    ] * 2
    sitk.WriteImage(sitk.JoinSeries(series), "m.nii.gz")  # 4-D: its grid is all that is asked of it
    return tmp_path


def values(path: str) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(path)))


def test_to_numpy_and_back(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "field.nii.gz", "d.npz"]) == 0
    out = capfd.readouterr().out
    assert "field, itk to voxel: d.npz" in out
    assert "read back it differs by at most" in out
    assert run(["convert", "d.npz", "again.nii.gz", "--reference", "f.nii.gz", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["source_form"], told["target_form"], told["content"]) == ("voxel", "itk", "field")
    assert told["difference_mm"] <= told["allowed_mm"]
    np.testing.assert_allclose(values("again.nii.gz"), values("field.nii.gz"), atol=1e-5)


def test_to_fsl_with_a_series_as_the_moving_image(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--moving", "m.nii.gz", "--quiet"]
    assert run(["convert", "field.nii.gz", "w.nii.gz", "--to", "fsl", *options]) == 0
    assert run(["convert", "w.nii.gz", "again.nii.gz", *options]) == 0
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(values("again.nii.gz"), values("field.nii.gz"), atol=1e-4)


def test_errors_have_their_codes_and_leave_nothing(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir())
    for code, text, arguments in (
        (2, "moving image's grid", ["field.nii.gz", "w.nii.gz", "--to", "fsl"]),
        (2, "is written as", ["field.nii.gz", "w.png"]),
        (3, "is not a displacement field", ["f.nii.gz", "w.nii.gz"]),
        (3, "no such file", ["none.nii.gz", "w.nii.gz"]),
        (
            3,
            "reference image none.nii: no such file",
            ["field.nii.gz", "w.npz", "--reference", "none.nii"],
        ),
        (5, "is an input of this run", ["field.nii.gz", "field.nii.gz", "--force"]),
        (5, "exists already", ["field.nii.gz", "f.nii.gz"]),
    ):
        assert run(["convert", *arguments]) == code
        captured = capfd.readouterr()
        first, *rest = captured.err.splitlines()
        assert first.startswith("error: ")
        assert text in first
        assert [line[:6] for line in rest] == ["hint: "]
        assert sorted(os.listdir()) == before
    assert run(["convert", "field.nii.gz", "f.nii.gz", "--force"]) == 0
    np.testing.assert_array_equal(values("f.nii.gz"), values("field.nii.gz"))
