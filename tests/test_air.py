"""Noisy air becomes flat; a body keeps its dark parts and its edge, also in slabs and slices."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import voxel_points

from hsyn_cli.anatomy.air import without_air
from hsyn_cli.space import Grid

GRID = Grid((60, 72, 64), (3.0, 3.0, 3.0), (-90.0, -108.0, -96.0), tuple(np.eye(3).ravel()))


def scan(size: float = 1.0, noise: float = 1.5, air: float = 0.0) -> tuple[sitk.Image, np.ndarray]:
    """A head of 100 with a dark hole and the noise of MR, and where the head is (Z, Y, X)."""
    draw = np.random.default_rng(0)
    x, y, z = np.moveaxis(voxel_points(GRID), -1, 0)
    head = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + (z / 75) ** 2) < 1
    hole = np.sqrt(x**2 + (y / 2) ** 2 + z**2) < 15
    clean = 100.0 * (head & ~hole)
    real, imaginary = noise * draw.normal(size=(2, *clean.shape))
    noisy = np.hypot(clean + real, imaginary)
    grid = GRID.scaled(size)
    return grid.stamp(sitk.GetImageFromArray((air + noisy).astype(np.float32))), head


def air_of(image: sitk.Image) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(image)
    return np.asarray(values == values.min())


@pytest.mark.parametrize(("size", "air"), [(1.0, 0.0), (0.06, 0.0), (1.0, 40.0)])
def test_air_becomes_flat_and_the_body_stays(size: float, air: float) -> None:
    image, head = scan(size, air=air)
    out = without_air(image)
    flat = air_of(out)
    assert not (flat & head).sum() > 1  # the darkest voxel may lie in the hole
    assert (flat & ~head).sum() > 0.7 * (~head).sum()
    kept = sitk.GetArrayFromImage(out)[~flat]
    assert np.array_equal(kept, sitk.GetArrayFromImage(image)[~flat])
    assert Grid.of(out) == Grid.of(image)


def test_a_slab_and_a_slice_keep_what_they_surround() -> None:
    image, head = scan()
    for part, inside in ((image[:, :, 28:36], head[28:36]), (image[:, :, 32:33], head[32:33])):
        flat = air_of(without_air(part))
        assert (flat & inside).sum() <= 1
        assert (flat & ~inside).sum() > 0.5 * (~inside).sum()


def test_clean_air_and_hounsfield_units_stay() -> None:
    clean, head = scan(noise=0.0)
    assert without_air(clean) is clean
    values = np.where(head, 60.0, -1000.0) + np.random.default_rng(1).normal(0, 20, head.shape)
    chest = GRID.stamp(sitk.GetImageFromArray(values.astype(np.float32)))
    assert without_air(chest) is chest
