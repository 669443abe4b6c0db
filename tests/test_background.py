"""The background is found where it is not the darkest value, and Hounsfield units are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, chest, picture

from hsyn_cli.anatomy import background, lungs
from hsyn_cli.anatomy.hounsfield import in_hounsfield
from hsyn_cli.anatomy.intensity import foreground, read_intensities
from hsyn_cli.anatomy.view import View, view_of
from hsyn_cli.config.training import Training
from hsyn_cli.space import Grid
from hsyn_cli.tools.evaluate import evaluate_images
from hsyn_cli.training.data import build_cache, collect

SIZE = (34, 40, 36)  # z, y, x
Values = np.ndarray
RNG = np.random.default_rng(0)


def ball() -> tuple[Values, Values]:
    """A ball of 60 to 240 with a dark rim, as brains have, 0 around it; and where it is."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    texture = picture(SIZE, 3)[0, 0].double().numpy()
    rim = 1 / (1 + np.exp((radius - 0.7) / 0.04))
    inside = radius < 0.82
    return np.where(
        inside, np.round(40 + 20 * texture + 180 * rim * (0.5 + texture / 2)), 0
    ), inside


def image_of(values: Values) -> sitk.Image:
    grid = Grid(values.shape[::-1], (1.5, 1.0, 2.0), (3.0, -4.0, 5.0), DIRECTIONS["oblique"])
    return grid.stamp(sitk.GetImageFromArray(values.astype(np.float32)))


def seen(view: View, inner: tuple[slice, ...] = (slice(None),) * 3) -> Values:
    """What the networks see: 0 to 1."""
    grey = read_intensities(view.image)
    values = sitk.GetArrayFromImage(view.image)[inner]
    return ((values - grey.low) / (grey.high - grey.low)).clip(0, 1)


def scored(values: Values) -> Values:
    inside = values > 0
    mean, deviation = values[inside].mean(), values[inside].std()
    return np.where(inside, (values - mean) / deviation, 0)


def filled(values: Values, value: float, *box: slice) -> Values:
    out = values.copy()
    out[box] = value
    return out


def marked(values: Values, value: float) -> Values:
    return np.where(values > 0, values, value)


def dead(values: Values, *others: float) -> Values:
    out = values.copy()
    for k, value in enumerate(others):
        out[3 * k, 2 * k, 33 - k] = value
    return out


CORNER = (slice(0, 6), slice(0, 12), slice(0, 12))
PLANES = (slice(-5, None),)
# What happens to the grey values -> the background that is found, and a word of the note.
SAME: dict[str, tuple[Callable[[Values], Values], float, str]] = {
    "as given": (lambda a: a, 0, ""),
    "scaled": (lambda a: a * 1e-4, 0, ""),
    "z-scored as a whole": (lambda a: (a - a.mean()) / a.std(), np.nan, ""),
    "offset": (lambda a: a + 1000, 1000, ""),
    "far below zero": (lambda a: a - 33792, -33792, ""),
    "MR minus 1024": (lambda a: a - 1024, -1024, ""),
    "z-scored": (scored, 0, "not its darkest"),
    "z-scored with float noise": (lambda a: scored(a) + RNG.normal(0, 1e-5, SIZE), 0, "not its"),
    "z-scored with dead voxels": (lambda a: dead(scored(a), -80, -300, -1e4), 0, "not its darkest"),
    "phase": (lambda a: np.where(a > 0, np.round((a - 140) * 40), 0), 0, "not its darkest"),
    "susceptibility": (lambda a: scored(a) * 0.03, 0, "not its darkest"),
    "one dead voxel": (lambda a: dead(a, -300), 0, "voxels down to -300"),
    "several dead voxels": (lambda a: dead(a + 1000, 0, 700, -32768), 1000, "down to -32768"),
    "block of darker padding": (lambda a: filled(a + 1000, 0, *CORNER), 1000, "padding (0)"),
    "planes of darker padding": (lambda a: filled(a + 1000, 7, *PLANES), 1000, "padding (7)"),
    "block of grey padding": (lambda a: filled(a, 130, *CORNER), 0, "padding (130)"),
    "block of bright padding": (lambda a: filled(a, 4095, *CORNER), 0, "padding (4095)"),
    "marked far below": (lambda a: marked(a, -1024), -1024, "far below the rest"),
    "marked with the least number": (lambda a: marked(a, -3.4e38), -3.4e38, "far below the rest"),
    "marked amid": (lambda a: marked(a, 120), 120, "not its darkest"),
    "marked white": (lambda a: marked(a, 4095), 4095, "not its darkest"),
    "negative": (lambda a: -a, 0, "inverts"),
    "photographic negative": (lambda a: 255 - a, 255, "inverts"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_whatever_the_background_holds_the_networks_see_the_same(name: str) -> None:
    values, inside = ball()
    change, main, word = SAME[name]
    image = image_of(change(values))
    view = view_of(image)
    assert word in view.note
    assert bool(view.note) == bool(word)
    assert (view.image is image) == (not word)
    plain, other = seen(view_of(image_of(values))), seen(view)
    if name == "planes of darker padding":
        plain, other, inside = plain[:-5], other[:-5], inside[:-5]
    assert np.corrcoef(plain[inside], other[inside])[0, 1] > 0.999
    assert np.abs(plain - other).mean() < 0.03
    assert other[~inside].max() < 1e-4
    np.testing.assert_array_equal(foreground(view.image)[: len(inside)], inside)
    if not np.isnan(main):
        assert view.outside == (pytest.approx(main) if main else None)
    assert Grid.of(view.image) == Grid.of(image)


@pytest.mark.parametrize("frame", [0.0, -5.0, 3000.0])
@pytest.mark.parametrize("change", [lambda a: a + 1000, scored])
def test_a_frame_of_padding_joins_the_background(
    frame: float, change: Callable[[Values], Values]
) -> None:
    values, inside = ball()
    padded = np.pad(change(values), 4, constant_values=frame)
    inner = (slice(4, -4),) * 3
    other = seen(view_of(image_of(padded)))
    assert np.corrcoef(seen(view_of(image_of(values)))[inside], other[inner][inside])[0, 1] > 0.999
    other[inner][inside] = 0
    assert other.max() < 1e-6


def test_values_of_the_background_inside_the_content_stay() -> None:
    values, _ = ball()
    amid = scored(values)
    amid[16:18, 20, 18] = 0
    view = view_of(image_of(amid))
    assert sitk.GetArrayFromImage(view.image)[16:18, 20, 18].tolist() == [0, 0]


def noisy(values: Values, deviation: float = 4.0) -> Values:
    noise = np.random.default_rng(1).normal(0, deviation, (2, *SIZE))
    return np.hypot(values + noise[0], noise[1])


@pytest.mark.parametrize("change", [lambda a: a, lambda a: np.round(a), lambda a: np.maximum(a, 3)])
def test_air_with_noise_is_no_flat_background(change: Callable[[Values], Values]) -> None:
    image = image_of(change(noisy(ball()[0])))
    assert background.find(sitk.GetArrayViewFromImage(image)) is None
    assert view_of(image) == View(image)


def test_dead_voxels_do_not_count_in_air_with_noise_either() -> None:
    values = noisy(ball()[0])
    view = view_of(image_of(dead(values, -400, -32768)))
    assert "single voxels down to -32768" in view.note
    np.testing.assert_allclose(seen(view).mean(), seen(view_of(image_of(values))).mean(), atol=1e-3)
    negative = view_of(image_of(values - 33792))
    assert (negative.note, negative.outside) == ("", pytest.approx((values - 33792).min()))


@pytest.mark.parametrize("shape", ["cube", "two cubes", "halves", "constant", "speck"])
def test_silhouettes_stay_as_they_are(shape: str) -> None:
    values = np.zeros(SIZE)
    if shape == "halves":
        values[:, 20:] = 80
    elif shape == "speck":
        values[9, 9, 9] = 5
    elif shape != "constant":
        values[8:25, 9:30, 7:28] = 900
        values[12:20, 12:20, 12:20] += 30 * (shape == "two cubes")
    image = image_of(values)
    assert view_of(image) == View(image)


def test_saturated_tissue_at_the_border_is_no_padding() -> None:
    values, _ = ball()
    x = np.arange(SIZE[2]) - 17.5
    neck = 300 - 4.0 * (x[:, None] ** 2 + (np.arange(SIZE[1]) - 19.5)[None] ** 2).T
    values[:6] = np.maximum(values[:6], neck.clip(0, 255))
    image = image_of(values)
    assert view_of(image).image is image


def cut_out(outside: float, voxels: int = 1) -> sitk.Image:
    """Lungs with vessels, and `outside` around them."""
    image, lung = chest()
    values = sitk.GetArrayFromImage(image)
    values[values > -740] = 40
    image = Grid.of(image).stamp(sitk.GetImageFromArray(values))
    return sitk.BinShrink(sitk.Mask(image, lung, outside), [voxels] * 3)


def metal(image: sitk.Image) -> sitk.Image:
    values = sitk.GetArrayFromImage(image)
    values[30:33, 20:23, 20:23] = 9000
    values[30:33, 20:23] += np.random.default_rng(0).normal(0, 2000, values[30:33, 20:23].shape)
    return sitk.GetImageFromArray(values)


CT: dict[str, Callable[[], sitk.Image]] = {
    "a chest": lambda: chest()[0],
    "at 12 mm": lambda: sitk.BinShrink(chest()[0], [3, 3, 3]),
    "cropped": lambda: chest()[0][15:60, 10:50, 20:60],
    "with metal": lambda: metal(chest()[0]),
    "with noise": lambda: sitk.AdditiveGaussianNoise(chest()[0], 50.0, 0.0, 1),
    **{f"lungs in {v}": lambda v=v: cut_out(v) for v in (-1000, -1024, 0, -2000, -3024)},
    "lungs in -3024, at 8 mm": lambda: cut_out(-3024, 2),
}


@pytest.mark.parametrize("name", CT)
def test_a_ct_is_in_hounsfield_units_and_stays_as_it_is(name: str) -> None:
    image = CT[name]()
    assert in_hounsfield(sitk.GetArrayViewFromImage(image))
    assert read_intensities(image).hounsfield
    assert view_of(image) == View(image)


def body(air: float) -> Values:
    """A body of fat, soft tissue and bone, without lungs, in flat air."""
    values, inside = ball()
    rank = np.where(inside, values, 0)
    tissue = np.where(rank < 80, -100, np.where(rank < 190, 40, np.where(rank < 215, 60, 700)))
    return np.where(inside, tissue + RNG.normal(0, 12, SIZE), air)


@pytest.mark.parametrize("air", [-1000, -1024, -3024])
def test_a_body_in_flat_air_is_a_ct(air: float) -> None:
    assert in_hounsfield(body(air))
    assert not in_hounsfield(body(air) + 1024)


MR: dict[str, Callable[[Values], Values]] = {
    **{f"MR to {m} minus {o}": lambda a, m=m, o=o: a / 220 * m - o
       for m in (133, 255, 1000, 2000, 4095) for o in (1000, 1024)},
    **{f"MR to {m} marked -1024": lambda a, m=m: marked(a / 220 * m, -1024) for m in (133, 4095)},
    "noisy MR minus 1000": lambda a: noisy(a * 8, 20) - 1000,
    "phase": lambda a: np.where(a > 0, np.round((a - 140) * 40), 0),
    "phase with noise": lambda a: np.where(a > 0, (a - 140) * 40, RNG.uniform(-4096, 4096, SIZE)),
    "far below zero": lambda a: a - 33792,
    "z-scored times 500": lambda a: scored(a) * 500,
    "field map": lambda a: np.where(a > 0, (a - 140) * 8, 0),
    "negative": lambda a: -4 * a,
}  # fmt: skip


@pytest.mark.parametrize("name", MR)
def test_mr_with_a_low_minimum_is_not_in_hounsfield_units(name: str) -> None:
    values = MR[name](ball()[0])
    assert values.min() <= -500
    assert not in_hounsfield(values)


def test_lungs_cut_out_of_a_chest_are_still_segmented() -> None:
    assert lungs.segment(cut_out(0)) is not None


def test_evaluate_measures_the_same_foreground() -> None:
    values, _ = ball()
    image = image_of(values)
    field = np.random.default_rng(0).normal(0, 0.05, (*SIZE, 3))
    forward = Grid.of(image).stamp(sitk.GetImageFromArray(field, isVector=True))
    plain, other = (evaluate_images(forward, image_of(v)) for v in (values, scored(values)))
    assert plain.sdlogj == other.sdlogj > 0


def test_training_sees_what_the_registration_sees(tmp_path: Path) -> None:
    values, _ = ball()
    for name, given in (("a", values), ("b", scored(values)), ("c", values - 33792)):
        image = sitk.GetImageFromArray(given.astype(np.float32))
        image.SetSpacing((3.0, 3.0, 3.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    training = Training(size=(128, 160, 136))
    cache = build_cache(collect(tmp_path), training, tmp_path / "cache", lambda step, part: None)
    plain, other, offset = cache.images.astype(float)
    assert (plain[0] == 0).all()
    assert np.abs(plain - other).mean() < 3
    assert np.abs(plain - offset).mean() < 1
    (note,) = cache.warnings
    assert note.startswith(f"{tmp_path / 'b.nii.gz'} has a background of 0")
