"""Bias fields are found and taken out; images without one stay as they are."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.bias import without_bias
from hsyn_cli.anatomy.depth import middle
from hsyn_cli.space import Grid

Values = np.ndarray


def evenly_lit(image: sitk.Image, organ: str = "brain") -> sitk.Image:
    return organs.find(organ).prepare(image, organs.look(image))


def onion(
    direction: str = "LPS", spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
) -> sitk.Image:
    """Three tissues in shells and blobs inside a ball, 200 mm wide.

    In the noise of a magnitude image.
    """
    size = tuple(round(220 / s) for s in spacing)
    z, y, x = np.meshgrid(
        *(s * np.arange(n) - 110 for n, s in zip(size[::-1], spacing[::-1], strict=True)),
        indexing="ij",
    )
    away = np.sqrt(x**2 + y**2 + z**2)
    texture = np.sin(x / 7) + np.sin(y / 6) + np.sin(z / 8)
    values = np.select([away > 100, texture > 0.6, texture > -1.2], [0.0, 100.0, 65.0], 30.0)
    rng = np.random.default_rng(0)
    values = np.hypot(values + rng.normal(0, 2, x.shape), rng.normal(0, 2, x.shape))
    return Grid(size, spacing, (12.0, -30.0, 5.0), DIRECTIONS[direction]).stamp(
        sitk.GetImageFromArray(values.astype(np.float32))
    )


def field(image: sitk.Image, strength: float) -> Values:
    """(Z, Y, X) a smooth gain about 1."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.GetSize()[::-1]), indexing="ij")
    return np.exp(strength * (x + 0.7 * np.sin(2.5 * y) - 0.8 * z * z + 0.5 * x * z))


def times(image: sitk.Image, gain: Values) -> sitk.Image:
    return Grid.of(image).stamp(
        sitk.GetImageFromArray((sitk.GetArrayFromImage(image) * gain).astype(np.float32))
    )


@pytest.mark.parametrize(
    ("direction", "spacing"),
    [("LPS", (2.0, 2.0, 2.0)), ("oblique", (1.5, 2.5, 5.0)), ("RAS", (3.0, 2.0, 2.0))],
)
def test_a_strong_bias_field_is_taken_out(
    direction: str, spacing: tuple[float, float, float]
) -> None:
    image = onion(direction, spacing)
    spoiled = times(image, field(image, 0.7))
    clean, before, after = (
        sitk.GetArrayFromImage(v) for v in (image, spoiled, without_bias(spoiled))
    )
    tissue = clean > 20

    def drift(values: Values) -> float:
        return float(np.log(values[tissue] / clean[tissue]).std())

    assert drift(before) > 0.35
    assert drift(after) < 0.25 * drift(before)
    assert after[clean < 8].mean() < 0.1 * after[tissue].mean()  # noise outside is not blown up


@pytest.mark.parametrize("organ", ["brain", "none"])
def test_the_middle_of_a_head_tells_its_bias_field(organ: str) -> None:
    """The same picture, of 4.2 litres and of 1.4: skin and bone would pass for bias."""
    image = onion()
    head = times(image, field(image, 0.7))
    part = middle(head)
    assert part is not None
    inside = sitk.GetArrayFromImage(part) != 0
    clean, before, after = (
        sitk.GetArrayFromImage(v) for v in (image, head, evenly_lit(head, organ))
    )
    tissue = inside & (clean > 20)
    drifts = [float(np.log(v[tissue] / clean[tissue]).std()) for v in (before, after)]
    assert drifts[1] < 0.5 * drifts[0]
    np.testing.assert_array_equal(after, sitk.GetArrayFromImage(without_bias(head, None, part)))
    brain = sitk.Image(head)
    brain.SetSpacing([0.7 * s for s in head.GetSpacing()])
    lit, known = (
        sitk.GetArrayFromImage(v) for v in (evenly_lit(brain, organ), without_bias(brain))
    )
    np.testing.assert_array_equal(lit, known)
    assert np.abs(lit / np.maximum(sitk.GetArrayFromImage(brain), 1) - 1).max() > 0.2


def test_what_lies_outside_the_part_does_not_count() -> None:
    image = times(onion(), field(onion(), 0.7))
    part = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    part.CopyInformation(image)
    x, y, z = (n // 5 for n in image.GetSize())
    part[x : 4 * x, y : 4 * y, z : 4 * z] = 1
    spoiled = sitk.Mask(image, part, 90.0)
    spoiled = sitk.Mask(spoiled, sitk.Not(image == 0) | part, 0.0)
    one, other = (
        sitk.GetArrayFromImage(without_bias(v, None, part) / sitk.Maximum(v, 1.0))
        for v in (image, spoiled)
    )
    inside = (sitk.GetArrayFromImage(part) != 0) & (sitk.GetArrayFromImage(image) > 20)
    np.testing.assert_allclose(one[inside], other[inside], rtol=0.05)


def test_what_has_none_stays_as_it_is() -> None:
    image = onion()
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(without_bias(image)), sitk.GetArrayFromImage(image)
    )


def test_a_weak_one_is_not_made_worse() -> None:
    image = onion()
    clean, before = sitk.GetArrayFromImage(image), times(image, field(image, 0.15))
    tissue = clean > 20
    drifts = [
        np.log(sitk.GetArrayFromImage(v)[tissue] / clean[tissue]).std()
        for v in (before, without_bias(before))
    ]
    assert drifts[1] <= drifts[0]


@pytest.mark.parametrize("value", [-36.0, -520.0])
def test_a_voxel_darker_than_nothing_does_not_move_the_zero(value: float) -> None:
    image = onion()
    spoiled = times(image, field(image, 0.7))
    plain = sitk.GetArrayFromImage(without_bias(spoiled))
    clean = sitk.GetArrayFromImage(image)
    spoiled[3, 3, 3] = value
    after = sitk.GetArrayFromImage(without_bias(spoiled))
    if value < -500:  # taken for Hounsfield units
        np.testing.assert_array_equal(after, sitk.GetArrayFromImage(spoiled))
        return
    assert after.min() == value
    tissue = clean > 20
    assert np.abs(after - plain)[tissue].mean() < 0.05 * plain[tissue].mean()
    assert after[clean < 8].mean() < 0.1 * after[tissue].mean()


def test_the_grey_value_of_nothing_stays() -> None:
    image = onion()
    spoiled = times(image, field(image, 0.7)) - 300
    low = float(sitk.GetArrayViewFromImage(spoiled).min())
    assert sitk.GetArrayFromImage(without_bias(spoiled)).min() == pytest.approx(low, abs=1e-3)


@pytest.mark.parametrize("size", [(40, 40, 4), (12, 12, 12), (3, 40, 40)])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_too_little_to_tell_stays_as_it_is(size: tuple[int, int, int], value: float) -> None:
    values = np.full(size[::-1], value, np.float32)
    values[0, 0, 0] = 3 * value
    image = sitk.GetImageFromArray(values)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(without_bias(image)), values)


def test_a_masked_lesion_does_not_count_for_the_field() -> None:
    image = times(onion(), field(onion(), 0.7))
    values = sitk.GetArrayFromImage(image)
    z, y, x = np.meshgrid(*(2.0 * np.arange(n) - 110 for n in values.shape), indexing="ij")
    inside = (x - 40) ** 2 + y**2 + z**2 < 30**2
    ill = Grid.of(image).stamp(sitk.GetImageFromArray(np.where(inside, 400, values)))
    lesion = Grid.of(image).stamp(sitk.GetImageFromArray(inside.astype(np.uint8)))
    healthy, plain, masked = (
        sitk.GetArrayFromImage(v)
        for v in (without_bias(image), without_bias(ill), without_bias(ill, lesion))
    )
    away = ~inside & (values > 20)
    off, bad = (np.log(v[away] / healthy[away]).std() for v in (masked, plain))  # but for a factor
    assert off < 0.3 * bad


def test_the_mask_of_a_lesion_may_have_a_smaller_grid() -> None:
    image = times(onion(), field(onion(), 0.7))
    mask = sitk.Cast(image > 0, sitk.sitkUInt8)
    x, y, _ = mask.GetSize()
    plane = sitk.RegionOfInterest(mask, [x, y, 1], [0, 0, 50])
    whole = sitk.Paste(mask * 0, plane, plane.GetSize(), [0, 0, 0], [0, 0, 50])
    one, other = (sitk.GetArrayFromImage(without_bias(image, v)) for v in (plane, whole))
    np.testing.assert_array_equal(one, other)
