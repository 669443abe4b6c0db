"""`hsyn compose` as it is typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, grid, waves

from hsyn_cli.cli import run
from hsyn_cli.io import images, writing
from hsyn_cli.io.transforms import read_transform, write_transform

FIXED, OTHER = grid("oblique"), grid("sagittal", (9, 8, 10), 1.1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the field w.nii.gz on FIXED, a.mat and r.nii.gz on OTHER."""
    monkeypatch.chdir(tmp_path)
    writing.write_image(waves(FIXED), Path("w.nii.gz"))
    writing.write_image(OTHER.empty_image(sitk.sitkUInt8), Path("r.nii.gz"))
    write_transform(AFFINE, Path("a.mat"))
    return tmp_path


def test_one_field_does_what_the_chain_did_here_and_in_ants(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ants

    assert (
        run(["compose", "-t", "w.nii.gz", "-t", "[a.mat,1]", "-r", "r.nii.gz", "-o", "o.nii.gz"])
        == 0
    )
    captured = capfd.readouterr()
    assert captured.out == "2 transforms -> o.nii.gz\n"
    total = images.read_field(Path("o.nii.gz")).image
    writing.write_image(sitk.VectorIndexSelectionCast(waves(FIXED, seed=3), 0), Path("m.nii.gz"))
    fixed, moving = (ants.image_read(name) for name in ("r.nii.gz", "m.nii.gz"))
    chain = ants.apply_transforms(
        fixed.clone("float"), moving, ["w.nii.gz", "a.mat"], whichtoinvert=[False, True]
    )
    once = ants.apply_transforms(fixed.clone("float"), moving, ["o.nii.gz"])
    assert np.abs(chain.numpy() - once.numpy()).max() < 1e-3
    assert chain.numpy().std() > 0.1
    made = ants.apply_transforms(
        fixed,
        moving,
        ["w.nii.gz", "a.mat"],
        whichtoinvert=[False, True],
        compose=str(here / "theirs_"),
    )
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(made))
    assert np.abs(sitk.GetArrayFromImage(total) - theirs).max() < 1e-4


def test_a_linear_chain_becomes_a_transform_file(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("o.mat", "o.tfm", "o.txt", "o.h5"):
        assert (
            run(["compose", "-t", "a.mat", "-t", "[a.mat,1]", "-t", "a.mat", "-o", name, "--quiet"])
            == 0
        )
        read = read_transform(Path(name)).transform
        assert read.TransformPoint((1, 2, 3)) == pytest.approx(
            AFFINE.TransformPoint((1, 2, 3)), abs=1e-5
        )
    assert capfd.readouterr() == ("", "")
    assert run(["compose", "-t", "w.nii.gz", "-t", "a.mat", "-o", "p.mat"]) == 2
    assert "w.nii.gz is not linear" in capfd.readouterr().err
    assert not Path("p.mat").exists()


def test_the_share_outside_and_json(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["compose", "-t", "w.nii.gz", "-t", "a.mat", "-r", "r.nii.gz", "-o", "o.nii.gz"]) == 0
    )
    assert capfd.readouterr().err == ""
    wide = grid("RAS", (40, 40, 40))
    writing.write_image(wide.empty_image(sitk.sitkUInt8), Path("wide.nii.gz"))
    assert run(["compose", "-t", "w.nii.gz", "-r", "wide.nii.gz", "-o", "q.nii.gz", "--json"]) == 0
    captured = capfd.readouterr()
    told = json.loads(captured.out)
    assert captured.err == ""
    assert "of the reference lies outside the grid of w.nii.gz" in told["warnings"][0]
    inside = FIXED.contains(
        np.stack([wide.points(np.array(index, float)) for index in np.ndindex(*wide.size)])
    ).mean()
    assert float(told["warnings"][0].split()[0]) == pytest.approx(100 * (1 - inside), rel=0.05)
    field = sitk.GetArrayFromImage(sitk.ReadImage("q.nii.gz"))
    assert (field[0, 0, 0] == 0).all()
    assert told["transforms"][0]["inverse"] is False


def test_what_cannot_be_composed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir())
    sitk.WriteTransform(sitk.TranslationTransform(3, (900.0, 0.0, 0.0)), "far.tfm")
    for arguments, code, text in (
        (["-t", "a.mat", "-o", "o.nii.gz"], 2, "--reference is missing"),
        (
            ["-t", "far.tfm", "-t", "w.nii.gz", "-r", "r.nii.gz", "-o", "o.nii.gz"],
            4,
            "wholly outside the grid",
        ),
        (["-t", "none.mat", "-o", "o.mat"], 3, "no such file"),
        (["-t", "a.mat", "-o", "a.mat"], 5, "is an input of this run"),
        (
            ["-t", "a.mat", "-r", "r.nii.gz", "-o", "r.nii.gz", "--force"],
            5,
            "is an input of this run",
        ),
    ):
        assert run(["compose", *arguments]) == code
        first, *rest = capfd.readouterr().err.splitlines()
        assert text in first
        assert [line[:6] for line in rest] == ["hint: "]
    assert sorted(os.listdir()) == sorted([*before, "far.tfm"])
