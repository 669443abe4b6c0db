"""`hsyn ants register` beside antsRegistration, called as antsRegistrationSyN.sh calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, voxel_points
from stand_ins import fake_result, grid_image, replace_pipeline

from hsyn_cli.cli import run
from hsyn_cli.cli.ants.words import KINDS
from hsyn_cli.space import Array, Grid, affine_parts

ROOT = Path(__file__).parents[1]
LINEAR = {"0GenericAffine.mat", "Warped.nii.gz", "InverseWarped.nii.gz"}
ALL = LINEAR | {"1Warp.nii.gz", "1InverseWarp.nii.gz"}
SHIFT = (2.0, -1.0, 1.0)  # mm, from fixed to moving
SCRIPT = """
set -e
fixed=f.nii.gz; moving=m.nii.gz; out=reg/sub1_
mkdir -p reg
antsRegistrationSyNQuick.sh -d 3 -f $fixed -m $moving -o $out -t s -n 1 -j 1 -p f
antsApplyTransforms -d 3 -i m_seg.nii.gz -r $fixed -o seg_f.nii.gz -n NearestNeighbor \\
    -t ${out}1Warp.nii.gz -t ${out}0GenericAffine.mat -u uchar
antsApplyTransforms -d 3 -i seg_f.nii.gz -r $moving -o seg_m.nii.gz -n GenericLabel[Linear] \\
    -t [ ${out}0GenericAffine.mat, 1 ] -t ${out}1InverseWarp.nii.gz
antsApplyTransforms -d 3 -i $moving -r $fixed -o [ total.nii.gz, 1 ] -v 1 \\
    -t ${out}1Warp.nii.gz ${out}0GenericAffine.mat
"""


def body(at: Grid, shift: tuple[float, ...]) -> tuple[sitk.Image, sitk.Image]:
    """An ellipsoid with a pattern, and its two halves as labels."""
    x, y, z = np.moveaxis(voxel_points(at) - shift, -1, 0)
    inside = (x / 20) ** 2 + (y / 15) ** 2 + (z / 12) ** 2 < 1
    values = 100 * inside * (1 + 0.5 * np.sin(x / 4) * np.cos(y / 5))
    labels = inside * np.where(x < 0, 1, 2)
    image = at.stamp(sitk.GetImageFromArray(values.astype(np.float32)))
    return (
        at.stamp(sitk.SmoothingRecursiveGaussian(image, 1.5)),
        at.stamp(sitk.GetImageFromArray(labels.astype(np.uint8))),
    )


FIXED = Grid((24, 22, 19), (2.7, 2.5, 2.4), (-30.0, -25.0, -20.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
MOVING = Grid((23, 22, 20), (2.8, 2.5, 2.3), (32.0, -26.0, -21.0), DIRECTIONS["flipped"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for name, at, shift in (("f", FIXED, (0.0, 0.0, 0.0)), ("m", MOVING, SHIFT)):
        image, labels = body(at, shift)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        sitk.WriteImage(labels, str(folder / f"{name}_seg.nii.gz"))
    return folder


def register(*words: str) -> int:
    return run(["ants", "register", "-d", "3", "-f", "f.nii.gz", "-m", "m.nii.gz", *words])


def by_ants(kind: str, prefix: str) -> int:
    """antsRegistration as the script calls it, but with few iterations."""
    from ants.internal import get_lib_fn

    stages = {
        "t": ["Translation[0.1]"], "r": ["Rigid[0.1]"], "a": ["Rigid[0.1]", "Affine[0.1]"],
        "s": ["Rigid[0.1]", "Affine[0.1]", "SyN[0.1,3,0]"], "sr": ["Rigid[0.1]", "SyN[0.1,3,0]"],
        "so": ["SyN[0.1,3,0]"],
    }[kind]  # fmt: skip
    start = "Identity" if kind == "so" else "[f.nii.gz,m.nii.gz,1]"
    words = ["-d", "3", "--initial-moving-transform", start, "--interpolation", "Linear"]
    words += ["--output", f"[{prefix},{prefix}Warped.nii.gz,{prefix}InverseWarped.nii.gz]"]
    for stage in stages:
        words += ["--transform", stage, "--metric", "MI[f.nii.gz,m.nii.gz,1,32,Regular,0.25]"]
        words += ["--convergence", "[5x0,1e-6,10]", "--shrink-factors", "2x1"]
        words += ["--smoothing-sigmas", "1x0vox"]
    return int(get_lib_fn("antsRegistration")([*words, "--collapse-output-transforms", "1"]))


def files(prefix: str) -> set[str]:
    return {name[len(prefix) :] for name in os.listdir() if name.startswith(prefix)}


@pytest.mark.parametrize("kind", KINDS)
def test_files_grids_and_directions_are_those_of_ants(
    kind: str, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ants.internal import get_lib_fn

    monkeypatch.chdir(pair)
    mine, other = f"h_{kind}_", f"a_{kind}_"
    assert by_ants(kind, other) == 0
    assert register("-t", kind, "-o", mine, "--preset", "fast", "--quiet") == 0
    assert files(mine) == files(other) == (ALL if KINDS[kind].transform == "deformable" else LINEAR)
    for name in files(mine):
        if name.endswith(".mat"):
            matrix, shift = affine_parts(sitk.ReadTransform(mine + name))
            expected = (0, 0, 0) if kind == "so" else SHIFT
            np.testing.assert_allclose(matrix @ np.zeros(3) + shift, expected, atol=0.8)
            check_kind(kind, matrix)
            continue
        one, two = sitk.ReadImage(mine + name), sitk.ReadImage(other + name)
        assert Grid.of(one).same_as(Grid.of(two))
        assert one.GetNumberOfComponentsPerPixel() == two.GetNumberOfComponentsPerPixel()
    apply = get_lib_fn("antsApplyTransforms")
    warps = files(mine) >= ALL
    there = [*([f"{mine}1Warp.nii.gz"] if warps else []), f"{mine}0GenericAffine.mat"]
    back = [f"[{mine}0GenericAffine.mat,1]", *([f"{mine}1InverseWarp.nii.gz"] if warps else [])]
    for image, like, chain, name in (
        ("m", "f", there, "Warped.nii.gz"), ("f", "m", back, "InverseWarped.nii.gz")
    ):  # fmt: skip
        given = [word for path in chain for word in ("-t", path)]
        words = ["-d", "3", "-i", f"{image}.nii.gz", "-r", f"{like}.nii.gz", *given]
        assert apply([*words, "-o", "moved.nii.gz"]) == 0
        theirs, ours = (
            sitk.GetArrayFromImage(sitk.ReadImage(p)) for p in ("moved.nii.gz", mine + name)
        )
        assert np.percentile(np.abs(theirs - ours), 99) < 0.01 * np.ptp(ours)


def check_kind(kind: str, matrix: Array) -> None:
    if kind in ("t", "so"):
        np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)
    elif kind in ("r", "sr"):
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)
    else:
        assert np.abs(matrix.T @ matrix - np.eye(3)).max() > 1e-4


@pytest.mark.slow
def test_a_script_for_ants_runs_with_one_word_changed(pair: Path, tmp_path: Path) -> None:
    for path in pair.glob("?*.nii.gz"):
        if path.name in ("f.nii.gz", "m.nii.gz", "m_seg.nii.gz"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    program = tmp_path / "bin" / "hsyn"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hsyn_cli "$@"\n')
    program.chmod(0o755)
    script = SCRIPT.replace("antsRegistrationSyNQuick.sh", "hsyn ants register")
    script = script.replace("antsApplyTransforms", "hsyn ants apply")
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    place = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    shell = ["/bin/sh", "-c", script]
    done = subprocess.run(shell, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: ") == 2
    assert "-j, -p" in done.stderr
    assert "say nothing of transforms" in done.stderr  # -i beside a chain as a field
    assert {name.name.removeprefix("sub1_") for name in (tmp_path / "reg").iterdir()} == ALL
    seg, target = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in (tmp_path / "seg_f.nii.gz", pair / "f_seg.nii.gz")
    )
    assert seg.dtype == np.uint8
    for label in (1, 2):
        a, b = seg == label, target == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
    total = sitk.ReadImage(str(tmp_path / "total.nii.gz"))
    assert Grid.of(total).same_as(FIXED)
    middle = sitk.GetArrayFromImage(total)[9, 11, 12]
    np.testing.assert_allclose(middle, SHIFT, atol=0.8)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the pipeline whose problems can be set, and how it was called."""
    seen: list[dict[str, Any]] = []

    def stand_in(moving: Any, fixed: Any, **options: Any) -> Any:
        seen.append({"moving": moving, "fixed": fixed, **options})
        result = fake_result()
        problems = ("they lie apart",) if os.environ.get("APART") else ()
        return replace(result, facts=replace(result.facts, problems=problems))

    replace_pipeline(monkeypatch, stand_in)
    for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "ANTS_RANDOM_SEED", "APART"):
        monkeypatch.delenv(name, raising=False)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_flags_ask_of_hsyn(kind: str, here: Path, near: list[dict[str, Any]]) -> None:
    mask = sitk.ReadImage("f.nii.gz") > -100
    sitk.WriteImage(mask, "x.nii.gz")
    sitk.WriteImage(sitk.ReadImage("m.nii.gz") > -100, "y.nii.gz")
    start = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(start, "i.tfm")
    words = ("-t", kind, "-x", "x.nii.gz,y.nii.gz", "-n", "3", "-e", "5", "-i", "i.tfm", "-i")
    assert register(*words, "[i.tfm, 1]", "-o", "o/p_", "-z", "1", "--quiet") == 0
    (call,) = near
    asked = KINDS[kind]
    assert (call["transform"], call["affine"]) == (asked.transform, asked.affine)
    assert (call["threads"], call["seed"]) == (3, 5)
    assert call["fixed_mask"] is not None
    assert call["moving_mask"] is not None
    assert call["initial_transform"].TransformPoint((4, 5, 6)) == (4, 5, 6)
    made = {name.removeprefix("p_") for name in os.listdir("o")}
    assert made == (ALL if asked.transform == "deformable" else LINEAR)


def test_several_channels_and_the_environment_of_ants(
    here: Path, near: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "2")
    monkeypatch.setenv("ANTS_RANDOM_SEED", "7")
    assert register("-f", "m.nii.gz", "-m", "f.nii.gz", "--quiet") == 0
    (call,) = near
    assert (call["threads"], call["seed"], call["initial_transform"]) == (2, 7, None)
    assert len(call["moving"]) == len(call["fixed"]) == 2
    assert files("output") == ALL  # the prefix of the script


def test_the_table_the_note_and_the_report(
    here: Path, near: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert register("-o", "p_", "-r", "4", "-s", "26", "-g", "0.1", "-j", "1", "-pf", "-y1") == 0
    captured = capfd.readouterr()
    assert captured.err.count("note: ") == 1
    assert "-r, -s, -g, -j, -p, -y" in captured.err
    assert "p_*" in captured.out
    assert "report" not in captured.out
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), "i.tfm")
    words = ("-i", "i.tfm", "-i", "[i.tfm,1]", "--report", "seen")
    assert register("-t", "r", "-o", "q_", *words) == 0
    assert sorted(os.listdir("seen")) == ["report.html", "report.json"]
    assert capfd.readouterr().err == ""
    report = json.loads(Path("seen/report.json").read_text())
    assert set(report["inputs"]) == {
        "moving", "fixed", "initial_transform", "initial_transform_2"
    }  # fmt: skip
    assert "GenericAffine.mat" in report["apply"]["antsApplyTransforms"]
    assert set(report["outputs"]) == {
        "ants_affine", "ants_warped", "ants_inverse_warped", "page", "report"
    }  # fmt: skip


def test_the_verdict_decides_and_the_files_are_there(
    here: Path, near: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("APART", "1")
    assert register("-o", "p_", "--quiet") == 10
    assert "do not trust this result: they lie apart" in capfd.readouterr().err
    assert files("p_") == ALL
    assert register("-o", "p_", "--quiet", "--on-failure", "warn") == 0


def test_a_report_removes_nothing_of_an_earlier_run(here: Path, near: list[dict[str, Any]]) -> None:
    pair = ("-m", "m.nii.gz", "-f", "f.nii.gz")
    assert run(["register", *pair, "-o", "seen", "--quiet"]) == 0
    before = set(os.listdir("seen"))
    assert {"affine.mat", "forward_field.nii.gz", "warped.nii.gz"} < before
    assert register("-o", "p_", "--report", "seen", "--quiet") == 0
    assert set(os.listdir("seen")) == before
    assert "ants_affine" in json.loads(Path("seen/report.json").read_text())["outputs"]


def test_the_report_tells_the_direction_of_the_starts(
    here: Path, near: list[dict[str, Any]]
) -> None:
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, 0, 0), "r.mat")

    def starts(*words: str) -> list[dict[str, Any]]:
        typed = [word for start in words for word in ("-i", start)]
        assert register("-t", "r", "-o", "p_", "--report", "seen", "--quiet", *typed) == 0
        inputs = json.loads(Path("seen/report.json").read_text())["inputs"]
        return [inputs[name] for name in sorted(inputs) if name.startswith("initial")]

    plain, turned = starts("r.mat", "[r.mat,1]")
    assert turned == {**plain, "inverse": True}
    assert starts("[r.mat,1]") == [turned]
    assert "r.mat, inverted" in Path("seen/report.html").read_text()
    assert starts("Identity") == starts("[Identity,1]") == [{"path": "identity", "sha256": ""}]
    assert starts() == []


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("antsRegistrationSyN.sh", "register"),
        ("antsRegistrationSyNQuick.sh", "register"),
        ("antsRegistration", "register with the flags of antsRegistrationSyN.sh"),
        ("antsApplyTransforms", "apply"),
    ],
)
def test_programs_of_ants_lead_to_the_commands(
    typed: str, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["ants", typed, "-d", "3"]) == 2
    told = capfd.readouterr().err
    assert f"no command {typed}" in told
    assert f"give hsyn ants {word}" in told


REFUSED = {
    "a spline": (2, "-t b: hsyn has no B-spline SyN", ["-t", "b"]),
    "apart": (2, "-z 0: hsyn always writes one affine", ["-z", "0"]),
    "unknown": (2, "No such option '-w'", ["-w", "1"]),
    "a word too many": (2, "unexpected extra argument", ["-t", "r", "x"]),
    "another dimension": (3, "f.nii.gz is 3-D, not 2-D", ["-d", "2"]),
    "a form of antsRegistration": (2, "-o [a,b,c] is a form", ["-o", "[a,b,c]"]),
    "more fixed images": (2, "1 moving and 2 fixed images", ["-f", "m.nii.gz"]),
    "a scale for a rotation": (2, "is no rigid transform", ["-t", "sr", "-i", "scale.tfm"]),
    "a rotation for a shift": (2, "is no translation", ["-t", "t", "-i", "turn.tfm"]),
    "a field to start": (3, "is not linear", ["-i", "field.nii.gz"]),
    "no start": (3, "none.mat: no such file", ["-i", "none.mat"]),
    "a mask of another grid": (4, "lies on another grid", ["-x", "other.nii.gz"]),
    "stages": (2, "-x is given 2 times", ["-x", "f.nii.gz", "-x", "f.nii.gz"]),
    "centres and a start": (2, "beside another", ["-i", "[f.nii.gz,m.nii.gz,1]", "-i", "turn.tfm"]),
    "two images": (2, "-i [f.nii.gz,m.nii.gz] is neither", ["-i", "[f.nii.gz,m.nii.gz]"]),
    "no number": (2, "give 0, or 1 to invert", ["-i", "[turn.tfm,true]"]),
    "an open bracket": (2, "[turn.tfm,1: the bracket is not", ["-i", "[turn.tfm,1", "-t", "r"]),
    "a report in a file": (2, "--report w.nii.gz: w.nii.gz is the name", ["--report", "w.nii.gz"]),
    "a file for a folder": (2, "-o f.nii.gz/x_: f.nii.gz is the name", ["-o", "f.nii.gz/x_"]),
    "a file for a prefix": (2, "-o w.nii.gz is the name of a file", ["-o", "w.nii.gz"]),
    "long flags": (2, "--dimensionality belongs to antsReg", ["--dimensionality", "3"]),
    "stages of antsRegistration": (2, "give the line of antsRegistrationSyN", ["-t", "Rigid[0.1]"]),
    "itself": (5, "is an input", ["-i", "p_0GenericAffine.mat"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(
    name: str, here: Path, near: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    sitk.WriteTransform(sitk.ScaleTransform(3, (1.1, 1, 1)), "scale.tfm")
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, 0, 0), "turn.tfm")
    sitk.WriteTransform(sitk.AffineTransform(3), "p_0GenericAffine.mat")
    sitk.WriteImage(grid_image((7, 9, 5), 1, vector=True), "field.nii.gz")
    sitk.WriteImage(grid_image((6, 8, 11), 1), "other.nii.gz")
    code, text, words = REFUSED[name]
    before = sorted(os.listdir())
    assert register("-o", "p_", "--quiet", *words) == code
    captured = capfd.readouterr()
    assert text in captured.err
    assert captured.out == ""
    assert sorted(os.listdir()) == before
    assert near == []
