"""Noisy air becomes flat; a body keeps its dark parts and its edge, also in slabs and slices."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import voxel_points

from hsyn_cli.anatomy.air import without_air
from hsyn_cli.anatomy.intensity import content_box
from hsyn_cli.space import Grid

GRID = Grid((60, 72, 64), (3.0, 3.0, 3.0), (-90.0, -108.0, -96.0), tuple(np.eye(3).ravel()))


def scan(
    size: float = 1.0, noise: float = 1.5, air: float = 0.0, seed: int = 0
) -> tuple[sitk.Image, np.ndarray]:
    """A head of 100 with a dark hole and the noise of MR, and where the head is (Z, Y, X)."""
    draw = np.random.default_rng(seed)
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
        out = without_air(part)
        assert Grid.of(out) == Grid.of(part)
        flat = air_of(out)
        assert (flat & inside).sum() <= 1
        assert (flat & ~inside).sum() > 0.5 * (~inside).sum()


def test_a_body_that_touches_every_face_keeps_its_dim_parts() -> None:
    """Its air has no noise: what little the faces show of the body is not noise."""
    _, head = scan(noise=0.0)
    z, y, x = (np.flatnonzero(head.any(tuple({0, 1, 2} - {k}))) for k in range(3))
    box = tuple(slice(side[0] + 1, side[-1]) for side in (z, y, x))
    values = np.where(head, 6.0, 0.0)[box]
    values[30:34, 20:24, 20:24] = 100.0
    image = sitk.GetImageFromArray(values.astype(np.float32))
    assert without_air(image) is image
    low, high = (v.tolist() for v in content_box(image))
    assert (low, high) == ([0, 0, 0], [n - 1 for n in values.shape[::-1]])


def test_the_box_of_the_content_is_no_larger_for_it() -> None:
    image, head = scan()
    ends = [(a.min(), a.max()) for a in np.nonzero(head)[::-1]]
    low, high = content_box(without_air(image))
    for first, last, end in zip(low, high, ends, strict=True):
        assert end[0] - 2 <= first <= end[0] + 1
        assert end[1] - 1 <= last <= end[1] + 2


@pytest.mark.parametrize("seed", range(4))
def test_in_a_slice_no_speck_of_noise_counts(seed: int) -> None:
    image, head = scan(seed=seed)
    part, inside = image[:, :, 32:33], head[32:33]
    low, high = content_box(without_air(part))
    ends = [(a.min(), a.max()) for a in np.nonzero(inside)[::-1]]
    for first, last, end in zip(low[:2], high[:2], ends, strict=False):
        assert end[0] - 2 <= first <= last <= end[1] + 2


def test_cells_of_many_voxels_tell_a_body_in_more_noise() -> None:
    """Voxels of 1.3 mm, and sizes that the cells do not divide; padding on two faces."""
    size = (139, 167, 149)
    like = Grid(size, (1.3,) * 3, GRID.origin, GRID.direction)
    draw = np.random.default_rng(2)
    x, y, z = np.moveaxis(voxel_points(like), -1, 0)
    head = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + (z / 75) ** 2) < 1
    dim = head & (y < 0)
    clean = np.where(dim, 6.0, 100.0 * head)
    real, imaginary = 1.4 * draw.normal(size=(2, *head.shape))
    noisy = np.hypot(clean + real, imaginary)
    noisy[:, :3] = noisy[:3] = 0.0
    out = without_air(like.stamp(sitk.GetImageFromArray(noisy.astype(np.float32))))
    flat = air_of(out)
    assert (flat & head).sum() < 0.06 * head.sum()  # the edge of what is dim
    assert (flat & ~head).sum() > 0.8 * (~head).sum()


def test_dim_tissue_beside_bright_tissue_stays() -> None:
    """A body of 5 and a bright part of 100, in noise of 0.8."""
    image, head = scan(noise=0.8)
    values = sitk.GetArrayFromImage(image)
    dim = head & (np.indices(head.shape)[1] < 60)
    values[dim] *= 0.05
    out = without_air(GRID.stamp(sitk.GetImageFromArray(values)))
    assert (air_of(out) & head).sum() < 0.02 * head.sum()
    assert (air_of(out) & ~head).sum() > 0.7 * (~head).sum()


def test_clean_air_and_hounsfield_units_stay() -> None:
    clean, head = scan(noise=0.0)
    assert without_air(clean) is clean
    values = np.where(head, 60.0, -1000.0) + np.random.default_rng(1).normal(0, 20, head.shape)
    chest = GRID.stamp(sitk.GetImageFromArray(values.astype(np.float32)))
    assert without_air(chest) is chest
