"""What keeps fields smooth, and the factor that a user turns."""

import pytest
import torch
from samples import smooth_field

from hsyn_cli.config import presets
from hsyn_cli.config.architecture import SNNetConfig, Steps
from hsyn_cli.errors import UsageError
from hsyn_cli.fields.folding import determinant
from hsyn_cli.fields.regularity import WIDE_SIGMA, less_divergence, smoothed_where_flat
from hsyn_cli.fields.smoothing import gaussian, separable

SIZE = (20, 24, 22)
INNER = (..., slice(4, -4), slice(4, -4), slice(4, -4))


def coordinates() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z, y, x = torch.meshgrid(*(torch.arange(n).float() - n / 2 for n in SIZE), indexing="ij")
    return x, y, z


def divergence(u: torch.Tensor) -> torch.Tensor:
    return sum(torch.gradient(u[:, k], dim=3 - k)[0] for k in range(3))


def test_turns_and_shears_stay_and_even_growth_does() -> None:
    x, y, z = coordinates()
    for field in ((-y, x, 0 * x), (y * y, z * z, x * x), (x, y, z)):
        u = torch.stack(field)[None]
        torch.testing.assert_close(less_divergence(u, 0.9)[INNER], u[INNER], atol=1e-3, rtol=1e-4)


def test_changes_of_volume_fade_at_the_rate_of_diffusion() -> None:
    """A wave of div u along x loses the share that u_t = grad div u takes."""
    x, _, _ = coordinates()
    wave = 2 * torch.pi / 8
    u = torch.stack((torch.sin(wave * x), 0 * x, 0 * x))[None]
    rate = 2 - 2 * torch.cos(torch.tensor(wave))  # of one-sided differences
    out = less_divergence(u, 0.1)
    torch.testing.assert_close(out[INNER], (1 - 0.1 * rate) * u[INNER], atol=1e-4, rtol=1e-4)
    assert less_divergence(u, 0.0) is u


@pytest.mark.parametrize("diffusion", [0.1, 0.5, 3.0])
def test_no_amount_lets_a_rough_field_grow(diffusion: float) -> None:
    u = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    out = less_divergence(u, diffusion)
    assert out.square().sum() < u.square().sum()
    assert divergence(out).square().mean() < divergence(u).square().mean()


def test_volume_changes_get_more_even_and_the_way_stays() -> None:
    u = smooth_field(SIZE, 0.5, 3)
    rough = u + 0.1 * torch.randn(u.shape, generator=torch.Generator().manual_seed(1))
    out = less_divergence(rough, 1.0)
    before, after = (determinant(v, 1.0)[INNER].std() for v in (rough, out))
    assert after < 0.8 * before
    assert (out - rough).abs().mean() < 0.1


def test_the_field_is_smoothed_widely_only_where_the_images_say_nothing() -> None:
    u = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    say = torch.zeros(1, 1, *SIZE)
    say[..., 11:] = 1
    out = smoothed_where_flat(u, say, (0.6,) * 3)
    narrow, wide = (separable(u, gaussian(u, SIZE, sigma)) for sigma in (0.6, WIDE_SIGMA))
    torch.testing.assert_close(out[..., 11:], narrow[..., 11:])
    torch.testing.assert_close(out[..., :11], wide[..., :11])


def test_a_factor_of_smoothness_holds_at_every_level_and_stage() -> None:
    steps = Steps(3, step_sigma=1.5, field_sigma=0.5, calm=0.2, diffusion=0.3)
    twice = steps.smoother(2.0)
    assert (twice.step_sigma, twice.field_sigma) == (3.0, 1.0)
    assert (twice.calm, twice.diffusion) == pytest.approx((0.8, 1.2))
    assert steps.smoother(1.0) == steps
    config = SNNetConfig()
    for level, other in zip(config.levels, config.smoother(2.0).levels, strict=True):
        assert other.steps == (level.steps and level.steps.smoother(2.0))
    for name in presets.names():
        preset = presets.find(name)
        smoother = preset.smoother(2.0).refinement
        assert [s.steps for s in smoother] == [s.steps.smoother(2.0) for s in preset.refinement]


@pytest.mark.parametrize("factor", [0.0, -1.0, 5.0, float("nan")])
def test_factors_without_meaning_are_refused(factor: float) -> None:
    with pytest.raises(UsageError, match="smoothness"):
        presets.check_smoothness(factor)
