"""Forces of local NCC: where they point, what leaves them cold, what steps along them reach."""

from dataclasses import replace

import pytest
import torch
from samples import picture, smooth_field

from hsyn_cli.config import architecture as config
from hsyn_cli.config.architecture import Steps
from hsyn_cli.fields.folding import corner_determinant
from hsyn_cli.fields.sampling import warp
from hsyn_cli.method.forces import forces
from hsyn_cli.method.similarity.ncc import SIMILARITY
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.steps import pull
from hsyn_cli.method.where import Where, usual_contrast

ncc = SIMILARITY.value


def test_forces_point_where_the_similarity_rises_on_both_sides_alike() -> None:
    """Against the numerical derivative of NCC along a smooth direction.

    Moving the one image or the other.
    """
    b = picture((14, 16, 18), 1)
    a = warp(b, smooth_field((14, 16, 18), 0.3, 3), 1.0)
    found = forces(a, b, 5)
    for image, other, force in ((a, b, found[0]), (b, a, found[1])):
        before = ncc(image, other, 5).item()
        assert ncc(warp(image, 0.2 * force, 1.0), other, 5).item() > before
        assert ncc(warp(image, -0.2 * force, 1.0), other, 5).item() < before
        assert force.norm(dim=1).max() <= 0.5
    swapped = forces(b, a, 5)
    for one, other in zip(swapped, reversed(found), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_forces_leave_alone_what_fits_and_what_is_flat() -> None:
    a = picture((12, 12, 12), 1)
    for force in forces(a, 0.2 + 0.5 * a, 5, inputs=config.InputConfig(epsilon=1e-9)):
        assert force.abs().max() < 0.01
    for force in forces(a, torch.full_like(a, 0.4), 5):
        assert force.abs().max() < 1e-3


def test_forces_of_a_ball_that_is_too_far_left_point_left() -> None:
    """What is pulled back: the warped image at x is the image at x + u(x).

    So a ball that should move right takes u < 0.
    """
    z, y, x = torch.meshgrid(*(torch.arange(20.0),) * 3, indexing="ij")
    left, right = (
        torch.exp(-((x - c) ** 2 + (y - 10) ** 2 + (z - 10) ** 2) / 18)[None, None] for c in (9, 11)
    )
    forward, backward = forces(left, right, 5)
    middle = (0, 0, slice(8, 13), slice(8, 13), slice(6, 15))
    assert forward[middle].mean() < -0.05
    assert backward[middle].mean() > 0.05


def ball(x0: float) -> torch.Tensor:
    z, y, x = torch.meshgrid(*(torch.arange(24.0),) * 3, indexing="ij")
    return torch.exp(-((x - x0) ** 2 + (y - 12) ** 2 + (z - 12) ** 2) / 18)[None, None]


def test_steps_bring_both_images_together_half_way_each() -> None:
    pair = torch.cat((ball(10), ball(14)))
    u = pull(pair, torch.zeros(2, 3, 24, 24, 24), 2.0, Steps(20))
    torch.testing.assert_close(pull(pair.flip(0), 0 * u, 2.0, Steps(20)), u.flip(0))
    assert (u[0] + u[1]).norm(dim=0).max() < 0.1 * u.norm(dim=1).max()  # the mean space stays
    assert u[0, 0, 12, 12, 12] == pytest.approx(-4.0, abs=1.0)  # 2 voxels of 2 mm
    assert corner_determinant(u, 2.0).min() > 0.3
    assert ncc(*warp(pair, u, 2.0).chunk(2), 5) > ncc(*pair.chunk(2), 5) + 0.1


def test_steps_in_one_direction_move_the_moving_image_alone() -> None:
    pair = torch.cat((ball(11), ball(13)))
    told: list[int] = []
    u = pull(
        pair,
        torch.zeros(2, 3, 24, 24, 24),
        1.0,
        Steps(20),
        config=config.SNNetConfig(symmetric=False),
        step_done=lambda: told.append(1),
    )
    assert len(told) == 20
    assert not u[1].any()
    assert u[0, 0, 12, 12, 12] == pytest.approx(-2.0, abs=0.6)


def test_doubt_calms_what_follows_noise_and_little_of_what_follows_shapes() -> None:
    torch.manual_seed(0)
    pair = torch.cat((ball(11), ball(13))) + 0.05 * torch.randn(2, 1, 24, 24, 24) + 0.2
    zero, steps = torch.zeros(2, 3, 24, 24, 24), Steps(10, calm=0.05)
    sure, unsure = (pull(pair, zero, 1.0, steps, where=Where(doubt=k)) for k in (0.0, 2.0))
    noise, shape = (..., slice(2, 6)), (0, 0, 12, 12, 12)
    assert unsure[noise].square().mean() < 0.8 * sure[noise].square().mean()
    assert unsure[shape] == pytest.approx(sure[shape].item(), rel=0.15)


def test_what_does_not_count_tells_nothing_of_the_noise() -> None:
    """Beyond the border of a cut image, contrast is 0; noise would seem to be 0, too."""
    torch.manual_seed(0)
    contrast, seen = 1 + torch.rand(1, 1, 8, 24, 24), torch.ones(2, 1, 8, 24, 24)
    weight = torch.ones_like(contrast)
    weight[:, :, :3] = 0
    inside, _ = usual_contrast(contrast[:, :, 3:], seen[:, :, 3:])
    found, _ = usual_contrast(contrast * weight, seen, weight)
    torch.testing.assert_close(found, inside)
    assert usual_contrast(contrast * weight, seen)[0].item() == 0


def test_momentum_brings_images_together_in_fewer_steps_and_stays_symmetric() -> None:
    pair, zero = torch.cat((ball(10), ball(14))), torch.zeros(2, 3, 24, 24, 24)
    plain, faster = (pull(pair, zero, 1.0, Steps(5, momentum=share)) for share in (0.0, 0.5))
    before, after = (
        (a - b).square().mean() for a, b in (warp(pair, u, 1.0).chunk(2) for u in (plain, faster))
    )
    assert after < 0.5 * before
    swapped = pull(pair.flip(0), zero, 1.0, Steps(5, momentum=0.5))
    torch.testing.assert_close(swapped, faster.flip(0), atol=1e-5, rtol=1e-5)
    one = Steps(1)
    assert torch.equal(
        pull(pair, zero, 1.0, one), pull(pair, zero, 1.0, replace(one, momentum=0.9))
    )


def test_where_nothing_counts_no_step_is_taken_and_a_batch_is_that_of_each() -> None:
    pairs = [torch.cat((ball(a), ball(b))) for a, b in ((11, 13), (12, 11))]
    zero = torch.zeros(2, 3, 24, 24, 24)
    assert not pull(pairs[0], zero, 1.0, Steps(3), where=Where(torch.zeros(2, 1, 24, 24, 24))).any()
    both = torch.stack(pairs, 1).flatten(0, 1)  # moving images first
    together = pull(both, torch.zeros(4, 3, 24, 24, 24), 1.0, Steps(3))
    for k, pair in enumerate(pairs):
        torch.testing.assert_close(
            together[k::2], pull(pair, zero, 1.0, Steps(3)), atol=1e-5, rtol=1e-5
        )


def test_maps_pull_where_the_images_are_flat_and_count_by_their_weight() -> None:
    flat = torch.full((2, 1, 24, 24, 24), 0.5)
    pair = torch.cat((flat, torch.cat((ball(10), ball(14)))), dim=1)
    zero = torch.zeros(2, 3, 24, 24, 24)
    assert not pull(pair, zero, 2.0, Steps(5)).any()  # a weight of 0
    u = pull(pair, zero, 2.0, Steps(20, tissue=16.0))
    assert u[0, 0, 12, 12, 12] == pytest.approx(-4.0, abs=1.0)  # 2 voxels of 2 mm
    assert u[1, 0, 12, 12, 12] == pytest.approx(4.0, abs=1.0)
    gentle = pull(pair, zero, 2.0, Steps(1, tissue=1.0))
    assert gentle.abs().max() < pull(pair, zero, 2.0, Steps(1, tissue=16.0)).abs().max()


def test_forces_of_maps_are_those_of_both_sides() -> None:
    a, b = picture((10, 12, 14), 1, batch=2), picture((10, 12, 14), 3, batch=2)
    a, b = (v.reshape(1, 2, 10, 12, 14) for v in (a, b))
    one, other = forces(a, b, 5)
    for force, swapped in zip((other, one), forces(b, a, 5), strict=True):
        torch.testing.assert_close(force, swapped, atol=1e-5, rtol=1e-5)


def test_levels_look_at_maps_and_at_what_counts() -> None:
    level = config.Level(1, 1, (4, 4), (4,), 5, forces=True, steps=Steps(10, tissue=16.0))
    net = SNNet(config.SNNetConfig(1.0, (level,), organ="lung"))
    flat = torch.full((1, 1, 24, 24, 24), 0.5)
    maps = torch.cat((ball(10), ball(14)))
    with torch.no_grad():
        still = net(flat, flat)[0]
        pulled = net(flat, flat, maps=maps)[0]
        held = net(flat, flat, maps=maps, where=Where(torch.zeros(2, 1, 24, 24, 24)))[0]
    assert still.abs().max() < 0.1  # an untrained net alone
    assert pulled[0, 0, 12, 12, 12] == pytest.approx(-2.0, abs=0.5)
    torch.testing.assert_close(held, still)


def test_noise_in_flat_tissue_moves_little() -> None:
    """Both images show the same; half of them is flat, and each has noise of its own there."""
    flat = torch.zeros(1, 1, 24, 24, 32)
    flat[..., 16:] = 1
    plain = torch.lerp(0.25 + 0.7 * picture((24, 24, 32), 1), torch.tensor(0.6), flat)
    noise = 0.05 * torch.randn(2, 1, 24, 24, 32, generator=torch.Generator().manual_seed(0))
    pair, u = plain + noise, torch.zeros(2, 3, 24, 24, 32)
    steps = Steps(8, rate=2.4, momentum=0.5, step_sigma=1.5, field_sigma=0.7, calm=0.2)
    moved = pull(pair, u, 1.0, steps).norm(dim=1).mean(0)
    assert moved[4:-4, 4:-4, 20:-4].mean() < 0.075  # 0.090 if noise says something about the field
