"""`hsyn apply-field` as it is typed: files in and out, messages, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, blocks, grid, scan, waves

from hsyn_cli.cli import run
from hsyn_cli.io import writing
from hsyn_cli.io.transforms import write_transform

FIXED, MOVING = grid("oblique"), grid("flipped", (13, 18, 11), 1.6)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images (m, f), labels (l), a series (s), w.nii.gz, a.mat, p.csv."""
    monkeypatch.chdir(tmp_path)
    writing.write_image(scan(MOVING), Path("m.nii.gz"))
    writing.write_image(blocks(MOVING), Path("l.nii.gz"))
    writing.write_image(FIXED.empty_image(sitk.sitkUInt8), Path("f.nii.gz"))
    writing.write_image(waves(FIXED), Path("w.nii.gz"))
    write_transform(AFFINE, Path("a.mat"))
    sitk.WriteImage(sitk.JoinSeries([scan(MOVING, k) for k in range(3)]), "s.nii.gz")
    Path("p.csv").write_text("x,y,z,t,label\n3,-7,11,0,1\n4,-6,10,0,2\n")
    return tmp_path


def apply(*more: str, out: str = "o.nii.gz") -> int:
    return run(["apply-field", *more, "-o", out])


def values(path: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def test_the_chain_pulls_the_image_to_the_reference(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", "-t", "a.mat", "-r", "f.nii.gz") == 0
    assert capfd.readouterr() == ("m.nii.gz -> o.nii.gz\n", "")
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage("w.nii.gz", sitk.sitkVectorFloat64))
    both = sitk.CompositeTransform([AFFINE, warp])
    expected = sitk.Resample(sitk.ReadImage("m.nii.gz"), sitk.ReadImage("f.nii.gz"), both)
    np.testing.assert_allclose(values("o.nii.gz"), sitk.GetArrayFromImage(expected), atol=1e-3)
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", "-t", "a.mat", out="two.nii.gz") == 0
    np.testing.assert_array_equal(values("two.nii.gz"), values("o.nii.gz"))
    assert apply("-i", "f.nii.gz", "-t", "[a.mat,1]", "-r", "m.nii.gz", out="back.nii.gz") == 0


def test_many_inputs_go_to_a_folder_under_their_names(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = ("-i", "m.nii.gz", "-i", "l.nii.gz", "-i", "s.nii.gz")
    assert apply(*inputs, "-t", "w.nii.gz", "-n", "nearest", "--json", out="made/out") == 0
    told = json.loads(capfd.readouterr().out)
    assert sorted(os.listdir("made/out")) == ["l.nii.gz", "m.nii.gz", "s.nii.gz"]
    assert [one["volumes"] for one in told["moved"]] == [1, 1, 3]
    assert [one["output"] for one in told["moved"]] == [f"made/out/{k}.nii.gz" for k in "mls"]
    assert [row["label"] for row in told["moved"][1]["labels"]] == [1, 2, 3, 4, 5, 6]
    assert told["transforms"][0]["path"] == "w.nii.gz"
    assert len(told["transforms"][0]["sha256"]) == 64
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", out="made/out") == 5
    assert "exists already" in capfd.readouterr().err
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", "--force", "--quiet", out="made/out") == 0
    assert capfd.readouterr() == ("", "")


def test_the_table_tells_lost_labels(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = sitk.ReadImage("l.nii.gz")
    labels[0, 0, 0] = 99
    sitk.WriteImage(labels, "l.nii.gz")
    assert apply("-i", "l.nii.gz", "-t", "w.nii.gz", "-n", "label") == 0
    captured = capfd.readouterr()
    assert "1 of 7 labels lost" in captured.out
    (row,) = [line for line in captured.out.splitlines() if line.strip().startswith("99")]
    assert row.split()[-1] == "lost"
    assert captured.err == ""


def test_points_go_forward_through_the_chain(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert apply("--points", "p.csv", "-t", "w.nii.gz", "-t", "a.mat", "--json", out="q.csv") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["moved"][0]["points"] == 2
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage("w.nii.gz", sitk.sitkVectorFloat64))
    lines = Path("q.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,t,label"
    for line, point, rest in zip(
        lines[1:], ((3.0, -7.0, 11.0), (4.0, -6.0, 10.0)), (["0", "1"], ["0", "2"]), strict=True
    ):
        cells = line.split(",")
        expected = AFFINE.TransformPoint(warp.TransformPoint(point))
        assert [float(cell) for cell in cells[:3]] == pytest.approx(expected, abs=1e-5)
        assert cells[3:] == rest


def test_landmarks_follow_the_image_by_the_inverse_chain(here: Path) -> None:
    """A bright voxel of the moving image and its point, moved by [affine,1], end at one place."""
    bright = MOVING.empty_image(sitk.sitkFloat32)
    bright[6, 9, 5] = 1000
    sitk.WriteImage(bright, "b.nii.gz")
    x, y, z = bright.TransformIndexToPhysicalPoint((6, 9, 5))
    Path("b.csv").write_text(f"x,y,z\n{x},{y},{z}\n")
    assert apply("-i", "b.nii.gz", "-t", "a.mat", "-r", "f.nii.gz") == 0
    assert apply("--points", "b.csv", "-t", "[a.mat,1]", out="q.csv") == 0
    point = [float(cell) for cell in Path("q.csv").read_text().splitlines()[1].split(",")]
    moved = sitk.ReadImage("o.nii.gz")
    weight = sitk.GetArrayFromImage(moved)
    where = np.argwhere(weight > 0)[:, ::-1]
    centre = FIXED.points((where * weight[weight > 0][:, None]).sum(0) / weight.sum())
    assert np.abs(centre - point).max() < 1.0
    assert np.abs(centre - [x, y, z]).max() > 1.5


def test_warnings_go_to_stderr(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", "-r", "m.nii.gz") == 0
    captured = capfd.readouterr()
    assert "% of the reference lies outside the grid of w.nii.gz" in captured.err
    assert captured.out == "m.nii.gz -> o.nii.gz\n"


def bad_calls() -> dict[str, tuple[int, str, Callable[[], list[str]]]]:
    """Name -> (exit code, part of the error line, what makes the files and gives the arguments)."""

    def far() -> list[str]:
        sitk.WriteTransform(sitk.TranslationTransform(3, (900.0, 0.0, 0.0)), "far.tfm")
        return ["-i", "m.nii.gz", "-t", "far.tfm", "-r", "f.nii.gz"]

    def nan() -> list[str]:
        field = waves(FIXED)
        field[1, 2, 3] = (0.0, float("nan"), 0.0)
        sitk.WriteImage(field, "nan.nii.gz")
        return ["-i", "m.nii.gz", "-t", "nan.nii.gz"]

    def no_intent() -> list[str]:
        import nibabel as nib

        file = nib.load("w.nii.gz")
        file.header["intent_code"] = 0
        nib.save(nib.Nifti1Image(np.asanyarray(file.dataobj), None, file.header), "plain.nii.gz")
        return ["-i", "m.nii.gz", "-t", "plain.nii.gz"]

    def points(text: str) -> Callable[[], list[str]]:
        def make() -> list[str]:
            Path("bad.csv").write_text(text)
            return ["--points", "bad.csv", "-t", "a.mat"]

        return make

    def twins() -> list[str]:
        Path("sub").mkdir()
        return ["-i", "m.nii.gz", "-i", "sub/m.nii.gz", "-t", "w.nii.gz"]

    image = ["-i", "m.nii.gz"]
    return {
        "scalar field": (3, "is not a displacement field", lambda: [*image, "-t", "m.nii.gz"]),
        "no intent": (3, "does not say what its vectors are", no_intent),
        "NaN in a field": (3, "nan.nii.gz holds 1 NaN", nan),
        "no meeting": (4, "wholly outside the image m.nii.gz", far),
        "missing image": (
            3,
            "image none.nii: no such file",
            lambda: ["-i", "none.nii", "-t", "w.nii.gz"],
        ),
        "missing reference": (
            3,
            "reference image none.nii",
            lambda: [*image, "-t", "a.mat", "-r", "none.nii"],
        ),
        "no reference": (2, "--reference is missing", lambda: [*image, "-t", "a.mat"]),
        "inverse of a field": (2, "only linear transforms", lambda: [*image, "-t", "[w.nii.gz,1]"]),
        "fractional labels": (3, "fractional", lambda: [*image, "-t", "w.nii.gz", "-n", "label"]),
        "columns": (3, "bad.csv has no column z", points("x,y\n1,2\n")),
        "text": (3, "bad.csv line 2, column y: 'b'", points("x,y,z\n1,b,3\n")),
        "both": (2, "in one call", lambda: [*image, "--points", "p.csv", "-t", "a.mat"]),
        "nothing": (2, "nothing to move", lambda: ["-t", "a.mat"]),
        "twins": (2, "two inputs are called m.nii.gz", twins),
        "itself": (5, "is an input of this run", lambda: ["-i", "new.nii.gz", "-t", "w.nii.gz"]),
        "vectors": (2, "--reorient", lambda: [*image, "-t", "w.nii.gz", "--reorient"]),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_a_bad_call_gives_one_line_its_code_and_leaves_nothing(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, text, make = bad_calls()[name]
    arguments = make()
    before = sorted(os.listdir(here))
    assert apply(*arguments, out="new.csv" if "bad.csv" in arguments else "new.nii.gz") == code
    captured = capfd.readouterr()
    first, *rest = captured.err.splitlines()
    assert first.startswith("error: ")
    assert text in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert captured.out == ""
    assert sorted(os.listdir(here)) == before


def test_a_transform_must_be_given(here: Path) -> None:
    assert apply("-i", "m.nii.gz") == 2
    assert apply("-i", "m.nii.gz", "-t", "w.nii.gz", "-n", "cubic") == 2
