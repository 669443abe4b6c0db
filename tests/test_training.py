"""Training on a tiny synthetic cache: pairs, losses, schedule, and a checkpoint that the pipeline loads."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import picture, save_checkpoint, smooth_field, tiny_networks

from hsyn_cli import config, pipeline
from hsyn_cli.fields import downsample
from hsyn_cli.training import loop
from hsyn_cli.training.augment import Pair, PairSource
from hsyn_cli.training.data import LABELS, SIZE, Cache, build_cache, load_cache
from hsyn_cli.training.loop import Stage, crop_pair, pair_loss, train_di_net, train_sn_net, validate

SHAPE = (32, 40, 24)  # z, y, x


@pytest.fixture(scope="module")
def cache() -> Cache:
    """Four scans and four label maps: soft balls that differ in place, size and contrast."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    scans, maps = [], []
    for _ in range(4):
        cz, cy, cx = rng.uniform(-0.15, 0.15, 3)
        radius = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(0.9, 1.1)
        label = np.digitize(-radius, [-0.8, -0.5, -0.25]).astype(np.uint8)
        maps.append(label)
        scans.append(np.where(label > 0, 60 + 50 * label + 10 * np.sin(9 * radius), 0).astype(np.uint8))
    names = [f"{k}.nii.gz" for k in range(4)]
    return Cache(np.stack(scans), np.stack(maps), names, names)


def test_pairs_are_in_range_and_two_different_training_images(cache: Cache) -> None:
    source = PairSource(cache, 2, seed=1)
    kinds = set()
    for _ in range(8):
        pair = source.draw()
        assert pair.images.shape == (2, 1, *(n // 2 for n in SHAPE))
        assert pair.images.dtype == torch.float32
        assert pair.images.min() >= 0
        assert pair.images.max() <= 1
        assert pair.images.max() > 0.1
        assert not torch.equal(pair.images[0], pair.images[1])
        if pair.labels is not None:
            assert pair.labels.shape == pair.images.shape
            assert pair.labels.dtype == torch.int64
            assert pair.labels.min() >= 0
            assert pair.labels.max() <= len(LABELS)
            assert (pair.images[pair.labels == 0] < 0.5).float().mean() > 0.9
        kinds.add(pair.labels is None)
    assert kinds == {True, False}


def test_the_same_seed_draws_the_same_pairs(cache: Cache) -> None:
    one, two, other = (PairSource(cache, 2, seed=s).draw().images for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_is_held_out_is_never_drawn(cache: Cache) -> None:
    marked = Cache(cache.scans.copy(), cache.maps, cache.scan_names, cache.map_names)
    marked.scans[2:] = 0
    source = PairSource(marked, 2, seed=2, map_share=0.0)
    for _ in range(10):
        assert all(image.max() > 0 for image in source.draw().images)
    assert source.validation(of_maps=False).images.max() == 0


def test_validation_is_the_plain_last_two(cache: Cache) -> None:
    pair = PairSource(cache, 1, seed=3).validation(of_maps=False)
    expected = torch.from_numpy(cache.scans[[3, 2]]).float()[:, None] / 255
    torch.testing.assert_close(pair.images, expected, atol=1e-5, rtol=0)
    labels = PairSource(cache, 1, seed=3).validation(of_maps=True).labels
    assert labels is not None
    assert np.array_equal(labels[:, 0].numpy(), cache.maps[[3, 2]])


def test_pair_loss_is_lower_where_the_images_meet() -> None:
    image = picture((16, 20, 24), 1)
    same = Pair(torch.cat((image, image)), None)
    apart = Pair(torch.cat((image, picture((16, 20, 24), 2))), None)
    u = torch.zeros(2, 3, 8, 10, 12)
    assert pair_loss(u, same, 1.0, 2.0, 5)[0] < pair_loss(u, apart, 1.0, 2.0, 5)[0]
    bent = 4 * smooth_field((8, 10, 12), 0.5, 1, batch=2)
    loss, parts = pair_loss(bent, same, 1.0, 2.0, 5)
    assert loss > pair_loss(u, same, 1.0, 2.0, 5)[0]
    assert parts["smooth"] > 0
    assert parts["loss"] == pytest.approx(loss.item())


def test_pair_loss_tells_the_dice_of_labels() -> None:
    labels = torch.randint(0, 4, (1, 1, 16, 20, 24), generator=torch.Generator().manual_seed(0))
    images = labels.float() / 4
    same = Pair(torch.cat((images, images)), torch.cat((labels, labels)))
    _, parts = pair_loss(torch.zeros(2, 3, 8, 10, 12), same, 2.0, 4.0, 5)
    assert parts["dice"] == pytest.approx(1, abs=1e-5)
    assert "dice" not in pair_loss(torch.zeros(2, 3, 8, 10, 12), Pair(same.images, None), 2.0, 4.0, 5)[1]


def test_a_crop_takes_the_same_window_of_images_labels_and_field() -> None:
    place = torch.arange(16 * 20 * 24.0).reshape(1, 1, 16, 20, 24).repeat(2, 1, 1, 1, 1)
    u = downsample(place, 2).repeat(1, 3, 1, 1, 1)
    pair = Pair(place, place.long())
    for seed in range(4):
        cut, cut_u = crop_pair(pair, u, (8, 12, 12), 2, torch.Generator().manual_seed(seed))
        assert cut.images.shape == (2, 1, 8, 12, 12)
        assert cut.labels is not None
        assert torch.equal(cut.labels.float(), cut.images)
        torch.testing.assert_close(downsample(cut.images, 2)[:, 0], cut_u[:, 0])


def test_random_fields_are_smooth_and_bounded() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        u = loop.random_field(torch.Size((16, 20, 24)), 2.0, g)
        assert u.shape == (2, 3, 16, 20, 24)
        assert (u[..., 1:] - u[..., :-1]).abs().max() <= 0.7 * 2.0 + 1e-5


def stages(minutes: float) -> tuple[Stage, ...]:
    return Stage(0, 1, minutes, 3e-3), Stage(0, 2, minutes, 2e-3, crop=(16, 16, 8))


def test_a_few_steps_lower_the_loss_and_the_pipeline_takes_the_checkpoint(
    cache: Cache, tmp_path: Path
) -> None:
    sn, di = tiny_networks(1.0)
    source = PairSource(cache, 4, seed=1)
    before = validate(sn, source, 1)
    assert before["val_ncc"] == pytest.approx(before["val_ncc_0"], abs=1e-3)  # untrained: the identity
    records = list(
        train_sn_net(sn, cache, stages(0.25), seed=1)
    )  # by the clock: enough steps on a slow machine too
    assert {record["stage"] for record in records} == {0, 1}
    after = [record for record in records if "val_ncc" in record]
    assert len(after) == 2
    assert after[0]["val_ncc"] > before["val_ncc"] + 0.01
    assert all(np.isfinite(list(record.values())).all() for record in records)
    first = [record["loss"] for record in records if record["stage"] == 0 and "loss" in record]
    assert np.mean(first[-3:]) < first[0]
    assert all(p.requires_grad for p in sn.levels.parameters())
    list(train_di_net(di, sn, cache, 0.02, seed=1))
    path = save_checkpoint(tmp_path / "trained.safetensors", sn, di)
    loaded, loaded_di, about = pipeline.load_networks(str(path), torch.device("cpu"))
    assert about.name == "trained"
    assert loaded.config == sn.config
    pair = source.validation(of_maps=False).images
    with torch.no_grad():
        big = torch.nn.functional.interpolate(pair, scale_factor=4.0)
        for one, two in zip(loaded(*big.chunk(2)), sn(*big.chunk(2)), strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        u = smooth_field((8, 12, 16), 0.3, 1)
        torch.testing.assert_close(loaded_di(u, 1.0), di(u, 1.0), atol=1e-5, rtol=1e-4)


def test_frozen_levels_stay_as_they_are(cache: Cache) -> None:
    sn, _ = tiny_networks(1.0)
    before = [p.clone() for p in sn.levels[0].parameters()]
    later = [p.clone() for p in sn.levels[1].parameters()]
    list(train_sn_net(sn, cache, (Stage(1, 2, 0.01, 1e-2),), seed=1))
    assert all(torch.equal(a, b) for a, b in zip(before, sn.levels[0].parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(later, sn.levels[1].parameters(), strict=True))


def test_a_cache_is_built_on_one_grid_and_read_back(tmp_path: Path) -> None:
    paths = []
    for k, direction in enumerate([(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)]):
        z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (36, 40, 32)), indexing="ij")
        radius = np.sqrt(z**2 + y**2 + x**2) + 0.1 * x
        ids = np.where(radius < 0.5, 2, np.where(radius < 0.9, 3, 0))
        for kind, values in (("scan", (ids * 50.0 + 20 * np.cos(5 * y)) * (ids > 0)), ("map", ids)):
            image = sitk.GetImageFromArray(values.astype(np.float32 if kind == "scan" else np.int16))
            image.SetSpacing((4.0, 4.0, 4.0))
            image.SetDirection(direction)
            sign = direction[0]
            image.SetOrigin((-62.0 * sign + 5 * k, -78.0 * sign, -70.0))
            sitk.WriteImage(image, str(tmp_path / f"{kind}{k}.nii.gz"))
            paths.append(tmp_path / f"{kind}{k}.nii.gz")
    said: list[str] = []
    build_cache(paths[0::2], paths[1::2], tmp_path / "cache", said.append)
    cache = load_cache(tmp_path / "cache")
    assert cache.scans.shape == cache.maps.shape == (2, *SIZE[::-1])
    assert cache.scans.dtype == cache.maps.dtype == np.uint8
    assert cache.scan_names == ["scan0.nii.gz", "scan1.nii.gz"]
    assert said == [*cache.scan_names, *cache.map_names]
    assert set(np.unique(cache.maps)) == {0, 1 + LABELS.index(2), 1 + LABELS.index(3)}
    brains = (np.asarray(cache.maps) > 0).astype(float)
    dice = 2 * (brains[0] * brains[1]).sum() / brains.sum()
    assert dice > 0.9
    overlap = (brains[0] * (cache.scans[0] > 0)).sum() / brains[0].sum()
    assert overlap > 0.8


def test_the_default_architecture_is_what_training_expects() -> None:
    """The stages of the command train three levels, and DI-Net sees the last level's field grid."""
    levels = config.SNNetConfig().levels
    assert [level.field_stride for level in levels] == [4, 2, 2]
    assert levels[-2].scale == levels[-1].field_stride
