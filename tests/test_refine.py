"""Refinement: what it gains, what it leaves alone, what masks do."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import picture, smooth_field

from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.config import SNNetConfig, presets
from hsyn_cli.config.architecture import Steps
from hsyn_cli.config.presets import RefineStage
from hsyn_cli.fields import repair as folds
from hsyn_cli.fields.folding import determinant
from hsyn_cli.fields.sampling import warp
from hsyn_cli.fields.smoothing import resize_smooth
from hsyn_cli.method import inference
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.refine import at_scale, refine
from hsyn_cli.method.similarity.ncc import SIMILARITY
from hsyn_cli.method.unet import use_precision
from hsyn_cli.method.where import Where
from hsyn_cli.method.working import Halves, Method
from hsyn_cli.space import Grid

SIZE = (16, 20, 24)

ncc = SIMILARITY.value


def blobs(size: tuple[int, int, int], shift: float, sigma: float = 4.0) -> torch.Tensor:
    """(1, 1, Z, Y, X): three soft balls, moved by `shift` voxels along x."""
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    out = torch.zeros(size)
    for cx, cy, cz, high in ((0.35, 0.4, 0.5, 1.0), (0.6, 0.6, 0.4, 0.7), (0.5, 0.35, 0.65, 0.5)):
        centre = (cx * size[2] + shift, cy * size[1], cz * size[0])
        d = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        out += high * torch.exp(-0.5 * d / sigma**2)
    return (out / out.max())[None, None]


def test_refinement_raises_the_similarity_symmetrically_and_without_folds() -> None:
    pair = torch.cat((blobs(SIZE, 1.5, 3.0), blobs(SIZE, -1.5, 3.0)))
    start = torch.zeros(2, 3, 8, 10, 12)
    stages = (RefineStage(2, Steps(10)), RefineStage(1, Steps(5)))
    told: list[float] = []
    u = refine(start, pair, 2.0, stages, progress=told.append)
    assert u.shape[2:] == SIZE
    assert ncc(*warp(pair, u, 2.0).chunk(2), 5) > ncc(*pair.chunk(2), 5) + 0.1
    assert determinant(u, 2.0).min() > 0
    assert told == pytest.approx(np.cumsum([1 / 8] * 10 + [1] * 5) / 6.25)
    swapped = refine(start, pair.flip(0), 2.0, stages)
    torch.testing.assert_close(swapped, u.flip(0), atol=1e-4, rtol=1e-4)


def test_the_mean_space_is_the_middle_of_the_pair() -> None:
    """What both halves have in common goes: a shift of both leaves the whole map as it is."""
    pair = torch.cat((blobs(SIZE, 1.5, 3.0), blobs(SIZE, -1.5, 3.0)))
    u, shifted = (
        refine(start, pair, 1.0, (RefineStage(1, Steps(5)),))
        for start in (torch.zeros(2, 3, *SIZE), torch.full((2, 3, *SIZE), 0.5))
    )
    for halves in (u, shifted):
        assert (halves[0] - halves[1]).abs().max() > 0.2
        assert (halves[0] + halves[1]).abs().max() < 0.1 * halves.abs().max()
    assert (shifted - u)[..., 4:-4, 4:-4, 4:-4].abs().mean() < 0.1 * u.abs().mean()


def test_one_direction_stays_one_direction() -> None:
    pair = torch.cat((blobs(SIZE, 1.5, 3.0), blobs(SIZE, -1.5, 3.0)))
    u = refine(
        torch.zeros(2, 3, 8, 10, 12),
        pair,
        1.0,
        (RefineStage(1, Steps(3)),),
        config=SNNetConfig(symmetric=False),
    )
    assert u[0].abs().max() > 0.2
    assert not u[1].any()


def test_no_stages_change_nothing() -> None:
    u = smooth_field((8, 10, 12), 0.2, 1, batch=2)
    assert presets.find("fast").refinement == ()
    assert torch.equal(refine(u, picture(SIZE, 1, batch=2), 1.0, ()), u)


@pytest.mark.parametrize("preset", ["default", "accurate"])
def test_presets_run_on_any_size_that_divides_by_four(preset: str) -> None:
    pair = torch.cat((blobs(SIZE, 0.5), blobs(SIZE, -0.5)))
    stages = [RefineStage(stage.scale, Steps(1)) for stage in presets.find(preset).refinement]
    u = refine(torch.zeros(2, 3, *(n // 2 for n in SIZE)), pair, 1.0, stages)
    assert u.shape[2:] == tuple(round(n / stages[-1].scale) for n in SIZE)
    assert torch.isfinite(u).all()
    assert u.abs().max() > 0


def test_a_part_of_a_grid_is_refined_as_if_it_were_all() -> None:
    """Up to where the change fades; the rest keeps the networks' field."""
    size = (64, 56, 60)
    grid = Grid(size[::-1], (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    pair = torch.cat((picture(size, 1), picture(size, 2)))
    scene = Scene(grid, pair, pair[:, :0], None, pair[:, :0])
    part = slice(16, 52), slice(12, 48), slice(12, 52)
    method = Method.of(load_networks("none", torch.device("cpu")), "default")
    start = Halves(scene, smooth_field((32, 28, 30), 0.2, 3, batch=2))
    kept = start.u.clone()
    whole = inference.refine(start, method).u
    out = inference.refine(replace(start, scene=replace(scene, fine=part)), method).u
    assert torch.equal(start.u, kept)
    inner = (..., *(slice(side.start + 12, side.stop - 12) for side in part))
    still = folds.taper(resize_smooth(kept, torch.Size(size)), 1.0, 8)
    assert (whole[inner] - still[inner]).abs().max() > 0.2
    torch.testing.assert_close(out[inner], whole[inner], atol=0.1, rtol=0)
    beyond = torch.ones(size, dtype=torch.bool)
    beyond[part] = False
    assert torch.equal(out[..., beyond], still[..., beyond])


def test_refinement_is_the_same_each_time() -> None:
    pair = torch.cat((blobs(SIZE, 1.0), blobs(SIZE, -1.0)))
    stages = (RefineStage(1, Steps(3)),)
    start = torch.zeros(2, 3, 8, 10, 12)
    assert torch.equal(refine(start, pair, 1.0, stages), refine(start, pair, 1.0, stages))


def test_outside_the_masks_the_images_do_not_count() -> None:
    pair = torch.cat((blobs(SIZE, 0.0, 2.5), blobs(SIZE, 0.0, 2.5)))
    pair[1, :, :, :, 16:] = picture((16, 20, 8), 3)[0]  # what moving has not
    masks = torch.ones_like(pair)
    masks[1, :, :, :, 13:] = 0
    stages = (RefineStage(1, Steps(8)),)
    start = torch.zeros(2, 3, 8, 10, 12)
    free, masked = refine(start, pair, 1.0, stages), refine(start, pair, 1.0, stages, Where(masks))
    right = (..., slice(18, 24))
    assert masked[right].abs().mean() < 0.3 * free[right].abs().mean()


def test_the_other_image_stands_in_for_what_one_does_not_show() -> None:
    """Beyond its border an image is empty; without the other one, windows see a false edge."""
    pair = torch.cat((blobs(SIZE, 0.0, 2.5), blobs(SIZE, 0.0, 2.5)))
    pair[1, :, :, :, 12:] = 0
    shows = torch.ones_like(pair)
    shows[1, :, :, :, 12:] = 0
    stages = (RefineStage(1, Steps(8)),)
    start = torch.zeros(2, 3, 8, 10, 12)
    edge, free = (
        refine(start, pair, 1.0, stages, where) for where in (Where(shows), Where(shows, shows))
    )
    left = (..., slice(0, 11))
    assert edge[left].abs().max() > 0.05
    assert free[left].abs().max() < 0.2 * edge[left].abs().max()


def test_masks_of_ones_are_no_masks() -> None:
    pair = torch.cat((blobs(SIZE, 1.0), blobs(SIZE, -1.0)))
    stages = (RefineStage(2, Steps(3)),)
    start = torch.zeros(2, 3, 8, 10, 12)
    free, masked = (
        refine(start, pair, 1.0, stages),
        refine(start, pair, 1.0, stages, Where(torch.ones_like(pair), torch.ones_like(pair))),
    )
    torch.testing.assert_close(masked, free, atol=1e-3, rtol=1e-3)


def test_fields_are_brought_to_another_size_without_kinks() -> None:
    u = smooth_field((8, 10, 12), 0.2, 1, batch=2)
    assert resize_smooth(u, u.shape[2:]) is u
    flat = torch.full((2, 3, 8, 10, 12), 1.5)
    torch.testing.assert_close(
        resize_smooth(flat, torch.Size(SIZE)), torch.full((2, 3, *SIZE), 1.5)
    )


def test_at_scale_keeps_constants_and_the_extent() -> None:
    flat = torch.full((2, 1, *SIZE), 0.25)
    coarse = at_scale(flat, torch.Size((12, 15, 18)))
    torch.testing.assert_close(coarse, torch.full((2, 1, 12, 15, 18), 0.25))
    assert at_scale(flat, flat.shape[2:]) is flat
    ramp = (torch.arange(24.0) + 0.5).expand(1, 1, *SIZE).contiguous()
    seen = at_scale(ramp, torch.Size((8, 10, 12)))[0, 0, 4, 5]
    torch.testing.assert_close(seen[2:-2], (torch.arange(12.0) * 2 + 1)[2:-2], atol=1e-3, rtol=0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """How many share the sums of a volume decides their rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_levels_and_refinement_of_a_batch_of_pairs_are_those_of_each() -> None:
    """Pairs on equal grids can go through the method at once, whichever of them are beside."""
    sn = load_networks("brain-t1", torch.device("cpu")).sn
    use_precision(sn, torch.float32)  # bfloat16 rounds a batch otherwise
    size, stages = (24, 32, 24), presets.find("default").refinement
    moving, fixed = (picture(size, k, batch=2) for k in (1, 2))

    def fields(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            halves = torch.cat(sn(a, b, 2))
            u = resize_smooth(halves, tuple(n // 2 for n in size))
            return refine(u, sn.look(torch.cat((a, b))), 1.0, stages, config=sn.config)

    both = fields(moving, fixed)
    for k in range(2):
        alone = fields(moving[k : k + 1], fixed[k : k + 1])
        torch.testing.assert_close(both[k::2], alone, rtol=0, atol=1e-4)
