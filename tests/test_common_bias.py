"""Bias fields that two images of different contrast show together are taken out of both."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import EXAMPLES
from test_bias import field, onion, times

import hsyn_cli
from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.common_bias import log_fields, without_common_bias
from hsyn_cli.anatomy.scene import Subjects, prepare_subjects
from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.method import inference, one_contrast
from hsyn_cli.method.working import Halves
from hsyn_cli.space import Grid, affine_from

GREYS = {100.0: 55.0, 65.0: 90.0, 30.0: 30.0}  # of a tissue in another contrast
MM = 4.0


def other_contrast(image: sitk.Image) -> sitk.Image:
    """The tissues of `onion` in another contrast, with as much noise."""
    values = sitk.GetArrayFromImage(image)
    tissues = np.array(list(GREYS))
    nearest = np.abs(values[..., None] - tissues).argmin(-1)
    rest = values - tissues[nearest]
    greys = np.array(list(GREYS.values()))[nearest] + rest
    out = np.where(values > 10, greys, values).astype(np.float32)
    return Grid.of(image).stamp(sitk.GetImageFromArray(out))


def seen(image: sitk.Image) -> np.ndarray:
    """Its grey values in [0, 1] on voxels of MM."""
    values: np.ndarray = sitk.GetArrayFromImage(sitk.BinShrink(image, [2, 2, 2])) / 200
    return values.clip(0, 1)


def test_both_fields_are_found() -> None:
    t1 = onion()
    t2 = other_contrast(t1)
    truth = [field(t1, 0.15), field(t1, -0.2)[::-1]]
    images = [seen(times(image, gain)) for image, gain in zip((t1, t2), truth, strict=True)]
    fields = log_fields(images, np.ones_like(images[0]))
    assert fields is not None
    content = seen(t1) > 0.1
    for found, gain in zip(fields, truth, strict=True):
        true = np.log(gain.reshape(55, 2, 55, 2, 55, 2).mean((1, 3, 5)))
        assert true[content].std() > 0.08
        assert (found - true)[content].std() < 0.02


def subjects_of(moving: sitk.Image, fixed: sitk.Image) -> Subjects:
    """As they are, with the bias fields that each alone would lose."""
    looks = organs.look(moving), organs.look(fixed)
    found = prepare_subjects((moving, fixed), (None, None), looks, organs.find("none"), 99.5)
    return replace(found, views=(moving, fixed))


def test_each_image_is_divided_in_its_own_space() -> None:
    """The moving image is turned by 90 degrees and lies 30 mm off, and its field with it."""
    fixed = onion()
    plain = other_contrast(fixed)
    moving = times(plain, field(plain, 0.2))
    shift, turn = np.array([30.0, -20.0, 10.0]), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moving.SetOrigin((turn @ np.array(moving.GetOrigin()) + shift).tolist())
    moving.SetDirection((turn @ np.reshape(moving.GetDirection(), (3, 3))).ravel().tolist())
    subjects = subjects_of(moving, fixed)
    images = [(seen(moving), seen(fixed))]
    small = Grid.of(sitk.BinShrink(fixed, [2, 2, 2]))
    counts = np.ones_like(images[0][0])
    even, after = without_common_bias(subjects, images, [counts], small, affine_from(turn, shift))
    content = sitk.GetArrayViewFromImage(plain) > 10
    off = [
        np.log(sitk.GetArrayFromImage(view)[content] / sitk.GetArrayFromImage(plain)[content])
        for view in (subjects.views[0], even.views[0])
    ]
    assert off[0].std() > 0.1
    assert off[1].std() < 0.03
    whole, kept = (sitk.GetArrayFromImage(one.views[1])[content] for one in (subjects, even))
    assert np.log(kept / whole).std() < 0.02
    inside = seen(plain) > 0.1
    assert np.log(after[0][0] / seen(plain))[inside].std() < 0.03
    assert even.grey == subjects.grey


def test_too_little_that_counts_changes_nothing() -> None:
    image = onion()
    subjects, images = subjects_of(image, image), [(seen(image), seen(image))]
    small, same = Grid.of(sitk.BinShrink(image, [2, 2, 2])), affine_from(np.eye(3), np.zeros(3))
    counts = np.zeros_like(images[0][0])
    counts[20:24, 20:24, 20:24] = 1
    for given in (counts, None):
        even, after = without_common_bias(subjects, images, [given], small, same)
        assert even.views == subjects.views
        assert after[0] is images[0]


def test_each_channel_is_a_pair_of_its_own() -> None:
    """A small second channel takes nothing from the first; without a weight it stays as it is."""
    t1 = onion()
    blob = t1 * 0
    blob[40:56, 40:56, 40:56] = 150
    t2 = times(other_contrast(t1), field(t1, 0.2))
    one = subjects_of(t1, t2)
    both = replace(one, others=(((blob, blob), one.grey),))
    small, same = Grid.of(sitk.BinShrink(t1, [2, 2, 2])), affine_from(np.eye(3), np.zeros(3))
    first, second = (seen(t1), seen(t2)), (seen(blob), seen(blob))
    ones = np.ones_like(first[0])
    alone, _ = without_common_bias(one, [first], [ones], small, same)
    for weights in (ones, None):
        found, after = without_common_bias(both, [first, second], [ones, weights], small, same)
        for view, expected in zip(found.views, alone.views, strict=True):
            assert np.array_equal(*map(sitk.GetArrayViewFromImage, (view, expected)))
        assert found.others[0][0] == (blob, blob)
        assert after[1] is second


def test_coarse_images_stay() -> None:
    image = onion(spacing=(3.0, 3.0, 3.0))
    subjects, values = subjects_of(image, image), seen(sitk.Expand(image, [2, 2, 2]))
    same = affine_from(np.eye(3), np.zeros(3))
    ones = [np.ones_like(values)]
    even, _ = without_common_bias(subjects, [(values, values)], ones, Grid.of(image), same)
    assert even.views == subjects.views


@pytest.mark.slow
def test_brains_of_two_contrasts_lose_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed image is inverted and has a bias field of its own."""
    moving, fixed = (
        sitk.BinShrink(sitk.ReadImage(str(EXAMPLES / name), sitk.sitkFloat32), [2, 2, 2])
        for name in ("moving.nii.gz", "fixed.nii.gz")
    )
    values = sitk.GetArrayFromImage(fixed)
    top = 1.1 * float(np.percentile(values, 99.5))
    inverted = np.where(values > 5, np.maximum(top - values, 8), 0) * field(fixed, 0.25)
    fixed = Grid.of(fixed).stamp(sitk.GetImageFromArray(inverted.astype(np.float32)))
    ratios = []
    for real in (True, False):
        if not real:
            monkeypatch.setattr(
                one_contrast, "without_common_bias", lambda one, two, *_: (one, two)
            )
        found = hsyn_cli.register(moving, fixed, preset="fast")
        (note,) = [w for w in found.facts.warnings if "correlation ratio" in w]
        ratios.append(float(note.split("ratio ")[1].split(",")[0].rstrip(")")))
    assert ratios[0] > ratios[1]


def test_what_does_not_count_does_not_tell() -> None:
    """A mask, and what lies beyond a cut."""
    rows = torch.ones(2, 1, 8, 8, 8)
    rows[0, :, :3] = 0
    rows[1, ..., 6:] = 0
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    scene = Scene(
        grid, torch.ones(2, 1, 8, 8, 8), torch.ones(2, 0, 8, 8, 8), rows, torch.ones(2, 0, 8, 8, 8)
    )
    found = inference.counted(Halves(scene, torch.zeros(2, 3, 4, 4, 4)))
    expected = np.ones((4, 4, 4))
    expected[0] = expected[..., 3] = 0
    expected[1] *= 0.5
    np.testing.assert_allclose(found, expected)
    free = Halves(replace(scene, counts=None), torch.zeros(2, 3, 4, 4, 4))
    np.testing.assert_allclose(inference.counted(free), 1)
