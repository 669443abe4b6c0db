"""examples/contrasts.py: what it paints, and its table of two models."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
contrasts = importlib.import_module("contrasts")


def test_both_sides_have_one_grey_value_and_the_head_is_stripped(tmp_path: Path) -> None:
    ids = np.array([2, 41, 17, 53, 28, 60, 24, 507])
    grey = contrasts.greys("random", ids, np.random.default_rng(0))
    assert grey[2] == grey[41] != grey[17] == grey[53] != grey[28] == grey[60]
    image = sitk.GetImageFromArray(np.resize(ids, (4, 4, 4)).astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / "map.nii.gz"))
    left = contrasts.brain(tmp_path / "map.nii.gz", None)
    assert set(np.unique(sitk.GetArrayFromImage(left))) == {0, 2, 41, 17, 53, 28, 60}
    assert contrasts.brain(tmp_path / "map.nii.gz", 2.0).GetSize() == (2, 2, 2)


def test_the_gain_over_the_first_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One model shifts by the true distance, the other one by nothing."""
    for k in range(2):
        values = np.zeros((16, 16, 16), np.int16)
        values[4:10, 4:12, 4 + k : 10 + k], values[10:12, 4:12, 4 + k : 10 + k] = 2, 41
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"{k}.nii.gz"))
    (tmp_path / "maps.csv").write_text("image,labels,split\n,0.nii.gz,test\n,1.nii.gz,test\n")
    turn = [0]

    def register(moving: sitk.Image, fixed: sitk.Image, weights: str, preset: str) -> object:
        way = (-1.0, 1.0)[turn[0] // 2 % 2]
        turn[0] += 1
        field = np.zeros((16, 16, 16, 3))
        field[..., 0] = way if weights == "good" else 0.0
        return SimpleNamespace(forward_field=sitk.GetImageFromArray(field, isVector=True))

    monkeypatch.setattr(contrasts.hsyn_cli, "register", register)
    words = ["contrasts.py", str(tmp_path / "maps.csv"), "--models", "none", "good", "--json"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "out.json")])
    contrasts.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found) == 4
    for scores in found.values():
        assert scores["none"] == pytest.approx([5 / 6, 5 / 6])
        assert scores["good"] == pytest.approx([1.0, 1.0])
    assert "+0.1667, 0.0000" in capsys.readouterr().out


def test_how_far_a_field_is_from_the_turn_of_one_map() -> None:
    brain = sitk.GetImageFromArray(np.ones((12, 10, 8), np.int16))
    brain.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    brain.SetOrigin((3.0, 4.0, -5.0))
    moved, pose = contrasts.turned(brain)
    index = (7, 2, 9)
    there = moved.TransformIndexToPhysicalPoint(index)
    here = brain.TransformIndexToPhysicalPoint(index)
    assert pose.TransformPoint(here) == pytest.approx(there)
    true = sitk.TransformToDisplacementField(
        pose, sitk.sitkVectorFloat64, brain.GetSize(), brain.GetOrigin(), brain.GetSpacing(),
        brain.GetDirection(),
    )  # fmt: skip
    assert contrasts.apart(true, pose, brain) == pytest.approx(0, abs=1e-9)
    values = sitk.GetArrayFromImage(true) + np.array([0.3, 0.0, -0.4])
    off = sitk.GetImageFromArray(values, isVector=True)
    off.CopyInformation(true)
    assert contrasts.apart(off, pose, brain) == pytest.approx(0.5)
