"""examples/structures.py: classes of label maps in another numbering, and their Dice."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import coarse_brain, save_checkpoint, tiny_networks

from hsyn_cli.config.architecture import TissueConfig
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.training.cache import SPLITS
from hsyn_cli.training.runs import read_config
from hsyn_cli.training.subjects import collect

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
structures = importlib.import_module("structures")
TISSUE = TissueConfig(
    ({"2": 1.0, "41": 1.0}, {"10": 1.0, "49": 1.0}),
    encoder=(4, 6),
    head=(4,),
    classes=((2, 41), (10, 49)),
)


def test_label_maps_in_another_numbering_get_the_classes_of_the_config() -> None:
    labels = np.array([[[0, 44, 45], [59, 60, 7]]])
    mapping = {44: 41, 45: 2, 59: 49, 60: 10, 7: 99}
    expected = [[[0, 1, 1], [2, 2, 0]]]
    assert structures.classed(labels, TISSUE, mapping).tolist() == expected
    own = np.array([[[0, 41, 2], [49, 10, 3]]])
    assert structures.classed(own, TISSUE, {k: k for k in range(50)}).tolist() == expected


def test_dice_of_the_classes_by_hand() -> None:
    true = np.array([[[1, 1, 1, 2, 0, 0]]])
    found = np.array([[[1, 1, 0, 2, 2, 3]]])
    assert structures.dices(found, true, 3)[:2] == pytest.approx([4 / 5, 2 / 3])
    assert np.isnan(structures.dices(found, true, 3)[2])  # the label map has none


def test_the_mapping_that_ships_leads_to_classes_of_the_anatomy_net() -> None:
    tissue = read_config(EXAMPLES / "gpu" / "anatomy.json").sn_net.tissue
    assert tissue is not None
    ids = {k for group in tissue.classes for k in group}
    with (EXAMPLES / "gpu" / "neuromorphometrics.csv").open(newline="") as stream:
        mapping = {int(row["index"]): int(row["class"]) for row in csv.DictReader(stream)}
    assert set(mapping.values()) <= ids
    assert all(any(set(group) & set(mapping.values()) for group in [g]) for g in tissue.classes)
    assert (mapping[59], mapping[60], mapping[100], mapping[35]) == (49, 10, 42, 16)


def test_the_split_that_ships_is_read_and_parts_the_label_maps() -> None:
    subjects = collect(EXAMPLES / "gpu" / "brain.csv")
    assert sum(subject.image is not None for subject in subjects) == 48
    of_maps = {
        split: [v.labels.name[4:6] for v in subjects if v.labels and v.split == split]
        for split in SPLITS
    }
    assert of_maps == {
        "train": [f"{k:02}" for k in range(1, 15)],
        "validation": ["15", "16"],
        "test": ["17", "18", "19", "20"],
    }


def test_a_net_is_measured_on_a_scan_and_on_a_painted_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every voxel is class 1 here, so its Dice follows from the label map alone."""
    torch.manual_seed(0)
    sn, di = tiny_networks(6.0)
    sn = SNNet(replace(sn.config, tissue=TISSUE))
    assert sn.tissue is not None
    torch.nn.init.zeros_(sn.tissue.net.flow.weight)
    bias = sn.tissue.net.flow.bias
    assert bias is not None
    bias.data = torch.tensor([0.0, 5.0, 0.0]).repeat_interleave(8)
    save_checkpoint(tmp_path / "net.safetensors", sn, di)
    image = coarse_brain("fixed", 6.0)
    values = np.where(sitk.GetArrayFromImage(image) > 20, 44, 0)
    values[:, :, : values.shape[2] // 2][values[:, :, : values.shape[2] // 2] > 0] = 60
    labels = sitk.Cast(sitk.GetImageFromArray(values), sitk.sitkInt16)
    labels.CopyInformation(image)
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    (tmp_path / "scans.csv").write_text(
        "image,labels,split\nimage.nii.gz,labels.nii.gz,test\n,labels.nii.gz,test\nx,y,train\n"
    )
    words = [
        "structures.py", str(tmp_path / "net.safetensors"), str(tmp_path / "scans.csv"),
        "--classes", str(EXAMPLES / "gpu" / "neuromorphometrics.csv"), "--split", "test",
        "--json", str(tmp_path / "out.json"), "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    structures.main()
    found = json.loads((tmp_path / "out.json").read_text())
    share = (values == 44).mean()
    for one, two in found["dice"]:
        assert one == pytest.approx(2 * share / (1 + share), abs=0.05)  # all but the grid's rim
        assert two == 0
    assert found["mean"] == pytest.approx(np.mean(found["dice"]))
