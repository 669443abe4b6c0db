"""Several channels of both images, which share one field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import coarse_brain, picture

from hsyn_cli.cli import run
from hsyn_cli.config.channels import channels_of, weights_of
from hsyn_cli.errors import GeometryError, UsageError
from hsyn_cli.method.forces import forces
from hsyn_cli.method.register import register

MM = 5.0
Pair = tuple[sitk.Image, sitk.Image]


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The example brains on coarse voxels, moving first."""
    return coarse_brain("moving", MM), coarse_brain("fixed", MM)


def half(image: sitk.Image, left: bool) -> sitk.Image:
    """An image whose left or right half keeps its silhouette alone."""
    values = sitk.GetArrayFromImage(image)
    middle = values.shape[2] // 2
    part = values[..., :middle] if left else values[..., middle:]
    part[part > 20] = 80
    out = sitk.GetImageFromArray(values)
    out.CopyInformation(image)
    return out


def fields(found: Any) -> np.ndarray:
    values: np.ndarray = sitk.GetArrayFromImage(found.forward_field)
    return values


def quick(moving: Any, fixed: Any, **options: Any) -> Any:
    return register(moving, fixed, **{"weights": "none", "preset": "fast", **options})


def test_one_channel_given_twice_is_one_channel(pair: Pair) -> None:
    moving, fixed = pair
    one, two = quick(moving, fixed), quick([moving, moving], [fixed, fixed])
    assert np.abs(fields(one) - fields(two)).max() < 0.01
    assert two.facts.channels == (0.5, 0.5)
    ((warped, back),) = two.others
    assert (sitk.GetArrayFromImage(warped) == sitk.GetArrayFromImage(two.warped)).all()
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(two.inverse_warped)).all()


def test_a_channel_without_weight_does_not_pull(pair: Pair) -> None:
    moving, fixed = pair
    blank = half(moving, left=True), half(fixed, left=True)
    alone = quick(moving, fixed)
    both = quick([moving, blank[0]], [fixed, blank[1]], channel_weights=(2, 0))
    assert both.facts.channels == (1, 0)
    assert np.abs(fields(alone) - fields(both)).max() < 0.01


def test_each_channel_adds_what_the_others_lack(pair: Pair) -> None:
    """Each of two channels shows one half of the brain."""
    moving, fixed = pair
    halves = [[half(image, left) for left in (True, False)] for image in pair]
    other = sitk.GetArrayFromImage(fixed)
    inside = other > 20

    def alike(found: Any) -> float:
        there = sitk.DisplacementFieldTransform(
            sitk.Cast(found.forward_field, sitk.sitkVectorFloat64)
        )
        warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, there))
        return float(np.corrcoef(warped[inside], other[inside])[0, 1])

    options = {"affine": "none", "similarity": "ncc", "preset": "default"}
    whole = alike(quick(moving, fixed, **options))
    each = [alike(quick(*side, **options)) for side in zip(*halves, strict=True)]
    both = alike(quick(*halves, **options))
    assert both > max(each) + 0.02
    assert both > whole - 0.02


def test_a_channel_of_other_contrast_is_matched(pair: Pair) -> None:
    """It pulls nearly as one of the same contrast does, and the first channel stays as it is."""
    moving, fixed = pair
    values = sitk.GetArrayFromImage(moving)
    values[values > 20] = 300 - values[values > 20]
    inverted = sitk.GetImageFromArray(values)
    inverted.CopyInformation(moving)
    found = quick([moving, inverted], [fixed, fixed])
    assert found.facts.similarity.measure == "local NCC"
    assert [line for line in found.facts.warnings if "gave each the contrast of the other" in line]
    assert found.facts.channels == (0.5, 0.5)
    plain = quick([moving, moving], [fixed, fixed])
    assert plain.facts.similarity.measure == "local NCC"
    assert not [line for line in plain.facts.warnings if "contrast" in line]
    brain = sitk.GetArrayFromImage(fixed) > 20
    off = np.linalg.norm(fields(found) - fields(plain), axis=-1)[brain]
    assert off.mean() < 0.3 * np.linalg.norm(fields(plain), axis=-1)[brain].mean()


def test_forces_are_the_weighted_mean_of_the_channels() -> None:
    """Where both channels have the same residuals and slopes, the weights do not matter."""
    a, b = picture((12, 14, 10), 1), picture((12, 14, 10), 2)
    one = forces(a, b, 5)
    for weights in ((0.5, 0.5), (0.9, 0.1)):
        two = forces(torch.cat((a, a), 1), torch.cat((b, b), 1), 5, channels=weights)
        for u, v in zip(one, two, strict=True):
            assert torch.allclose(u, v, atol=1e-6)
    flat = torch.full_like(a, 0.5)
    mixed, _ = forces(torch.cat((a, flat), 1), torch.cat((b, flat), 1), 5, channels=(0.5, 0.5))
    assert mixed.abs().sum() < one[0].abs().sum()


def test_weights_and_counts_must_agree() -> None:
    assert weights_of((3, 1), 2) == (0.75, 0.25)
    assert weights_of(None, 2) == (0.5, 0.5)
    assert channels_of("ab", "cd") == [("a", "c"), ("b", "d")]
    with pytest.raises(UsageError, match="1 moving and 2 fixed images"):
        channels_of("a", "cd")
    for given, text in (((1,), "1 weight for 2"), ((0, 1), "0, 1"), ((1, -1), "1, -1")):
        with pytest.raises(UsageError, match=text):
            weights_of(given, 2)
    with pytest.raises(UsageError, match="weights"):
        weights_of((1, float("inf")), 2)


def test_the_files_of_several_channels(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("m", "f"), pair, strict=True):
        sitk.WriteImage(image, f"{name}.nii.gz")
        sitk.WriteImage(image * 2, f"{name}2.nii.gz")
    line = "register -m m.nii.gz -f f.nii.gz -o out --preset fast --quiet --no-html --model none"
    several = f"{line} -m m2.nii.gz -f f2.nii.gz --weight 1 --weight 0.5"
    assert run(several.split()) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["channels"] == pytest.approx([2 / 3, 1 / 3])
    assert {"moving_2", "fixed_2"} <= report["inputs"].keys()
    one, two = (
        sitk.GetArrayFromImage(sitk.ReadImage(f"out/{name}.nii.gz"))
        for name in ("warped", "warped_2")
    )
    assert np.allclose(2 * one, two, atol=1e-2)
    assert Path("out/inverse_warped_2.nii.gz").is_file()
    assert run([*line.split(), "--force"]) == 0  # one channel: the others' files go
    assert not list(Path("out").glob("*_2.nii.gz"))
    assert run([*line.split(), "--force", "--weight", "1", "--weight", "2"]) == 2
    assert "2 weights for 1 channel" in capfd.readouterr().err
    assert run([*line.split(), "--force", "-m", "m2.nii.gz"]) == 2
    assert "2 moving and 1 fixed images" in capfd.readouterr().err


def test_files_that_only_look_like_those_of_a_channel_stay(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    sitk.WriteImage(pair[0], "out/warped_2.nii.gz")  # the user's own, and an input
    sitk.WriteImage(pair[1], "f.nii.gz")
    Path("out/warped_2mm.nii.gz").write_bytes(b"mine")
    line = "register -m out/warped_2.nii.gz -f f.nii.gz -o out --preset fast --quiet --no-html"
    for more in ([], ["--force"]):
        assert run([*line.split(), *more]) == 0
        assert Path("out/warped_2mm.nii.gz").read_bytes() == b"mine"
        assert Path("out/warped_2.nii.gz").is_file()


def test_a_channel_counts_as_far_as_it_was_scanned(pair: Pair) -> None:
    """Equal images, of which a further channel of one is a slab: hardly anything moves."""
    image = pair[0]
    inside = sitk.GetArrayFromImage(image) > 20
    found = quick([image, image[:, :, 10:22]], [image, image], affine="none")
    off = np.linalg.norm(fields(found), axis=-1)[inside]
    assert off.mean() < 0.1 * MM
    assert off.max() < MM


def test_a_channel_that_lies_elsewhere_is_refused(pair: Pair) -> None:
    away = sitk.Image(pair[0])
    away.SetOrigin((900.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="no part of the moving image"):
        quick([pair[0], away], list(pair))
    with pytest.raises(GeometryError, match="no part of the moving image"):
        quick(list(pair), [pair[0], away])


def test_what_hsyn_sees_otherwise_in_a_channel_is_told(pair: Pair) -> None:
    padded = sitk.Image(pair[0]) + 1000.0  # its background is far from zero
    padded[padded.GetSize()[0] // 2, 0, 0] = 990.0
    found = quick([pair[0], padded], [pair[1], pair[1]])
    assert any("moving image of channel 2" in line for line in found.facts.warnings)
