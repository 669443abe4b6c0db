"""Warp, compose, resize, smoothing and determinants on fields whose answer is known."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import (
    DIRECTIONS,
    GRIDS,
    INNER,
    SIZE,
    centred,
    constant,
    field_image,
    linear,
    picture,
    smooth_field,
    turned,
    voxel_points,
)

from hsyn_cli.fields import folding, smoothing
from hsyn_cli.fields import sampling as fields
from hsyn_cli.space import Grid, field_from_lps


def test_warp_by_whole_voxels_is_a_shift() -> None:
    image = torch.rand(1, 1, *SIZE)
    moved = fields.warp(image, constant(2 * 1.5, -1 * 1.5, 3 * 1.5), 1.5)
    torch.testing.assert_close(moved[..., :-3, 1:, :-2], image[..., 3:, :-1, 2:], atol=1e-5, rtol=0)


def test_warp_holds_the_border_value_outside() -> None:
    image = torch.rand(1, 1, *SIZE)
    moved = fields.warp(image, constant(100, 0, 0), 1.0)
    torch.testing.assert_close(moved, image[..., -1:].expand_as(image), atol=1e-5, rtol=0)


def test_warp_by_a_linear_field_reads_a_linear_picture_exactly() -> None:
    place = centred(SIZE, 2.0)
    image = (place * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    u = linear(np.reshape(turned(0.1, -0.1, 0.2), (3, 3)), spacing=2.0)
    moved = fields.warp(image, u, 2.0)
    there = place + u
    expected = (there * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(moved[INNER], expected[INNER], atol=1e-4, rtol=0)


def test_warp_agrees_with_simpleitk() -> None:
    grid = Grid(SIZE[::-1], (1.5,) * 3, (3.0, -4.0, 5.0), DIRECTIONS["LPS"])
    image, u = picture(SIZE), 1.5 * smooth_field(SIZE, 0.3, 1)
    chain = sitk.DisplacementFieldTransform(field_image(grid, u[0].movedim(0, -1).numpy()))
    moved = sitk.Resample(grid.stamp(sitk.GetImageFromArray(image[0, 0].numpy())), chain)
    ours = fields.warp(image, u, 1.5)[0, 0].numpy()
    np.testing.assert_allclose(
        ours[1:-1, 1:-1, 1:-1], sitk.GetArrayFromImage(moved)[1:-1, 1:-1, 1:-1], atol=1e-4
    )


def test_a_batch_of_two_is_two_of_one() -> None:
    u, v = smooth_field(SIZE, 0.3, 2, batch=2), smooth_field(SIZE, 0.2, 3, batch=2)
    for function in (
        lambda a, b: fields.compose(a, b, 1.0),
        lambda a, b: fields.resize_linear(a, (6, 9, 7)),
        lambda a, b: folding.determinant(a, 1.3),
        lambda a, b: folding.corner_determinant(a, (1.0, 1.2, 0.7)),
        lambda a, b: smoothing.separable(a, smoothing.gaussian(a, (22, 16, 28), 0.7)),
    ):
        both = function(u, v)
        for k in range(2):
            torch.testing.assert_close(
                both[k], function(u[k : k + 1], v[k : k + 1])[0], atol=1e-6, rtol=1e-6
            )


def test_translations_compose_by_addition_and_rotations_by_product() -> None:
    moved = fields.compose(constant(1, 2, 0), constant(0.5, -1, 1), 1.0)
    torch.testing.assert_close(moved, constant(1.5, 1, 1))
    a, b = (np.reshape(turned(*angles), (3, 3)) for angles in ((0.1, 0, 0.05), (0, -0.1, 0.1)))
    chained = fields.compose(linear(a, spacing=2.0), linear(b, spacing=2.0), 2.0)
    torch.testing.assert_close(chained[INNER], linear(b @ a, spacing=2.0)[INNER], atol=1e-4, rtol=0)


def test_composition_means_one_warp_after_the_other() -> None:
    image = picture((24, 20, 22))
    u_ab, u_bc = smooth_field((24, 20, 22), 0.2, 4), smooth_field((24, 20, 22), 0.2, 5)
    once = fields.warp(image, fields.compose(u_ab, u_bc, 1.0), 1.0)
    twice = fields.warp(fields.warp(image, u_bc, 1.0), u_ab, 1.0)
    assert (once - twice).abs().mean() < 0.001


def test_resize_keeps_millimetres_and_linear_fields() -> None:
    fine, coarse = (
        linear(np.diag([1.1, 0.9, 1.05]), (12, 8, 16), 1.0),
        linear(np.diag([1.1, 0.9, 1.05]), (6, 4, 8), 2.0),
    )
    up = fields.resize_linear(coarse, (12, 8, 16))
    torch.testing.assert_close(
        up[..., 1:-1, 1:-1, 1:-1], fine[..., 1:-1, 1:-1, 1:-1], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(fields.downsample(fine, 2), coarse, atol=1e-5, rtol=0)
    assert fields.resize_linear(fine, (12, 8, 16)) is fine
    assert fields.downsample(fine, 1) is fine


@pytest.mark.parametrize("target", [SIZE, (22, 16, 28), (5, 4, 7)])
def test_gaussian_keeps_constants_and_is_a_gaussian(target: tuple[int, int, int]) -> None:
    u = constant(1.0, -2.0, 3.0)
    smoothed = smoothing.separable(u, smoothing.gaussian(u, target, 0.8))
    torch.testing.assert_close(smoothed, constant(1.0, -2.0, 3.0, target))
    if target == SIZE:
        point = torch.zeros(1, 1, 21, 21, 21)
        point[..., 10, 10, 10] = 1
        seen = smoothing.separable(point, smoothing.gaussian(point, (21, 21, 21), 1.5))
        at = torch.arange(21.0) - 10
        bell = torch.exp(-0.5 * (at / 1.5) ** 2)
        bell /= bell.sum()
        expected = bell[:, None, None] * bell[:, None] * bell
        torch.testing.assert_close(seen[0, 0], expected, atol=1e-5, rtol=0)


def test_separable_is_one_matrix_per_axis() -> None:
    x = torch.rand(2, 3, 4, 5, 6)
    operator = (torch.rand(7, 4), torch.rand(3, 5), torch.rand(2, 6))
    expected = torch.einsum("bczyx,kz,ly,mx->bcklm", x, *operator)
    torch.testing.assert_close(
        smoothing.separable(x, tuple(smoothing.banded(m) for m in operator)), expected
    )


def test_forward_differences_take_the_spacing_of_their_axis() -> None:
    u = linear(np.diag([1.1, 1.2, 1.3]), spacing=1.0)
    dx, dy, dz = folding.forward_differences(u, (2.0, 4.0, 5.0))
    assert (dx.shape[-1], dy.shape[-2], dz.shape[-3]) == (SIZE[2] - 1, SIZE[1] - 1, SIZE[0] - 1)
    torch.testing.assert_close(dx[:, 0], torch.full_like(dx[:, 0], 0.1 / 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(dy[:, 1], torch.full_like(dy[:, 1], 0.2 / 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(dz[:, 2], torch.full_like(dz[:, 2], 0.3 / 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.eye(3), 1.0),
        (np.diag([1.25, 1.25, 1.25]), 1.25**3),
        (np.diag([0.8, 1.1, 0.9]), 0.8 * 1.1 * 0.9),
        (np.reshape(turned(0.2, 0.1, -0.3), (3, 3)), 1.0),
        (np.array([[1, 0.4, 0], [0, 1, -0.3], [0.2, 0, 1]]), 1 + 0.4 * -0.3 * 0.2),
        (np.diag([-0.5, 1, 1]), -0.5),
    ],
)
@pytest.mark.parametrize("determinant", [folding.determinant, folding.corner_determinant])
def test_determinants_of_linear_fields(
    matrix: np.ndarray, expected: float, determinant: object
) -> None:
    det = determinant(linear(matrix, spacing=1.5), 1.5)  # type: ignore[operator]
    assert det.shape == (1, *SIZE)
    torch.testing.assert_close(det, torch.full_like(det, expected), atol=1e-4, rtol=0)


def test_a_curl_has_determinant_one_plus_the_squared_angle() -> None:
    place = centred(SIZE, 1.0)
    curl = 0.1 * torch.stack((-place[:, 1], place[:, 0], 0 * place[:, 2]), dim=1)
    det = folding.determinant(curl, 1.0)
    torch.testing.assert_close(det, torch.full_like(det, 1.01), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_determinant_of_a_linear_field_on_any_grid(name: str) -> None:
    """A field in mm LPS, read along the grid's own axes, keeps its determinant.

    Also on mirrored grids.
    """
    grid = GRIDS[name]
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.15], [0.05, 0.0, 1.2]])
    points = voxel_points(grid)
    image = field_image(grid, points @ (matrix - np.eye(3)).T)
    u = torch.from_numpy(field_from_lps(image))[None]
    for det in (folding.determinant(u, grid.spacing), folding.corner_determinant(u, grid.spacing)):
        torch.testing.assert_close(
            det, torch.full_like(det, np.linalg.det(matrix)), atol=2e-4, rtol=0
        )


def test_the_corner_rule_sees_a_checkerboard_fold_that_central_differences_miss() -> None:
    u = torch.zeros(1, 3, *SIZE)
    u[:, 0] = 0.6 * (torch.arange(SIZE[2]) % 2)  # neighbours cross over: +0.6, -0.6, +0.6, ...
    central, corner = folding.determinant(u, 1.0), folding.corner_determinant(u, 1.0)
    torch.testing.assert_close(central[..., 1:-1], torch.ones_like(central[..., 1:-1]))
    torch.testing.assert_close(corner[..., 1:-1], torch.full_like(corner[..., 1:-1], 0.4))
    assert (folding.corner_determinant(2 * u, 1.0)[..., 1:-1] < 0).all()
    assert (folding.determinant(2 * u, 1.0)[..., 1:-1] > 0.99).all()


def test_the_corner_rule_by_brute_force_and_across_slabs() -> None:
    u = smooth_field((37, 5, 6), 0.8, 6).double()
    ours = folding.corner_determinant(u, (1.0, 0.5, 2.0))[0].numpy()
    values = u[0].numpy()
    steps = (1.0, 0.5, 2.0)
    for z, y, x in (
        (0, 0, 0),
        (15, 2, 3),
        (16, 2, 3),
        (17, 1, 1),
        (31, 4, 5),
        (32, 0, 2),
        (36, 4, 5),
    ):
        dets = []
        for signs in np.ndindex(2, 2, 2):
            columns = []
            for axis, (sign, step) in enumerate(zip(signs, steps, strict=True)):
                n, at = values.shape[3 - axis], (z, y, x)[2 - axis]
                forward = (sign and at < n - 1) or at == 0
                a, b = [z, y, x], [z, y, x]
                (b if forward else a)[2 - axis] += 1 if forward else -1
                columns.append((values[:, b[0], b[1], b[2]] - values[:, a[0], a[1], a[2]]) / step)
            dets.append(np.linalg.det(np.eye(3) + np.stack(columns, axis=1)))
        assert ours[z, y, x] == pytest.approx(min(dets), abs=1e-9)


def test_sample_affine_is_sampling_point_by_point() -> None:
    u = smooth_field((9, 8, 10), 0.4, 7)
    matrix = torch.from_numpy(np.reshape(turned(0.2, -0.1, 0.3), (3, 3)) * [0.7, 0.9, 1.1])
    offset = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64)
    size = (5, 6, 4)  # x, y, z
    out = fields.sample_affine(u, matrix, offset, size)
    assert out.shape == (1, 3, 4, 6, 5)
    image = sitk.GetImageFromArray(u[0].movedim(0, -1).double().numpy(), isVector=True)
    compared = 0
    for x, y, z in ((0, 0, 0), (4, 5, 3), (2, 3, 1), (1, 4, 2)):
        at = (matrix @ torch.tensor([x, y, z], dtype=torch.float64) + offset).tolist()
        if all(0 <= v <= n - 1 for v, n in zip(at, (10, 8, 9), strict=True)):
            expected = image.EvaluateAtContinuousIndex(at, sitk.sitkLinear)
            np.testing.assert_allclose(out[0, :, z, y, x], expected, atol=1e-4)
            compared += 1
    assert compared >= 3
