"""Label maps: the label with the largest linear weight, and the table of volumes."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, GRIDS, turned

from hsyn_cli.space import Grid
from hsyn_cli.tools import labels

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def centred(
    size: tuple[int, int, int], spacing: tuple[float, float, float], axes: tuple[float, ...]
) -> Grid:
    """A grid about the origin."""
    start = Grid(size, spacing, (0.0, 0.0, 0.0), axes)
    x, y, z = (-start.points((np.array(size) - 1) / 2)).tolist()
    return Grid(size, spacing, (x, y, z), axes)


MOVING = centred((11, 9, 10), (1.3, 0.9, 1.7), DIRECTIONS["oblique mirror"])
TURN = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3, (0.4, -0.7, 0.2))


def blocks(pixel: type = np.int16, seed: int = 0) -> sitk.Image:
    """Random labels 0 to 4 in blocks of 3 voxels on MOVING."""
    coarse = np.random.default_rng(seed).integers(0, 5, (4, 4, 4))
    fine = (
        coarse.repeat(3, 0)
        .repeat(3, 1)
        .repeat(3, 2)[: MOVING.size[2], : MOVING.size[1], : MOVING.size[0]]
    )
    return MOVING.stamp(sitk.GetImageFromArray(fine.astype(pixel)))


def one_hot(image: sitk.Image, reference: Grid, transform: sitk.Transform) -> np.ndarray:
    """(label, Z, Y, X): linear interpolation of each label's 0/1 image."""
    grid = (reference.origin, reference.spacing, reference.direction)
    return np.stack(
        [
            sitk.GetArrayFromImage(
                sitk.Resample(
                    sitk.Cast(image == k, sitk.sitkFloat64),
                    reference.size,
                    transform,
                    sitk.sitkLinear,
                    *grid,
                )
            )
            for k in range(5)
        ]
    )


@pytest.mark.parametrize("name", ["LPS", "oblique", "sagittal"])
def test_the_largest_of_the_interpolated_one_hot_images_wins(name: str) -> None:
    image = blocks()
    reference = centred((14, 13, 12), (0.9, 1.1, 0.8), DIRECTIONS[name])
    got = sitk.GetArrayFromImage(labels.resample(image, reference, TURN))
    shares = one_hot(image, reference, TURN)
    inside = shares.sum(0) > 0.5
    first, second = -np.sort(-shares, axis=0)[:2]
    clear = inside & (first - second > 1e-4)
    assert clear.mean() > 0.3
    np.testing.assert_array_equal(got[clear], shares.argmax(0)[clear])
    assert (got[~inside] == 0).all()
    assert (~inside).any()


def test_the_own_grid_gives_the_labels_back() -> None:
    for pixel in (np.uint8, np.int32, np.int64):
        image = blocks(pixel)
        moved = labels.resample(image, MOVING, IDENTITY)
        assert moved.GetPixelID() == image.GetPixelID()
        assert Grid.of(moved).same_as(MOVING)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(image))


def test_ids_beyond_the_reach_of_floats_stay() -> None:
    image = sitk.Cast(blocks(), sitk.sitkInt64)
    image[5, 5, 5] = top = 2**53 + 1
    assert labels.resample(image, MOVING, IDENTITY)[5, 5, 5] == top


def test_equal_weights_give_the_smallest_id_and_the_outside_the_default() -> None:
    line = GRIDS["LPS"].empty_image(sitk.sitkUInt8)
    line[4:, :, :] = 7
    line[:4, :, :] = 9
    half = Grid.of(line).shifted(np.array([0.5, 0, 0]))
    moved = labels.resample(line, half, IDENTITY, default=3)
    assert [moved[x, 5, 3] for x in (2, 3, 4, 7)] == [9, 7, 7, 7]
    moved = labels.resample(line, Grid.of(line).shifted(np.array([1.0, 0, 0])), IDENTITY, default=3)
    assert moved[8, 5, 3] == 3


def test_a_turned_ball_has_a_smoother_border_than_nearest_neighbour_gives() -> None:
    """Coarse labels on a fine grid: fewer neighbours differ."""
    grid = Grid((12, 12, 12), (2.0, 2.0, 2.0), (-11.0, -11.0, -11.0), turned(0.3, 0.2, 0.1))
    far = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij")), axis=0)
    image = grid.stamp(sitk.GetImageFromArray((far < 4).astype(np.uint8)))
    fine = Grid((48, 48, 48), (0.5, 0.5, 0.5), (-11.75, -11.75, -11.75), turned(0, 0, 0))
    smooth = sitk.GetArrayFromImage(labels.resample(image, fine, IDENTITY)).astype(int)
    grids = (fine.origin, fine.spacing, fine.direction)
    plain = sitk.Resample(image, fine.size, IDENTITY, sitk.sitkNearestNeighbor, *grids)
    stairs = sitk.GetArrayFromImage(plain).astype(int)

    def edges(values: np.ndarray) -> int:
        return sum(int(np.abs(np.diff(values, axis=k)).sum()) for k in range(3))

    assert edges(smooth) < 0.97 * edges(stairs)


def test_volumes_in_mm3_and_labels_lost() -> None:
    before = GRIDS["oblique"].empty_image(sitk.sitkInt16)  # voxels of 2.4 mm3
    after = GRIDS["LPS"].empty_image(sitk.sitkInt16)  # of 3.375
    before[0, 0, 0], before[1, 0, 0], before[2, 0, 0] = 5, 5, -2
    after[0, 0, 0], after[1, 0, 0] = 5, 8
    lost, kept, new = labels.changes(before, after)
    assert (lost.label, lost.lost, lost.percent) == (-2, True, -100)
    assert (kept.label, kept.lost) == (5, False)
    assert (kept.before, kept.after) == pytest.approx((4.8, 3.375))
    assert kept.percent == pytest.approx(-29.6875)
    assert (new.label, new.before, new.lost, new.percent) == (8, 0.0, False, float("inf"))
