"""SN-Net, DI-Net and their U-Net: shapes, symmetry, padding, gradients.

And the way into a checkpoint.
"""

import json
from dataclasses import replace

import pytest
import torch
from samples import picture, smooth_field, tiny_networks

from hsyn_cli.config import architecture as config
from hsyn_cli.fields.sampling import downsample, resize_linear, warp
from hsyn_cli.method.di_net import DINet, inverse_loss
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import UNet, fold

SIZE = (24, 32, 40)


@pytest.mark.parametrize(("stride", "size"), [(1, (9, 14, 11)), (2, (10, 14, 18)), (1, (8, 16, 8))])
def test_unet_takes_any_size_and_answers_at_its_stride(
    stride: int, size: tuple[int, int, int]
) -> None:
    net = UNet(2, stride, (4, 6, 8), (4, 3))
    out = net(torch.rand(2, 2, *size))
    assert out.shape == (2, 3, *(n // stride for n in size))
    assert out.dtype == torch.float32
    assert 0 < out.abs().max() < 0.01  # untrained, it answers almost zero


def test_unet_of_a_batch_is_that_of_each_and_every_parameter_is_used() -> None:
    net = UNet(2, 2, (4, 6, 8), (5, 3))
    x = torch.rand(2, 2, 10, 12, 14)
    both = net(x)
    for k in range(2):
        torch.testing.assert_close(both[k], net(x[k : k + 1])[0], atol=1e-8, rtol=1e-3)
    both.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_unet_moves_with_its_input() -> None:
    """A shift by the deepest cell shifts the answer: nothing depends on where a voxel lies."""
    net = UNet(1, 1, (4, 6), (4,))
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    x = torch.zeros(1, 1, 32, 32, 32)
    x[..., 12:18, 12:18, 12:18] = torch.rand(6, 6, 6)
    moved = net(x.roll((2, 4, -2), (2, 3, 4)))
    inner = (..., slice(12, 20), slice(12, 20), slice(12, 20))
    torch.testing.assert_close(
        moved[inner], net(x).roll((2, 4, -2), (2, 3, 4))[inner], atol=1e-5, rtol=1e-4
    )


def test_fold_loses_nothing_and_keeps_cells_together() -> None:
    x = torch.arange(2 * 4 * 6 * 8.0).reshape(1, 2, 4, 6, 8)
    folded = fold(x, 2)
    assert folded.shape == (1, 16, 2, 3, 4)
    assert sorted(folded.flatten().tolist()) == x.flatten().tolist()
    torch.testing.assert_close(folded.reshape(1, 2, 8, 2, 3, 4).mean(2), downsample(x, 2))
    assert fold(x, 1) is x


@pytest.mark.parametrize("flow", [0.0, 0.3])
@pytest.mark.parametrize("depth", [1, 2, None])
def test_sn_net_is_exactly_symmetric(flow: float, depth: int | None) -> None:
    sn, _ = tiny_networks(2.0, flow)
    moving, fixed = picture(SIZE, 1), picture(SIZE, 2)
    with torch.no_grad():
        u_moving, u_fixed = sn(moving, fixed, depth)
        swapped = sn(fixed, moving, depth)
    assert u_moving.abs().max() > 0
    assert not torch.equal(u_moving, u_fixed)
    assert torch.equal(swapped[0], u_fixed)
    assert torch.equal(swapped[1], u_moving)


def test_sn_net_answers_at_the_stride_of_its_last_level() -> None:
    sn = SNNet(
        config.SNNetConfig(
            1.0,
            tuple(
                replace(v, encoder=(4, 6, 6, 6), head=(4, 4)) for v in config.SNNetConfig().levels
            ),
        )
    )
    pair = picture(SIZE, 1), picture(SIZE, 2)
    with torch.no_grad():
        for depth, stride in ((1, 4), (2, 2), (3, 2), (None, 2)):
            for u in sn(*pair, depth):
                assert u.shape == (1, 3, *(n // stride for n in SIZE))
    assert sn.config.multiple == 4


def test_sn_net_of_two_pairs_is_that_of_each() -> None:
    sn, _ = tiny_networks(2.0, 0.3)
    moving, fixed = picture(SIZE, 1, batch=2), picture(SIZE, 2, batch=2)
    with torch.no_grad():
        both = sn(moving, fixed)
        for k in range(2):
            for one, two in zip(sn(moving[k : k + 1], fixed[k : k + 1]), both, strict=True):
                torch.testing.assert_close(one[0], two[k], atol=1e-5, rtol=1e-4)


def test_sn_nets_fields_are_millimetres() -> None:
    """The same images on voxels of another size: the same answer in voxels."""
    (one, _), (three, _) = tiny_networks(1.0, 0.3), tiny_networks(3.0, 0.3)
    pair = picture(SIZE, 1), picture(SIZE, 2)
    with torch.no_grad():
        for a, b in zip(one(*pair), three(*pair), strict=True):
            torch.testing.assert_close(3 * a, b, atol=1e-4, rtol=1e-4)


def test_a_level_adds_its_residual_before_the_field_so_far() -> None:
    """u <- compose(residual, previous).

    With a silent second level nothing but the resolution changes.
    """
    sn, _ = tiny_networks(1.0, 0.3)
    torch.nn.init.zeros_(sn.levels[1].flow.weight)
    moving, fixed = picture(SIZE, 1), picture(SIZE, 2)
    with torch.no_grad():
        coarse, fine = sn(moving, fixed, 1)[0], sn(moving, fixed)[0]
    torch.testing.assert_close(fine, resize_linear(coarse, fine.shape[2:]))


def test_sn_net_can_learn_a_shift() -> None:
    sn, _ = tiny_networks(1.0)
    fixed = picture((16, 16, 24), 5)
    shift = torch.zeros(1, 3, *fixed.shape[2:])
    shift[:, 0] = 1.5
    moving = warp(fixed, shift, 1.0)
    adam = torch.optim.Adam(sn.parameters(), lr=1e-2)
    seen = []
    for _ in range(15):
        u_m, u_f = (resize_linear(u, fixed.shape[2:]) for u in sn(moving, fixed))
        loss = (warp(moving, u_m, 1.0) - warp(fixed, u_f, 1.0)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        seen.append(loss.item())
    assert seen[-1] < 0.7 * seen[0]


def test_an_untrained_di_net_makes_fixed_point_steps() -> None:
    _, di = tiny_networks(1.0)
    u = smooth_field((16, 20, 18), 0.3, 1, batch=2)
    with torch.no_grad():
        v = di(u, 1.0)
    expected = -u
    for _ in range(di.config.repeats):
        expected = -warp(u, expected, 1.0)
    torch.testing.assert_close(v, expected, atol=1e-3, rtol=0)


def test_di_net_answers_in_millimetres() -> None:
    _, di = tiny_networks(1.0, 0.3)
    u = smooth_field((16, 20, 18), 0.3, 1)
    with torch.no_grad():
        torch.testing.assert_close(di(2.5 * u, 2.5), 2.5 * di(u, 1.0), atol=1e-4, rtol=1e-4)


def test_di_net_learns_to_invert() -> None:
    _, di = tiny_networks(1.0)
    u = smooth_field((16, 20, 18), 0.9, 2)
    adam = torch.optim.Adam(di.parameters(), lr=3e-3)
    seen = []
    for _ in range(25):
        loss = inverse_loss(di(u, 1.0), u, 1.0, 0.001)
        adam.zero_grad()
        loss.backward()
        adam.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]


def test_inverse_loss_is_zero_for_nothing_and_small_for_an_inverse() -> None:
    nothing = torch.zeros(1, 3, 8, 9, 10)
    assert inverse_loss(nothing, nothing, 1.0, 0.001).item() == 0
    shift = nothing + 1.0
    assert inverse_loss(-shift, shift, 2.0, 0.001).item() == pytest.approx(0, abs=1e-9)
    assert inverse_loss(nothing, shift, 2.0, 0.001).item() == pytest.approx(3 / 4)


def test_a_level_that_sees_forces_is_symmetric_and_goes_on_from_its_answer() -> None:
    """Asked twice is the same as asking once more with the answer so far."""
    torch.manual_seed(0)
    level = config.Level(
        scale=2, stride=1, encoder=(4, 6), head=(4,), window=5, forces=True, repeats=2
    )
    sn = SNNet(config.SNNetConfig(spacing=1.0, levels=(level,)))
    for p in sn.parameters():
        torch.nn.init.normal_(p, std=0.1)
    moving, fixed = (picture((16, 20, 12), k, batch=2) for k in (1, 2))
    with torch.no_grad():
        u_m, u_f = sn(moving, fixed)
        swapped = sn(fixed, moving)
        pair = downsample(torch.cat((moving, fixed)), 2)
        once = sn.step(0, pair, None)
        twice = sn.step(0, pair, once)
    assert u_m.abs().max() > 0.05
    torch.testing.assert_close(swapped, (u_f, u_m), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twice, torch.cat((u_m, u_f)), atol=1e-5, rtol=1e-5)
    assert (once - twice).abs().max() > 1e-2


def test_a_level_goes_along_the_forces_first_and_its_net_corrects_that() -> None:
    """Untrained, the net adds nothing to speak of; symmetric still."""
    level = config.Level(
        scale=2, stride=1, encoder=(4, 6), head=(4,), window=5, forces=True, steps=config.Steps(5)
    )
    sn = SNNet(config.SNNetConfig(spacing=1.0, levels=(level, replace(level, scale=1))))
    moving, fixed = (picture((32, 40, 24), k) for k in (1, 2))
    with torch.no_grad():
        u_m, u_f = sn(moving, fixed)
        swapped = sn(fixed, moving)
        coarse = sn(moving, fixed, depth=1)[0]
    assert u_m.abs().max() > 0.1
    assert u_m.shape[2:] == moving.shape[2:]
    assert coarse.shape[2:] == (16, 20, 12)
    torch.testing.assert_close(swapped, (u_f, u_m), atol=1e-3, rtol=1e-3)
    assert (u_m + u_f).abs().mean() < 0.05 * u_m.abs().mean()  # the mean space stays in the middle


def test_configs_survive_json() -> None:
    sn, di = tiny_networks(2.5)
    assert config.sn_net_from_dict(json.loads(json.dumps(config.to_dict(sn.config)))) == sn.config
    assert config.di_net_from_dict(json.loads(json.dumps(config.to_dict(di.config)))) == di.config
    with pytest.raises(TypeError):
        config.di_net_from_dict({**config.to_dict(di.config), "surprise": 1})
    default = DINet(config.DINetConfig())
    assert sum(p.numel() for p in default.parameters()) > 10_000
