"""examples/regions.py: what it tells of each region, and the picture of the worst."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_regions_are_told_by_name_both_sides_as_one_and_the_worst_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[3:7, 3:9, 3:6], labels[3:7, 3:9, 6:9], labels[8:10, 3:9, 3:9] = 1, 2, 100
    for side, array in (("moving", np.roll(labels, 1, axis=0)), ("fixed", labels)):
        for name in (side, f"{side}_labels"):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ("index", "name", "ignore"),
                (1, "Left Box", False),
                (2, "Right Box", False),
                (100, "Lid", False),
            ]
        )
    columns = ("moving", "fixed", "moving_labels", "fixed_labels")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        ",".join(columns) + "\n" + ",".join(f"{name}.nii.gz" for name in columns) + "\n"
    )
    for method, shift in (("default", 0.0), ("greedy", 1.0)):  # greedy's is the true field
        out = tmp_path / "kept" / f"1-{method}" / "out"
        out.mkdir(parents=True)
        field = np.zeros((12, 12, 12, 3))
        field[..., 2] = shift
        sitk.WriteImage(
            sitk.GetImageFromArray(field, isVector=True), str(out / "forward_field.nii.gz")
        )
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(out / "warped.nii.gz"))
    picture = tmp_path / "worst.png"
    arguments = [str(pairs), str(tmp_path / "kept"), "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", ["regions.py", *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "regions.py"), run_name="__main__")
    rows = {cells[0].strip(): cells[1:] for cells in table(capsys.readouterr().out)}
    assert [float(v) for v in rows["Box"]] == [pytest.approx(0.75), 1.0]
    assert [float(v) for v in rows["Lid"]] == [pytest.approx(0.5), 1.0]
    assert [float(v) for v in rows["all below the cortex"]] == [pytest.approx(0.75), 1.0]
    assert float(rows["all"][0]) == pytest.approx((0.75 + 0.75 + 0.5) / 3, abs=6e-4)
    assert sitk.ReadImage(str(picture)).GetSize()[1] > 200


def table(text: str) -> list[list[str]]:
    return [line.strip("│ ").split("│") for line in text.splitlines() if line.startswith("│")]
