"""`hsyn evaluate`: from files, an output folder or a CSV of pairs to table, CSV and JSON."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import GRIDS, field_image

from hsyn_cli.cli import run
from hsyn_cli.results.pairs import FILES, pair_of, pairs_of
from hsyn_cli.results.report import keys

GRID = GRIDS["oblique"]
LABELS = ["--fixed-labels", "fl.nii.gz", "--moving-labels", "ml.nii.gz"]
ONE = ["--forward", "forward_field.nii.gz", "--fixed", "f.nii.gz"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images, labels, fields, landmarks, and a report.json of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("f", "m"):
        values = rng.random(GRID.size[::-1]).astype(np.float32)
        sitk.WriteImage(GRID.stamp(sitk.GetImageFromArray(values)), f"{name}.nii.gz")
        labels = rng.integers(0, 5, GRID.size[::-1]).astype(np.uint8)
        sitk.WriteImage(GRID.stamp(sitk.GetImageFromArray(labels)), f"{name}l.nii.gz")
    for name, sign in (("forward", 1), ("inverse", -1)):
        image = field_image(GRID, np.full((*GRID.size[::-1], 3), 0.5 * sign))
        sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), f"{name}_field.nii.gz")
    start = GRID.points(np.array([3.0, 4, 2]))
    row = ",".join(f"{v:.6f}" for v in (*start, *(start + 0.5 + np.array([0, 3, 4]))))
    Path("points.csv").write_text(f"fx,fy,fz,mx,my,mz\n{row}\n")
    inputs = {name: {"path": f"{key}.nii.gz"} for name, key in (("fixed", "f"), ("moving", "m"))}
    report = dict.fromkeys(keys()) | {
        "outputs": {"forward_field": "", "inverse_field": ""},
        "schema_version": 1,
        "inputs": inputs | {"moving_labels": {"path": "ml.nii.gz"}},
    }
    Path("report.json").write_text(json.dumps(report))
    return tmp_path


def test_one_pair_as_a_table(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [
        "--inverse",
        "inverse_field.nii.gz",
        "--landmarks",
        "points.csv",
        "--moving",
        "m.nii.gz",
    ]
    assert run(["evaluate", *ONE, *LABELS, *options]) == 0
    out = capfd.readouterr().out
    for text in (
        "Dice, mean",
        "HD95, mean",
        "landmarks, after",
        "mean 5.00",
        "SDlogJ",
        "inverse error",
        "label",
    ):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80
    assert run(["evaluate", *ONE]) == 0
    out = capfd.readouterr().out
    assert "folding, forward" in out
    assert "Dice" not in out


def test_an_output_folder_knows_its_files(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", ".", "--json"]) == 0
    (told,) = json.loads(capfd.readouterr().out)["pairs"]
    assert told["inverse_error"]["max_mm"] < 1e-4
    assert told["labels"] is None
    assert (
        run(["evaluate", ".", "--fixed-labels", "fl.nii.gz", "--json-file=o.json", "--quiet"]) == 0
    )
    assert capfd.readouterr() == ("", "")
    (told,) = json.loads(Path("o.json").read_text())["pairs"]
    assert [row["label"] for row in told["labels"]] == [1, 2, 3, 4]
    assert told["dice"] == pytest.approx(np.mean([row["dice"] for row in told["labels"]]))


def test_a_csv_of_pairs(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("sub").mkdir()
    Path("sub/pairs.csv").write_text(
        "name,forward,fixed,fixed_labels,moving_labels,landmarks\n"
        "a,../forward_field.nii.gz,../f.nii.gz,../fl.nii.gz,../ml.nii.gz,\n"
        "b,../inverse_field.nii.gz,../f.nii.gz,,,../points.csv\n"
    )
    options = ["--csv", "s.csv", "--json-file", "s.json", "--ignore", "2,3-4"]
    assert run(["evaluate", "--pairs", "sub/pairs.csv", *options]) == 0
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["pair", "a", "b", "mean"]
    with open("s.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows[0]) == len(
        Path("s.csv").read_text().splitlines()[0].split(",")
    )  # no name twice
    assert float(rows[0]["dice"]) == float(rows[0]["mean_dice"]) > 0
    assert [(row["pair"], row["label"]) for row in rows] == [("a", "1"), ("b", "")]
    assert (rows[0]["tre_after_mean_mm"], rows[1]["dice"]) == ("", "")
    assert float(rows[1]["tre_before_mean_mm"]) > 0
    told = json.loads(Path("s.json").read_text())["pairs"]
    assert [pair["name"] for pair in told] == ["a", "b"]
    assert float(rows[0]["sdlogj"]) == pytest.approx(told[0]["sdlogj"])
    assert run(["evaluate", "--pairs", "sub/pairs.csv", "--csv", "s.csv"]) == 5


def test_files_of_a_pair_are_named_as_the_options() -> None:
    from hsyn_cli.cli.commands.evaluate import COMMAND

    options = {parameter.name for parameter in COMMAND.params}
    assert set(FILES) <= options


def test_paths_are_relative_to_the_csv_and_the_folder(here: Path) -> None:
    Path("sub").mkdir()
    Path("p.csv").write_text("forward,fixed\nx/a.nii,b.nii\n")
    (pair,) = pairs_of(Path("sub/../p.csv"))
    assert (pair.name, pair.forward) == ("row 1", Path("sub/../x/a.nii"))
    given = pair_of({"fixed": Path("other.nii")}, Path())
    assert (given.fixed, given.moving, given.forward) == (
        Path("other.nii"),
        Path("m.nii.gz"),
        Path("forward_field.nii.gz"),
    )


def test_bad_input_gives_one_line_and_its_code(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("less.csv").write_text("fx,fy,fz,mx,my\n1,2,3,4,5\n")
    Path("text.csv").write_text("fx,fy,fz,mx,my,mz\n1,2,3,4,5,6\n1,2,3,4,five,6\n")
    Path("none.csv").write_text("fx,fy,fz,mx,my,mz\n")
    Path("odd.csv").write_text("forward,fixed,colour\na,b,c\n")
    Path("lack.csv").write_text("name,forward,fixed\na,x,y\nb,,f.nii.gz\n")
    Path("twice.csv").write_text("name,forward,fixed\na,x,y\na,x,y\n")
    sitk.WriteImage(sitk.Image([5, 5, 5], sitk.sitkUInt8), "small.nii.gz")
    before = sorted(os.listdir())
    for code, text, arguments in (
        (2, "without a forward field", []),
        (2, "without a forward field", ["--forward", "forward_field.nii.gz"]),
        (2, "labels of one image alone", [*ONE, "--fixed-labels", "fl.nii.gz"]),
        (2, "--pairs stands alone", ["--pairs", "odd.csv", *ONE]),
        (2, "b: nothing to evaluate", ["--pairs", "lack.csv"]),
        (3, "empty is not an output folder", ["empty"]),
        (3, "f.nii.gz is not an output folder", ["f.nii.gz"]),
        (3, "no column mz", [*ONE, "--landmarks", "less.csv"]),
        (3, "row 2: my is 'five', no number", [*ONE, "--landmarks", "text.csv"]),
        (3, "no rows", [*ONE, "--landmarks", "none.csv"]),
        (3, "unknown column colour", ["--pairs", "odd.csv"]),
        (3, "two rows are named a", ["--pairs", "twice.csv"]),
        (3, "is not a displacement field", ["--forward", "f.nii.gz", "--fixed", "f.nii.gz"]),
        (
            3,
            "holds fractional values",
            [*ONE, "--fixed-labels", "f.nii.gz", "--moving-labels", "ml.nii.gz"],
        ),
        (
            4,
            "another grid",
            [*ONE, "--fixed-labels", "small.nii.gz", "--moving-labels", "ml.nii.gz"],
        ),
        (5, "is an input of this run", [*ONE, "--csv", "f.nii.gz", "--force"]),
    ):
        assert run(["evaluate", *arguments]) == code, text
        captured = capfd.readouterr()
        first, *rest = captured.err.splitlines()
        assert first.startswith("error: ")
        assert text in first
        assert [line[:6] for line in rest] == ["hint: "]
        assert sorted(os.listdir()) == before
    assert run(["evaluate", *ONE, "--ignore", "1,x"]) == 2
    assert "'x' is no whole number" in capfd.readouterr().err
