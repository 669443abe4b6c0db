"""Where the working grid goes: it holds what both images show, whichever is called fixed."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, chest

from hsyn_cli.prepare import content_box, flattened, foreground, intensity_range, pair_box
from hsyn_cli.space import Grid

IDENTITY = sitk.AffineTransform(3)


def image_with(direction: str, low: tuple[int, int, int], high: tuple[int, int, int]) -> sitk.Image:
    """Bright from index `low` to index `high` (x, y, z; inclusive)."""
    values = np.zeros((18, 20, 22), np.float32)
    values[tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))] = 50
    grid = Grid((22, 20, 18), (1.2, 0.9, 1.5), (3.0, -8.0, 20.0), DIRECTIONS[direction])
    return grid.stamp(sitk.GetImageFromArray(values))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_box_of_a_pair_is_the_same_whichever_is_fixed(direction: str) -> None:
    a, b = image_with(direction, (3, 4, 5), (15, 9, 12)), image_with(direction, (6, 2, 7), (19, 8, 14))
    np.testing.assert_array_equal(content_box(a), [(3, 4, 5), (15, 9, 12)])
    np.testing.assert_allclose(pair_box(a, b, IDENTITY), [(3, 2, 5), (19, 9, 14)], atol=1e-9)
    np.testing.assert_allclose(pair_box(b, a, IDENTITY), pair_box(a, b, IDENTITY), atol=1e-9)


def test_moving_content_counts_where_the_affine_puts_it_and_inside_the_fixed_image_only() -> None:
    a, b = image_with("LPS", (3, 4, 5), (15, 9, 12)), image_with("LPS", (6, 2, 7), (19, 8, 14))
    shift = sitk.AffineTransform(3)
    shift.SetTranslation(
        (-5 * 1.2, 0.0, -6 * 1.5)
    )  # fixed point -> moving point: the content comes 5 and 6 voxels later
    np.testing.assert_allclose(pair_box(a, b, shift), [(3, 2, 5), (21, 9, 17)], atol=1e-9)


def noisy_ball(noise: float = 1.5) -> tuple[sitk.Image, np.ndarray]:
    """A ball of value 100 in the noise of a magnitude image, 2 mm, and how far each voxel is from its middle."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(2.0 * np.arange(n) for n in (70, 80, 100)), indexing="ij")
    away = np.sqrt((x - 80) ** 2 + (y - 80) ** 2 + (z - 70) ** 2)
    values = np.hypot(100.0 * (away < 50) + rng.normal(0, noise, x.shape), rng.normal(0, noise, x.shape))
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    return image, away


def test_flattening_takes_a_bias_out_and_leaves_noise_dark() -> None:
    image, away = noisy_ball()
    x = np.arange(100)
    biased = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) * np.exp(np.sin(x / 12)).astype(np.float32))
    biased.SetSpacing(image.GetSpacing())
    inner = away < 40
    spread = {}
    for name, picture in (("plain", image), ("biased", biased)):
        flat = sitk.GetArrayFromImage(flattened(picture))
        spread[name] = flat[inner].std() / flat[inner].mean()
        assert flat[away > 70].mean() < 0.05 * flat[inner].mean()
    before = sitk.GetArrayFromImage(biased)[inner]
    assert spread["plain"] < 0.05
    assert spread["biased"] < 0.35 * before.std() / before.mean()


@pytest.mark.parametrize("size", [(60, 60, 4), (30, 30, 30), (9, 40, 40)])
def test_small_and_thin_images_are_not_shrunk_away(size: tuple[int, int, int]) -> None:
    image = sitk.Cast(sitk.GaussianSource(sitk.sitkFloat32, size, [5.0] * 3, [n / 2 for n in size]), sitk.sitkFloat32)
    image.SetSpacing((0.2, 0.2, 0.2))
    flat = flattened(image)
    assert all(n >= min(8, m) for n, m in zip(flat.GetSize(), size, strict=True))


def test_hounsfield_units_have_a_window_and_air_is_no_content() -> None:
    image, lungs = chest()
    assert intensity_range(image) == (-1000.0, 200.0)
    inside = foreground(image)
    assert inside[sitk.GetArrayViewFromImage(lungs) > 0].mean() > 0.95
    assert not inside[sitk.GetArrayViewFromImage(image) < -960].any()
