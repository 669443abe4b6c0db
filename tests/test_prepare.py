"""Where the working grid goes: it holds what both images show, whichever is called fixed."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, chest

from hsyn_cli.anatomy.intensity import RUN, content_box, foreground, pair_box, read_intensities
from hsyn_cli.space import Grid

IDENTITY = sitk.AffineTransform(3)


def image_with(direction: str, low: tuple[int, int, int], high: tuple[int, int, int]) -> sitk.Image:
    """Bright from index `low` to index `high` (x, y, z; inclusive)."""
    values = np.zeros((18, 20, 22), np.float32)
    values[tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))] = 50
    grid = Grid((22, 20, 18), (1.2, 0.9, 1.5), (3.0, -8.0, 20.0), DIRECTIONS[direction])
    return grid.stamp(sitk.GetImageFromArray(values))


@pytest.mark.parametrize(
    "shape", [(40, 44, 48), (1, 44, 48), (40, 1, 48), (40, 44, 1), (40, 44, 2)]
)
def test_content_ends_beside_noisy_air_in_volumes_and_slices(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).rayleigh(3, shape)
    box = tuple(slice(10, 30) if n > RUN else slice(None) for n in shape)
    values[box] += 400
    found = content_box(sitk.GetImageFromArray(values.astype(np.float32)))
    usual = [(10, 29) if n > RUN else (0, n - 1) for n in shape[::-1]]
    np.testing.assert_allclose(np.transpose(found), usual, atol=1)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_box_of_a_pair_is_the_same_whichever_is_fixed(direction: str) -> None:
    a, b = (
        image_with(direction, (3, 4, 5), (15, 9, 12)),
        image_with(direction, (6, 2, 7), (19, 8, 14)),
    )
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


def test_hounsfield_units_have_a_window_and_air_is_no_content() -> None:
    image, lungs = chest()
    grey = read_intensities(image)
    assert (grey.low, grey.high) == (-1000.0, 200.0)
    inside = foreground(image)
    assert inside[sitk.GetArrayViewFromImage(lungs) > 0].mean() > 0.95
    assert not inside[sitk.GetArrayViewFromImage(image) < -960].any()
