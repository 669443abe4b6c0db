"""The tissue net, the pictures it learns from, and its place in training."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import balls, picture, tiny_networks

from hsyn_cli import config
from hsyn_cli.config.architecture import TissueConfig
from hsyn_cli.config.training import Training
from hsyn_cli.errors import UsageError, WeightsError
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.tissue_net import TissueNet
from hsyn_cli.method.unet import fold, unfold
from hsyn_cli.training import loop, runs
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.cache import Cache
from hsyn_cli.training.painting import TissueSource, tissue_loss, top_of, validate_tissue
from hsyn_cli.training.pairs import PairSource

SHAPE = (32, 40, 24)
CPU = torch.device("cpu")
SMALL = TissueConfig(({"2": 1.0, "3": 0.5}, {"3": 1.0}), encoder=(8, 8), head=(8,))
SN, DI = tiny_networks(1.0)
CLASSES = replace(SMALL, classes=((2,), (3,)))
TINY = Training(
    sn_net=replace(SN.config, tissue=SMALL), di_net=DI.config, size=SHAPE[::-1],
    precision="float32", stages=(), di_steps=0,
    tissue_steps=60, tissue_rate=5e-3, tissue_crop=(24, 24, 16),
    log_every=10, validate_every=30, held_out=2,
    labels=(2, 3, 41), intensities={"2": 0.9, "3": 0.5, "41": 0.1},
)  # fmt: skip


@pytest.fixture(scope="module")
def cache() -> Cache:
    return balls(SHAPE)


def samples(cache: Cache, training: Training = TINY) -> TissueSource:
    return TissueSource(PairSource(cache, training, CPU))


def test_the_top_of_a_picture_is_a_quantile_of_what_is_bright() -> None:
    torch.manual_seed(1)
    for share in (0.9, 0.2, 0.001):
        image = torch.rand(1, 1, 20, 30, 40) * (torch.rand(1, 1, 20, 30, 40) < share)
        expected = image[image > 0.02].quantile(0.995)
        assert top_of(image).item() == pytest.approx(expected.item(), abs=1e-5)
    assert top_of(torch.zeros(1, 1, 4, 4, 4)) == 1


def test_maps_are_the_expected_values_of_the_classes() -> None:
    torch.manual_seed(0)
    net = TissueNet(CLASSES)
    torch.nn.init.normal_(net.net.flow.weight, std=0.3)
    images = picture((8, 12, 16), 1, batch=2)
    chances = net.logits(images).softmax(1)
    assert chances.shape == (2, 3, 8, 12, 16)
    assert chances.std() > 0.01
    expected = torch.stack((chances[:, 1] + 0.5 * chances[:, 2], chances[:, 2]), dim=1)
    torch.testing.assert_close(net(images), expected)
    assert not any("values" in name for name in net.state_dict())


def test_the_loss_of_classes_is_cross_entropy_and_dice(cache: Cache) -> None:
    training = replace(TINY, sn_net=replace(TINY.sn_net, tissue=CLASSES), background_weight=1.0)
    sample = samples(cache, training).draw(3)
    assert set(sample.target.unique().tolist()) == {0, 1}
    assert sample.target.sum(1).max() == 1
    net = TissueNet(CLASSES)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    told, parts = tissue_loss(net, sample)  # each of three classes has a third
    share = sample.target.mean((0, 2, 3, 4))
    dice = (2 * share / 3 / (share + 1 / 9)).mean()
    assert told.item() == pytest.approx(math.log(3) + 1 - dice.item(), rel=1e-5)
    assert parts["dice"].item() == pytest.approx(dice.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        ([[2, 3], []], "no ids"),
        ([[2, 41], [2]], "2 are in two"),
        ([[2, 3]], "2, 3 are one class"),
        ([[2]], "3 are in a map"),
    ],
)
def test_classes_that_contradict_are_refused(classes: list[list[int]], word: str) -> None:
    plain = json.loads(json.dumps(config.to_dict(TINY)))
    plain["sn_net"]["tissue"]["classes"] = classes
    with pytest.raises(ValueError, match=word):
        runs.training_of(plain)


def test_texture_varies_the_grey_values_within_a_label(cache: Cache) -> None:
    """No blur, noise or bias here, as their shares and sizes are random: the same draws without."""
    plain, rough = (
        samples(cache, replace(TINY, texture=texture)).draw(5) for texture in (0.0, 0.3)
    )
    one = (plain.target[:, :1] == 1) & (rough.target[:, :1] == 1)
    assert rough.image[one].std() > plain.image[one].std()


def test_unfold_is_the_inverse_of_fold() -> None:
    x = torch.rand(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(x, 2), 2), x)


def test_the_maps_have_the_grid_of_the_image_and_each_image_is_looked_at_alone() -> None:
    torch.manual_seed(0)
    net = TissueNet(SMALL)
    images = picture((14, 10, 18), 1, batch=2)
    maps = net(images)
    assert maps.shape == (2, 2, 14, 10, 18)
    seen = net.beside(images)
    assert torch.equal(seen[:, :1], images)
    torch.testing.assert_close(seen[:, 1:], maps.clamp(0, 1), atol=1e-5, rtol=0)
    assert seen[:, 1:].std() > 0


def test_sn_net_shows_maps_to_the_refinement_only_where_it_has_the_net() -> None:
    images = picture((16, 16, 16), 1, batch=2)
    assert SN.look(images) is images
    assert SNNet(TINY.sn_net).look(images).shape == (2, 3, 16, 16, 16)


def test_a_sample_shows_what_its_target_says(cache: Cache) -> None:
    """Three labels: 2 and 3 are brain and have values.

    41 is fluid around it and is 0 in both maps.
    """
    source = samples(cache)
    seen = [source.draw(k) for k in range(24)]
    for sample in seen:
        assert sample.image.shape == sample.weight.shape == (1, 1, 24, 24, 16)
        assert sample.target.shape == (1, 2, 24, 24, 16)
        assert 0 <= sample.image.min() <= sample.image.max() <= 1
        assert {tuple(v) for v in sample.target[0].flatten(1).T.tolist()} <= {
            (0, 0),
            (1, 0),
            (0.5, 1),
        }
        brain = sample.target.amax(1, keepdim=True) > 0
        assert sample.weight[brain].min() == 1 if brain.any() else True
    both = [
        s for s in seen if (s.target[:, 0] == 1).sum() > 50 and (s.target[:, 1] == 1).sum() > 50
    ]
    brighter = [
        bool(s.image[:, 0][s.target[:, 0] == 1].mean() > s.image[:, 0][s.target[:, 1] == 1].mean())
        for s in both
    ]
    assert len(both) > 5
    assert sum(brighter) > 0.7 * len(both)  # T1-like for the most part


def test_a_sample_depends_on_its_key_and_the_seed_alone(cache: Cache) -> None:
    one, same, other = (samples(cache).draw(*key) for key in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.target, same.target)
    assert not torch.equal(one.image, other.image)
    reseeded = samples(cache, replace(TINY, seed=5)).draw(1, 2)
    assert not torch.equal(one.image, reseeded.image)


def test_without_label_maps_there_is_nothing_to_learn_from(cache: Cache) -> None:
    scans = replace(
        cache,
        images=cache.images[:4],
        labels=cache.labels[:4],
        has_image=(True,) * 4,
        has_labels=(False,) * 4,
    )
    with pytest.raises(UsageError, match="label maps"):
        samples(scans)


def test_a_map_of_labels_that_are_not_there_is_told(cache: Cache) -> None:
    nowhere = replace(SMALL, channels=({"2": 1.0}, {"77": 1.0}))
    with pytest.raises(UsageError, match="no label"):
        samples(cache, replace(TINY, sn_net=replace(TINY.sn_net, tissue=nowhere)))


def test_tissue_steps_need_a_tissue_net() -> None:
    plain = config.to_dict(replace(TINY, sn_net=SN.config))
    with pytest.raises(ValueError, match="tissue net"):
        runs.training_of(plain)


def test_a_config_with_a_tissue_net_survives_json() -> None:
    plain = json.loads(json.dumps(config.to_dict(TINY)))
    assert config.training_from_dict(plain) == TINY
    del plain["sn_net"]["tissue"]["encoder"]
    assert config.training_from_dict(plain).sn_net.tissue == replace(
        SMALL, encoder=TissueConfig.encoder
    )


@pytest.mark.slow
def test_the_net_learns_what_voxels_are_and_nothing_else_moves(cache: Cache) -> None:
    networks = training_phases.build(TINY, CPU, bf16=False)
    before = {k: v.clone() for k, v in networks.tensors().items()}
    source = PairSource(cache, TINY, CPU)
    phases = training_phases.phases(TINY, networks, source)
    assert [phase.name for phase in phases] == ["tissue net"]
    net = networks.sn.tissue
    assert net is not None
    held_out = samples(cache).validation()
    assert len(held_out) == 8  # small maps: four of each
    assert all(sample.image.shape[2:] == cache.labels.shape[1:] for sample in held_out)
    first = validate_tissue(net, held_out)["val_tissue"]
    records = list(loop.run(phases, networks, loop.State(), TINY, lambda state: None, 1e9))
    assert validate_tissue(net, held_out)["val_tissue"] > 0.5 * first  # both below 0
    assert "val_tissue" in records[-1]
    for name, tensor in networks.tensors().items():
        assert torch.equal(tensor, before[name]) != name.startswith("sn.tissue.")


def test_the_loss_is_the_weighted_squared_error_of_all_maps(cache: Cache) -> None:
    sample = samples(cache).draw(3)
    net = TissueNet(SMALL)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    told, parts = tissue_loss(net, sample)
    by_hand = (sample.target.square() * sample.weight).sum() / sample.weight.sum()
    assert told.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert parts["loss"] is told


def test_a_tissue_net_can_be_added_to_a_checkpoint_that_has_none(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    run = runs.RunFolder(tmp_path)
    plain = replace(TINY, sn_net=SN.config, tissue_steps=0)
    runs.save_checkpoint(run, plain, training_phases.Networks(SN, DI), loop.State())
    run.checkpoint.rename(start)
    with pytest.raises(WeightsError, match="nothing would train"):
        runs.load_start(
            str(start), replace(TINY, tissue_steps=0), training_phases.build(TINY, CPU, bf16=False)
        )
    networks = training_phases.build(TINY, CPU, bf16=False)
    fresh = {k: v.clone() for k, v in networks.tensors().items() if k.startswith("sn.tissue.")}
    runs.load_start(str(start), TINY, networks)
    for name, tensor in networks.tensors().items():
        old = SN.state_dict() | {f"di.{k}": v for k, v in DI.state_dict().items()}
        expected = fresh[name] if name in fresh else old[name.removeprefix("sn.")]
        assert torch.equal(tensor, expected)


def test_another_tissue_net_than_that_of_the_checkpoint_must_be_trained(tmp_path: Path) -> None:
    run = runs.RunFolder(tmp_path)
    runs.save_checkpoint(run, TINY, training_phases.build(TINY, CPU, bf16=False), loop.State())
    one = replace(
        TINY, sn_net=replace(TINY.sn_net, tissue=replace(SMALL, channels=SMALL.channels[:1]))
    )
    networks = training_phases.build(one, CPU, bf16=False)
    with pytest.raises(WeightsError, match="nothing would train"):
        runs.load_start(str(run.checkpoint), replace(one, tissue_steps=0), networks)
    before = {k: v.clone() for k, v in networks.tensors().items() if k.startswith("sn.tissue.")}
    runs.load_start(str(run.checkpoint), one, networks)  # it takes the place of the old one
    assert before
    assert all(torch.equal(networks.tensors()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tissue_crop": [23, 24, 16]}, "stride"),
        ({"sn_net": {"levels": [{"steps": {"steps": 2, "tissue": 1.0}}]}}, "refinement"),
    ],
)
def test_tissue_settings_that_cannot_be_are_refused(change: dict[str, object], word: str) -> None:
    plain = json.loads(json.dumps(config.to_dict(TINY)))
    if "sn_net" in change:
        plain["sn_net"]["levels"][0]["steps"] = {"steps": 2, "tissue": 1.0}
    else:
        plain |= change
    with pytest.raises(ValueError, match=word):
        runs.training_of(plain)
