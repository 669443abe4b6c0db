"""The figures of a pair against closed forms and plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, GRIDS, field_image, voxel_points

from hsyn_cli.fields.images import from_image
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools.evaluate import evaluate_images, target_errors
from hsyn_cli.tools.overlap import compare, hd95

every_grid = pytest.mark.parametrize("name", GRIDS)


def linear(grid: Grid, matrix: Array, shift: Array) -> sitk.Image:
    points = voxel_points(grid)
    return field_image(grid, points @ matrix.T + shift - points)


def blocks(grid: Grid, seed: int, ids: tuple[int, ...] = (3, 7, 30000)) -> sitk.Image:
    values = np.random.default_rng(seed).choice((0, *ids), size=grid.size[::-1]).astype(np.uint16)
    return grid.stamp(sitk.GetImageFromArray(values))


def picture(grid: Grid) -> sitk.Image:
    """0 in the two outermost layers, 1 within."""
    values = np.zeros(grid.size[::-1], np.float32)
    values[2:-2, 2:-2, 2:-2] = 1
    return grid.stamp(sitk.GetImageFromArray(values))


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxel by voxel: a voxel with one of six neighbours outside."""
    padded = np.pad(mask, 1)
    points = []
    for z, y, x in np.argwhere(mask):
        near = [padded[z + 1 + dz, y + 1 + dy, x + 1 + dx] for dz, dy, dx in
                ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))]  # fmt: skip
        if not all(near):
            points.append((x, y, z))
    return np.array(points, float)


def test_hd95_is_the_larger_of_two_percentiles_in_mm() -> None:
    """Against all distances between surface voxels; anisotropic voxels, masks at the border."""
    rng = np.random.default_rng(0)
    spacing = (0.7, 1.5, 3.0)
    for k in range(6):
        a, b = rng.random((2, 6, 9, 8)) < (0.3 + 0.1 * k)
        ends = [surface(mask) * spacing for mask in (a, b)]
        apart = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=-1)
        expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
        assert hd95(a, b, spacing) == pytest.approx(expected, abs=1e-4)
    assert hd95(a, a, spacing) == 0
    assert math.isnan(hd95(a, np.zeros_like(a), spacing))


def test_hd95_of_two_cubes_is_their_shift() -> None:
    a = np.zeros((20, 20, 20), bool)
    a[5:12, 5:12, 5:12] = True
    assert hd95(a, np.roll(a, 3, axis=0), (1.0, 1.0, 2.0)) == pytest.approx(6.0)
    assert hd95(np.ones((4, 4, 4), bool), np.ones((4, 4, 4), bool), (1.0, 1.0, 1.0)) == 0


@every_grid
def test_labels_are_compared_one_by_one(name: str) -> None:
    grid = GRIDS[name]
    fixed, warped = blocks(grid, 0), blocks(grid, 1, (3, 7, 9))
    a, b = (sitk.GetArrayFromImage(image) for image in (fixed, warped))
    scores = compare(fixed, warped, ignore={7})
    assert [score.label for score in scores] == [3, 30000]
    for score in scores:
        in_a, in_b = a == score.label, b == score.label
        assert score.dice == pytest.approx(
            2 * (in_a & in_b).sum() / (in_a.sum() + in_b.sum()), abs=1e-12
        )
        assert (score.fixed_voxels, score.warped_voxels) == (in_a.sum(), in_b.sum())
        assert score.hd95_mm == pytest.approx(hd95(in_a, in_b, grid.spacing), nan_ok=True, abs=1e-6)
    assert scores[1].dice == 0
    assert math.isnan(scores[1].hd95_mm)


@every_grid
def test_a_pair_with_a_known_map(name: str) -> None:
    """p -> A p + t and its inverse: determinant, spread, inverse error and labels are known."""
    grid = GRIDS[name]
    centre = grid.points((np.array(grid.size) - 1) / 2)
    shift = grid.index_to_point @ np.array([1.0, -2.0, 1.0])  # whole voxels
    forward = linear(grid, np.eye(3), shift)
    moving = blocks(grid, 2)
    expected = np.zeros_like(sitk.GetArrayFromImage(moving))
    expected[:-1, 2:, :-1] = sitk.GetArrayFromImage(moving)[1:, :-2, 1:]
    result = evaluate_images(
        forward,
        picture(grid),
        inverse=linear(grid, np.eye(3), -shift),
        fixed_labels=grid.stamp(sitk.GetImageFromArray(expected)),
        moving_labels=moving,
        landmarks=np.hstack(
            [[centre, centre + shift], [centre + shift, centre + 2 * shift + [3, 0, 4]]]
        ),
    )
    assert (result.folding.voxels, result.inverse_folding and result.inverse_folding.voxels) == (
        0,
        0,
    )
    assert result.sdlogj == pytest.approx(0, abs=1e-5)
    assert result.inverse_error is not None
    assert result.inverse_error.max_mm < 1e-4
    assert result.dice == 1
    assert result.hd95_mm == pytest.approx(0, abs=1e-5)
    points = result.landmarks
    assert points is not None
    assert (points.count, points.outside) == (2, 0)
    assert (points.after.mean_mm, points.after.max_mm) == pytest.approx((2.5, 5.0), abs=1e-4)


def test_both_round_trips_are_measured_at_every_voxel_of_the_content() -> None:
    """One voxel of the inverse field is off by 1 mm; only trips that meet it are."""
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), DIRECTIONS["LPS"])
    shift = np.array([2.0, 0.0, 0.0])
    forward = linear(grid, np.eye(3), shift)
    for x, met in ((7, 1.0), (1, 0.0)):  # p + shift = 1 for no p of the content
        inverse = linear(grid, np.eye(3), -shift)
        inverse[x, 4, 3] = [-2.0, 0.0, 1.0]
        mask = np.zeros((8, 10, 12), np.uint8)
        mask[2:6, 2:8, 3:8] = 1
        content = grid.stamp(sitk.GetImageFromArray(mask))
        found = evaluate_images(forward, picture(grid), inverse=inverse, fixed_mask=content)
        assert found.inverse_error is not None
        assert found.inverse_error_back is not None
        assert found.inverse_error.max_mm == pytest.approx(met, abs=1e-4)
        assert found.inverse_error_back.max_mm == pytest.approx(met, abs=1e-4)
        assert found.inverse_error_back.mean_mm == pytest.approx(met / 120, abs=1e-5)


def test_landmarks_before_and_after() -> None:
    grid = GRIDS["oblique"]
    matrix, shift = np.diag([1.02, 0.97, 1.0]), np.array([1.0, -2.0, 0.5])
    starts = grid.points(np.array([[2.5, 3, 4], [5, 6.25, 1], [4, 4, 4], [90, 0, 0]]))
    ends = starts @ matrix.T + shift + np.array([[0, 0, 0], [3, 0, 4], [0, 1, 0], [0, 0, 0]])
    found = target_errors(from_image(linear(grid, matrix, shift)), grid, np.hstack([starts, ends]))
    assert (found.count, found.outside) == (4, 1)
    assert (found.after.mean_mm, found.after.median_mm, found.after.max_mm) == pytest.approx(
        (2, 1, 5), abs=1e-4
    )
    before = np.linalg.norm(starts - ends, axis=1)
    assert found.before.mean_mm == pytest.approx(before.mean())
    assert found.before.median_mm == pytest.approx(np.median(before))
    nowhere = target_errors(torch.zeros(1, 3, 7, 12, 9), grid, np.hstack([starts, ends])[3:])
    assert (nowhere.outside, math.isnan(nowhere.after.mean_mm)) == (1, True)


@every_grid
def test_sdlogj_looks_at_the_foreground_or_the_mask_within_the_border(name: str) -> None:
    grid = GRIDS[name]
    values = np.random.default_rng(4).normal(0, 0.25, (*grid.size[::-1], 3))
    forward = field_image(grid, values)
    columns = [np.gradient(values, grid.spacing[k], axis=2 - k) for k in range(3)]
    det = np.linalg.det(np.stack(columns, -1) @ grid.axes.T + np.eye(3))
    logs = np.log(np.clip(det, 1e-9, 1e9))
    inner = np.zeros(det.shape, bool)
    inner[2:-2, 2:-2, 2:-2] = True
    assert evaluate_images(forward, picture(grid)).sdlogj == pytest.approx(
        logs[inner].std(), abs=1e-5
    )
    everywhere = np.ones(det.shape, np.uint8)
    mask = grid.stamp(sitk.GetImageFromArray(everywhere))
    result = evaluate_images(forward, picture(grid), fixed_mask=mask)
    assert result.sdlogj == pytest.approx(logs[1:-1, 1:-1, 1:-1].std(), abs=1e-5)
    assert result.folding.voxels == (det[1:-1, 1:-1, 1:-1] <= 0).sum()
    assert (result.labels, result.landmarks, result.inverse_error, result.dice) == (
        None,
        None,
        None,
        None,
    )


def test_a_fixed_image_of_another_grid_than_the_field() -> None:
    """Its foreground is taken over; the labels keep their own grid."""
    coarse = Grid((9, 12, 7), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), DIRECTIONS["LPS"])
    fine = Grid((17, 23, 13), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), DIRECTIONS["LPS"])
    labels = blocks(fine, 5)
    result = evaluate_images(
        linear(coarse, np.eye(3), np.zeros(3)),
        picture(fine),
        fixed_labels=labels,
        moving_labels=labels,
    )
    assert (result.dice, result.sdlogj) == (1, 0)


def test_json_has_no_nan() -> None:
    grid = GRIDS["LPS"]
    only = blocks(grid, 6, (3,))
    nothing = grid.empty_image(sitk.sitkUInt16)
    result = evaluate_images(
        linear(grid, np.eye(3), np.zeros(3)),
        picture(grid),
        fixed_labels=only,
        moving_labels=nothing,
    )
    plain = result.to_dict()
    assert (plain["dice"], plain["hd95_mm"], plain["labels"][0]["hd95_mm"]) == (0, None, None)
    assert plain["landmarks"] is None
