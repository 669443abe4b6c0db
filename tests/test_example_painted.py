"""examples/painted_people.py paints what it says, and goes on where it stopped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_examples import load_with_others

SKIN, BRAIN, FLUID = 502, 3, 24


@pytest.fixture(scope="module")
def people():
    yield from load_with_others("painted_people.py")


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Label maps of three tiny heads."""
    for k in range(3):
        ids = np.zeros((24, 24, 24), np.uint16)
        ids[2:-2, 2:-2, 2:-2] = SKIN
        ids[6:-6, 6:-6, 6:-6] = FLUID
        ids[8:-8, 8:-8, 8 + k : -8] = BRAIN
        sitk.WriteImage(sitk.GetImageFromArray(ids), str(tmp_path / f"map_{k}.nii.gz"))
    return tmp_path


def values(path: str, ids: Path, label: int) -> float:
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(ids))) == label
    return float(np.median(sitk.GetArrayFromImage(sitk.ReadImage(path))[inside]))


def test_skin_is_the_same_in_one_contrast_and_gone_from_brains(people, maps, tmp_path):
    paths, work = sorted(maps.glob("map_*.nii.gz")), tmp_path / "work"
    work.mkdir()
    for look in ("head", "brain"):
        rows = people.written(paths, look, ["T1", "T2"], work)
        assert len(rows) == 2
        for k, row in enumerate(rows):
            skin = values(row["moving"], paths[k], SKIN), values(row["fixed"], paths[k + 1], SKIN)
            if look == "brain":
                assert skin == (0, 0)
            else:
                assert abs(skin[0] - values(rows[0]["moving"], paths[0], SKIN)) < 40
                assert abs(skin[0] - skin[1]) > 40
            ids = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(row["fixed_labels"])))
            assert set(ids) == {0, BRAIN}


def test_a_second_call_measures_what_is_missing_alone(people, maps, tmp_path, monkeypatch, capsys):
    work, asked = tmp_path / "work", []

    def dice(method, pair, arguments):
        asked.append(method)
        return 0.7 if method == "default" else 0.6

    monkeypatch.setattr(people, "dice", dice)
    words = ["x", str(maps), str(work), "--looks", "brain", "--kinds", "T1-T2", "--people", "3"]
    for methods, new in (("default", ["default"] * 2), ("default,ants", ["ants"] * 2)):
        asked.clear()
        monkeypatch.setattr(sys, "argv", [*words, "--methods", methods])
        people.main()
        assert asked == new
    assert "2 of 2" in capsys.readouterr().out
    assert len(json.loads((work / "scores.json").read_text())) == 4
