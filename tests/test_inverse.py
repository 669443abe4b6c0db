"""The exact inverse against known inverses and to its tolerance; taper; repair."""

import numpy as np
import pytest
import torch
from samples import INNER, centred, linear, smooth_field, turned

from hsyn_cli.fields.folding import corner_determinant, determinant
from hsyn_cli.fields.inverse import fixed_point_inverse, newton_step
from hsyn_cli.fields.repair import repair, taper
from hsyn_cli.fields.sampling import compose, sample_points, warp

SIZE = (18, 22, 20)


def residual(v: torch.Tensor, u: torch.Tensor, spacing: float) -> torch.Tensor:
    return compose(v, u, spacing).square().sum(1).sqrt()


def test_sample_points_and_its_derivative() -> None:
    u = smooth_field((7, 6, 8), 0.4, 0)[0].double()
    index = torch.from_numpy(np.random.default_rng(1).uniform(0.05, 4.9, (40, 3)))
    slope = sample_points(u, index)[1]
    step = 1e-4
    for k in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[k] = step
        ahead, behind = (sample_points(u, index + s * move)[0] for s in (1, -1))
        same_cell = (torch.floor(index + move) == torch.floor(index - move)).all(1)
        numeric = ((ahead - behind) / (2 * step))[same_cell]
        torch.testing.assert_close(slope[same_cell][:, :, k], numeric, atol=1e-6, rtol=0)
    whole = torch.tensor([[0.0, 0, 0], [7, 5, 6], [3, 2, 1]], dtype=torch.float64)
    expected = torch.stack([u[:, int(z), int(y), int(x)] for x, y, z in whole])
    torch.testing.assert_close(sample_points(u, whole)[0], expected)


def test_sample_points_holds_the_border_outside() -> None:
    u = smooth_field((7, 6, 8), 0.4, 0)[0]
    far = torch.tensor([[-9.0, -9, -9], [99, 99, 99]])
    torch.testing.assert_close(
        sample_points(u, far)[0], torch.stack((u[:, 0, 0, 0], u[:, -1, -1, -1]))
    )


def test_inverse_of_translation_scaling_and_rotation() -> None:
    shift = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE).contiguous()
    torch.testing.assert_close(
        fixed_point_inverse(shift, 1.5, torch.zeros_like(shift), 1e-3), -shift
    )
    for matrix in (np.diag([1.2, 0.85, 1.1]), np.reshape(turned(0.1, -0.05, 0.15), (3, 3))):
        u = linear(matrix, SIZE, 1.5)
        v = fixed_point_inverse(u, 1.5, -u, 1e-3)
        expected = linear(np.linalg.inv(matrix), SIZE, 1.5)
        torch.testing.assert_close(v[INNER], expected[INNER], atol=3e-3, rtol=0)


@pytest.mark.parametrize(("strain", "seed"), [(0.3, 1), (0.6, 2), (0.9, 1)])
def test_inverse_of_smooth_random_fields_is_within_the_tolerance(strain: float, seed: int) -> None:
    spacing, tolerance = 2.0, 0.01
    u = spacing * smooth_field(SIZE, strain, seed)
    assert corner_determinant(u, spacing).min() > 0, "the test wants fields that do not fold"
    for start in (torch.zeros_like(u), -u):
        v = fixed_point_inverse(u, spacing, start, tolerance)
        assert residual(v, u, spacing).max() < 1.5 * tolerance
        assert (
            residual(u, v, spacing).mean() < 0.05 * spacing
        )  # the other order is off by interpolation only


def test_a_step_closer_is_worth_more_than_a_fixed_point_sweep() -> None:
    u = smooth_field(SIZE, 0.6, 2)
    v = fixed_point_inverse(u, 1.0, -u, 1e-4) + 0.2 * smooth_field(SIZE, 0.3, 6)
    rest = v + warp(u, v, 1.0)
    before, after = residual(v, u, 1.0), residual(newton_step(v, rest, rest), u, 1.0)
    swept = residual(v - rest, u, 1.0)
    assert after.mean() < 0.3 * before.mean()
    assert after.mean() < 0.5 * swept.mean()


def test_invert_does_not_touch_its_arguments() -> None:
    u = smooth_field(SIZE, 0.8, 3)
    start = torch.zeros_like(u)
    before = u.clone()
    fixed_point_inverse(u, 1.0, start, 1e-3)
    assert torch.equal(u, before)
    assert not start.any()


def test_inverse_of_a_folding_field_ends_and_is_finite() -> None:
    u = smooth_field(SIZE, 2.5, 4)
    assert corner_determinant(u, 1.0).min() < 0
    v = fixed_point_inverse(u, 1.0, -u, 0.01)
    assert torch.isfinite(v).all()


def test_taper_is_zero_outside_and_one_inside() -> None:
    u = torch.ones(2, 3, *SIZE)
    out = taper(u, 1.5, 4)
    assert (out[..., 0, :, :].abs() + out[..., -1, :, :].abs()).max() < 1e-6
    torch.testing.assert_close(out[..., 4:-4, 4:-4, 4:-4], u[..., 4:-4, 4:-4, 4:-4])
    torch.testing.assert_close(out, out.flip(2, 3, 4))
    assert (out[..., 1:5, 9, 9].diff() > 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("outward", [-1.0, 1.0])
def test_a_large_field_does_not_fold_where_it_ends(axis: int, outward: float) -> None:
    """6 mm within 8 voxels of 1 mm; what moves in stretches, and stays as it is."""
    u = torch.zeros(1, 3, 40, 40, 40)
    u[:, axis] = 6 * outward
    out = taper(u, 1.0, 8)
    along = out[0, axis].movedim(2 - axis, 0)[:, 20, 20]
    assert corner_determinant(out, 1.0).min() > 0.05
    ends = along if outward < 0 else along.flip(0)
    assert ends[[0, -1]].abs().max() < 1e-6
    assert ends[:10].abs().le(0.6 * torch.arange(10) + 1e-5).all()  # moves out
    torch.testing.assert_close(ends[10:-8], torch.full((22,), 6 * outward))
    rise = 3 - 3 * torch.cos(torch.pi * torch.arange(8) / 8)
    torch.testing.assert_close(ends.flip(0)[:8], outward * rise)  # moves in


def test_repair_leaves_a_good_field_untouched() -> None:
    u = smooth_field(SIZE, 0.3, 5, batch=2)
    out, found = repair(u, 1.0, 0.1)
    assert found == 0
    assert torch.equal(out, u)


@pytest.mark.parametrize("least", [0.15, 0.3, 0.5])
def test_repair_ends_above_the_least_determinant_and_changes_only_the_neighbourhood(
    least: float,
) -> None:
    u = smooth_field((30, 24, 28), 0.2, 6)
    u[:, 0, 8:11, 8:11, 8:11] += 2.5
    u[:, 1, 20, 15, 20] -= 4.0
    bad = corner_determinant(u, 1.0) < least
    out, found = repair(u, 1.0, least)
    assert bad.any()
    assert found == int((corner_determinant(u, 1.0) <= 0).sum()) > 0
    assert corner_determinant(out, 1.0).min() >= least - 1e-4
    assert determinant(out, 1.0).min() > 0
    torch.testing.assert_close(out[..., :, :3], u[..., :, :3])  # far from both folds
    changed = ((out - u).abs().sum(1) > 1e-6).float().mean()
    assert changed < 0.5


@pytest.mark.parametrize("size", [(20, 20, 20), (9, 37, 16)])
def test_repair_ends_at_the_border_too(size: tuple[int, int, int]) -> None:
    """A fold by compression in the last planes, in a tile that overlaps another."""
    u = torch.zeros(1, 3, *size)
    u[:, 0, 2:7, 5:12, -1] -= 1.6
    u[:, 2, :1, 4:9, 3:7] += 1.5
    assert (corner_determinant(u, 1.0) < 0).any()
    out, _ = repair(u, 1.0, 0.3)
    assert corner_determinant(out, 1.0).min() >= 0.3


def test_repair_of_a_batch_is_that_of_each() -> None:
    u = torch.cat((smooth_field(SIZE, 0.3, 7), smooth_field(SIZE, 1.8, 8)))
    both, found = repair(u, 1.0, 0.2)
    assert torch.equal(both[0], u[0])
    single, alone = repair(u[1:], 1.0, 0.2)
    assert found == alone > 0
    torch.testing.assert_close(both[1:], single)


def test_repair_scales_with_the_voxel() -> None:
    u = smooth_field(SIZE, 1.8, 9)
    one, _ = repair(u, 1.0, 0.2)
    three, _ = repair(3 * u, 3.0, 0.2)
    torch.testing.assert_close(three, 3 * one, atol=1e-4, rtol=1e-4)


def test_centred_is_what_the_tests_say() -> None:
    assert centred(SIZE, 2.0)[0, :, -1, -1, -1].tolist() == [19.0, 21.0, 17.0]


def test_repair_ends_where_a_field_folds_over_a_wide_part() -> None:
    """Means over neighbours alone leave folds after all rounds."""
    u = 3 * torch.randn(1, 3, 36, 36, 36, generator=torch.Generator().manual_seed(0))
    u = torch.nn.functional.avg_pool3d(u, 3, 1, 1)
    u[:, 0] -= 1.2 * torch.arange(36).clamp(8, 28)
    assert (corner_determinant(u, 1.0) <= 0).float().mean() > 0.5
    out, _ = repair(u, 1.0, 0.25)
    assert corner_determinant(out, 1.0).min() >= 0.25
