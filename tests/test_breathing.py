"""Synthetic breathing: the field is true, of the size asked for, does not fold.

And keeps the lungs' mass.
"""

import numpy as np
import pytest
import torch
from samples import chest
from torch import Tensor

from hsyn_cli.anatomy.intensity import resample_image, resample_mask
from hsyn_cli.fields.folding import corner_determinant, determinant
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.sampling import compose, length, warp
from hsyn_cli.space import Grid
from hsyn_cli.training.breathing import NUMBERS, Breath, breathe
from hsyn_cli.training.objective import true_error

VOXEL = 5.0


def tensors() -> tuple[Tensor, Tensor]:
    image, lungs = chest(voxel=VOXEL)
    grid = Grid.of(image)
    return resample_image(image, grid), resample_mask(lungs, grid)


def breath(motion: float, seed: int = 0) -> Breath:
    random = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(seed))
    return breathe(*tensors(), VOXEL, motion, random)


@pytest.mark.parametrize("motion", [-40.0, -10.0, 20.0, 40.0])
def test_motion_is_as_large_as_asked_and_nothing_folds(motion: float) -> None:
    made = breath(motion)
    inside = made.fixed_lungs[:, 0] > 0.5
    assert float(length(made.truth)[inside].max()) == pytest.approx(abs(motion), rel=0.1)
    assert float(corner_determinant(made.truth, VOXEL).min()) > 0
    along = made.truth[:, 2][inside]
    assert float(along.abs().mean()) > 2 * float(made.truth[:, :2].abs().amax(1)[inside].mean())
    assert float((along * np.sign(motion)).mean()) > 0


def test_the_fixed_image_is_the_moving_one_seen_through_the_field_but_for_density() -> None:
    made = breath(20.0)
    body = (warp(made.moving, made.truth, VOXEL) > 0.6) & (made.fixed_lungs < 0.01)
    np.testing.assert_allclose(made.fixed[body], warp(made.moving, made.truth, VOXEL)[body])
    assert not torch.equal(made.fixed, warp(made.moving, made.truth, VOXEL))
    np.testing.assert_array_equal(made.fixed_lungs, warp(made.moving_lungs, made.truth, VOXEL))


@pytest.mark.parametrize("motion", [-30.0, 30.0])
def test_air_comes_and_goes_but_tissue_stays(motion: float) -> None:
    """Density times volume of each piece of lung."""
    made = breath(motion)
    assert (float(made.fixed_lungs.sum()) > 1.1 * float(made.moving_lungs.sum())) == (motion > 0)
    before = warp(made.moving, made.truth, VOXEL)
    volume = determinant(made.truth, VOXEL)[:, None]
    airy = (made.fixed_lungs > 0.999) & (before < 0.3)
    assert int(airy.sum()) > 1000
    np.testing.assert_allclose(made.fixed[airy], (before * volume)[airy], rtol=1e-3)
    assert (float(volume[airy].mean()) < 1) == (motion > 0)


def test_the_chest_wall_stays_behind_the_lungs() -> None:
    made = breath(20.0)
    middle = made.truth[0, 2, 14:40, 24]  # z, x through both lungs
    assert float(middle[:, 0].abs().max()) < 0.5
    assert float(middle[:, 18].abs().max()) > 5.0  # x = -70 mm, in a lung


@pytest.mark.parametrize("motion", [-30.0, 30.0])
def test_a_chest_that_breathes_in_is_wider_and_deeper(motion: float) -> None:
    """The moving image is the smaller one then: left goes right, front goes back.

    Axes point left, back and up.
    """
    made = breath(motion)
    middle = made.truth[0, :, 20:40].mean(1)  # (3, y, x)
    sign = np.sign(motion)
    assert float(middle[0, 24, 46:54].mean()) * sign < 0 < float(middle[0, 24, 10:18].mean()) * sign
    assert float(middle[1, 8:16, 18].mean()) * sign > 0


def test_true_halves_have_no_error_and_none_at_all_has_that_of_the_motion() -> None:
    """The mean space may lie anywhere: here at a third of the way."""
    made = breath(20.0)
    to_fixed = -made.truth / 3
    to_moving = compose(to_fixed, made.truth, VOXEL)
    error = true_error(torch.cat((to_moving, to_fixed)), made.truth, made.fixed_lungs, VOXEL)
    assert float(error) == pytest.approx(0.1, abs=0.01)  # of the square root near 0
    still = true_error(
        torch.zeros(2, 3, *made.truth.shape[2:]), made.truth, made.fixed_lungs, VOXEL
    )
    moved = float((length(made.truth) * made.fixed_lungs[:, 0]).sum() / made.fixed_lungs.sum())
    assert float(still) == pytest.approx(moved, rel=0.01)


def test_a_breath_can_be_taken_back() -> None:
    made = breath(30.0)
    back = fixed_point_inverse(made.truth, VOXEL, -made.truth, tolerance=0.01)
    again = warp(made.fixed_lungs, back, VOXEL)
    assert float((again - made.moving_lungs).abs().mean()) < 0.02
