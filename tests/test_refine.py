"""Refinement: its fast gradient against finite differences, what it gains, what masks do."""

import numpy as np
import pytest
import torch
from samples import picture, smooth_field

from hsyn_cli import refine as module
from hsyn_cli.config import PRESETS, RefineStage
from hsyn_cli.fields import corner_determinant, determinant, gaussian, separable, warp
from hsyn_cli.inverse import repair
from hsyn_cli.refine import at_scale, field_terms, fold_penalty, local_ncc, refine

SIZE = (16, 20, 24)


def blobs(size: tuple[int, int, int], shift: float, sigma: float = 4.0) -> torch.Tensor:
    """(1, 1, Z, Y, X): three soft balls, moved by `shift` voxels along x."""
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    out = torch.zeros(size)
    for cx, cy, cz, high in ((0.35, 0.4, 0.5, 1.0), (0.6, 0.6, 0.4, 0.7), (0.5, 0.35, 0.65, 0.5)):
        centre = (cx * size[2] + shift, cy * size[1], cz * size[0])
        d = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        out += high * torch.exp(-0.5 * d / sigma**2)
    return (out / out.max())[None, None]


def test_the_fast_gradient_is_that_of_finite_differences_on_smooth_images() -> None:
    """Stated tolerance: directional derivatives within 10 % where pictures vary over several voxels."""
    image = torch.cat((blobs((24, 28, 32), 0.0), blobs((24, 28, 32), 1.5)))
    u = (0.1 * smooth_field((24, 28, 32), 0.2, 1, batch=2)).requires_grad_()
    spacing = 2.0

    def loss(field: torch.Tensor) -> torch.Tensor:
        moving, fixed = module.fast_warp(image, field, spacing).chunk(2)
        return -local_ncc(moving, fixed, 5, 1, epsilon=1e-3)

    (gradient,) = torch.autograd.grad(loss(u), u)
    for seed in (2, 3, 4):
        direction = smooth_field((24, 28, 32), 1.0, seed, batch=2)
        step = 1e-3
        with torch.no_grad():
            ends = [
                ncc64(warp(image.double(), u.double() + sign * step * direction.double(), spacing))
                for sign in (1, -1)
            ]
        numeric = (ends[1] - ends[0]) / (2 * step)
        analytic = float((gradient * direction).sum())
        assert analytic == pytest.approx(numeric, rel=0.1)


def ncc64(pair: torch.Tensor) -> float:
    """`local_ncc` with window 5, stride 1 and epsilon 1e-3 in float64."""
    z, y, x = (module.box_matrix(n, 5, 1, torch.device("cpu")).double() for n in pair.shape[2:])
    a, b = pair.chunk(2)
    ma, mb, aa, bb, ab = (separable(v, (z, y, x)) for v in (a, b, a * a, b * b, a * b))
    cross = ab - ma * mb
    return float((cross**2 / (aa - ma * ma + 1e-3) / (bb - mb * mb + 1e-3)).mean())


def test_the_fast_gradient_is_exact_inside_for_a_linear_image() -> None:
    x = torch.arange(24.0) / 24
    image = x.expand(1, 1, *SIZE).contiguous()
    u = torch.zeros(1, 3, *SIZE, requires_grad=True)
    module.fast_warp(image, u, 1.5).sum().backward()
    assert u.grad is not None
    inside = u.grad[..., 1:-1]
    torch.testing.assert_close(inside[:, 0], torch.full_like(inside[:, 0], 1 / 24 / 1.5))
    torch.testing.assert_close(inside[:, 1:], torch.zeros_like(inside[:, 1:]))


def test_refinement_raises_the_similarity_symmetrically_and_without_folds() -> None:
    pair = torch.cat((blobs(SIZE, 1.5, 3.0), blobs(SIZE, -1.5, 3.0)))
    start = torch.zeros(2, 3, 8, 10, 12)
    stages = (RefineStage(2, 10, 1.0, 0.4), RefineStage(1, 5, 0.5, 0.2))
    told: list[float] = []
    u = refine(start, pair, 2.0, stages, progress=told.append)
    assert u.shape == start.shape
    assert not u.requires_grad
    full = separable(u, gaussian(u, pair.shape[2:], module.UPSAMPLING_SIGMA))
    before = local_ncc(*pair.chunk(2), 5, 1).item()
    after = local_ncc(*warp(pair, full, 2.0).chunk(2), 5, 1).item()
    assert after > before + 0.5 * (1 - before) * 0.3
    assert determinant(full, 2.0).min() > 0
    assert told == pytest.approx(np.arange(1, 16) / 15)
    swapped = refine(start, pair.flip(0), 2.0, stages)
    torch.testing.assert_close(swapped, u.flip(0), atol=1e-3, rtol=1e-3)


def test_no_stages_change_nothing() -> None:
    u = smooth_field((8, 10, 12), 0.2, 1, batch=2)
    assert PRESETS["fast"] == ()
    assert torch.equal(refine(u, picture(SIZE, 1, batch=2), 1.0, ()), u)


@pytest.mark.parametrize("preset", ["default", "accurate"])
def test_presets_run_on_any_size_that_divides_by_four(preset: str) -> None:
    pair = torch.cat((blobs(SIZE, 0.5), blobs(SIZE, -0.5)))
    stages = [RefineStage(**{**vars(stage), "steps": 1}) for stage in PRESETS[preset]]
    u = refine(torch.zeros(2, 3, *(n // 2 for n in SIZE)), pair, 1.0, stages)
    assert u.shape[2:] == tuple(n // 2 for n in SIZE)
    assert torch.isfinite(u).all()
    assert u.abs().max() > 0


def test_refinement_is_the_same_each_time() -> None:
    pair = torch.cat((blobs(SIZE, 1.0), blobs(SIZE, -1.0)))
    stages = (RefineStage(1, 3, 1.0, 0.2),)
    start = torch.zeros(2, 3, 8, 10, 12)
    assert torch.equal(refine(start, pair, 1.0, stages), refine(start, pair, 1.0, stages))


def test_outside_the_masks_the_images_do_not_count() -> None:
    pair = torch.cat((blobs(SIZE, 0.0, 2.5), blobs(SIZE, 0.0, 2.5)))
    pair[1, :, :, :, 16:] = picture((16, 20, 8), 3)[0]  # what moving has not
    masks = torch.ones_like(pair)
    masks[1, :, :, :, 13:] = 0
    stages = (RefineStage(1, 8, 1.0, 0.2, fold=0.0),)
    start = torch.zeros(2, 3, 8, 10, 12)
    free, masked = refine(start, pair, 1.0, stages), refine(start, pair, 1.0, stages, masks)
    right = (..., slice(9, 12))
    assert masked[right].abs().mean() < 0.3 * free[right].abs().mean()


def test_masks_of_ones_are_no_masks() -> None:
    pair = torch.cat((blobs(SIZE, 1.0), blobs(SIZE, -1.0)))
    stages = (RefineStage(2, 3, 1.0, 0.2),)
    start = torch.zeros(2, 3, 8, 10, 12)
    free, masked = refine(start, pair, 1.0, stages), refine(start, pair, 1.0, stages, torch.ones_like(pair))
    torch.testing.assert_close(masked, free, atol=1e-3, rtol=1e-3)


def test_fold_penalty_is_zero_on_good_fields_and_pushes_bad_ones_apart() -> None:
    assert fold_penalty(smooth_field(SIZE, 0.2, 1, batch=2), 1.0).item() == 0
    bad = smooth_field(SIZE, 2.0, 2).requires_grad_()
    penalty = fold_penalty(bad, 1.0)
    (gradient,) = torch.autograd.grad(penalty, bad)
    assert penalty > 0
    better = (bad - 0.05 * gradient / gradient.norm() * bad.norm()).detach()
    assert fold_penalty(better, 1.0) < penalty
    with torch.no_grad():
        repaired = repair(bad.detach(), 1.0, 0.35)[0]
        assert corner_determinant(repaired, 1.0).min() > 0.3
        assert fold_penalty(repaired, 1.0).item() == 0


def test_fold_penalty_and_the_field_terms_do_not_depend_on_the_unit() -> None:
    u = smooth_field(SIZE, 1.5, 3, batch=2)
    stage = RefineStage(1, 1, 1.0, 0.1)
    for function in (fold_penalty, lambda v, s: field_terms(v, s, stage)):
        assert function(3 * u, 3.0).item() == pytest.approx(function(u, 1.0).item(), rel=1e-3)


def test_at_scale_keeps_constants_and_the_extent() -> None:
    flat = torch.full((2, 1, *SIZE), 0.25)
    coarse = at_scale(flat, torch.Size((12, 15, 18)))
    torch.testing.assert_close(coarse, torch.full((2, 1, 12, 15, 18), 0.25))
    assert at_scale(flat, flat.shape[2:]) is flat
    ramp = (torch.arange(24.0) + 0.5).expand(1, 1, *SIZE).contiguous()
    seen = at_scale(ramp, torch.Size((8, 10, 12)))[0, 0, 4, 5]
    torch.testing.assert_close(seen[2:-2], (torch.arange(12.0) * 2 + 1)[2:-2], atol=1e-3, rtol=0)
