"""The feature net, the twins it learns from, and its loss."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from samples import balls, picture, tiny_networks

from hsyn_cli import config
from hsyn_cli.config.architecture import FeatureConfig
from hsyn_cli.config.training import Training
from hsyn_cli.errors import UsageError
from hsyn_cli.method.feature_net import FeatureNet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.training import loop, runs
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.cache import Cache
from hsyn_cli.training.contrasts import FeatureSource, Twins, feature_loss
from hsyn_cli.training.pairs import PairSource

SHAPE = (32, 40, 24)
CPU = torch.device("cpu")
SMALL = FeatureConfig(count=4, encoder=(8, 8), head=(8,), weight=5.0)
SN, DI = tiny_networks(1.0)
TINY = Training(
    sn_net=replace(SN.config, features=SMALL), di_net=DI.config, size=SHAPE[::-1],
    precision="float32", stages=(), di_steps=0,
    feature_steps=40, feature_rate=5e-3, feature_voxels=200, tissue_crop=(24, 24, 16),
    log_every=10, validate_every=40, held_out=2, stripped_share=1.0, background_noise=0.0,
    labels=(2, 3, 41), intensities={"2": 0.9, "3": 0.5, "41": 0.1}, t1_share=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cache() -> Cache:
    return balls(SHAPE)


def source(cache: Cache, training: Training = TINY) -> FeatureSource:
    return FeatureSource(PairSource(cache, training, CPU))


def greys(twins: Twins) -> torch.Tensor:
    """Those at the voxels, (2, N)."""
    pairs = zip(twins.images, twins.voxels, strict=True)
    return torch.stack([image.flatten()[voxels] for image, voxels in pairs])


class Fixed(FeatureNet):
    """Answers with the given directions of all voxels, (2, F, N)."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__(SMALL)
        self.answer = answer

    def directions_at(self, images: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        return self.answer.mT


def test_features_are_on_a_sphere_in_the_unit_cube() -> None:
    torch.manual_seed(0)
    net = FeatureNet(SMALL)
    answer = net(picture((8, 12, 16), 1, batch=2))
    assert answer.shape == (2, 4, 8, 12, 16)
    assert 0 <= answer.min() <= answer.max() <= 1
    torch.testing.assert_close((answer - 0.5).square().sum(1), torch.full((2, 8, 12, 16), 0.25))


def test_the_features_of_a_few_voxels_are_those_of_all() -> None:
    torch.manual_seed(0)
    net, images = FeatureNet(SMALL), picture((6, 10, 12), 1, batch=2)
    voxels = torch.stack([torch.randperm(720)[:50] for _ in range(2)])
    every = net.directions(images).flatten(2)
    expected = torch.stack([one[:, here].T for one, here in zip(every, voxels, strict=True)])
    torch.testing.assert_close(net.directions_at(images, voxels), expected)


def test_twins_show_one_anatomy_in_two_contrasts(cache: Cache) -> None:
    twins = [source(cache).draw(1, k) for k in range(8)]
    again = source(cache).draw(1, 0)
    assert torch.equal(again.images, twins[0].images)
    assert torch.equal(again.voxels, twins[0].voxels)
    ratios = []
    for pair in twins:
        assert all(a <= b for a, b in zip(pair.images.shape[2:], (24, 24, 16), strict=True))
        assert all(n % 2 == 0 for n in pair.images.shape[2:])
        assert 0 <= pair.images.min() <= pair.images.max() <= 1
        assert all(len(voxels.unique()) == 200 for voxels in pair.voxels)
        grey = greys(pair)
        ratios.append(float(torch.corrcoef(grey)[0, 1]))
    assert min(ratios) < 0.5 < max(ratios)  # greys agree or not


def test_the_voxels_of_twins_are_the_same_places(cache: Cache) -> None:
    """Both have the grey values of T1 here. The borders of most lie elsewhere."""
    alike = replace(TINY, t1_share=1.0, thick_share=0.0)
    twins = [source(cache, alike).draw(2, k) for k in range(12)]
    moved = [pair for pair in twins if not torch.equal(*pair.voxels)]
    assert len(moved) > 6
    alike_there = [float(torch.corrcoef(greys(pair))[0, 1]) for pair in moved]
    elsewhere = [
        float(torch.corrcoef(greys(replace(pair, voxels=pair.voxels[:1].expand(2, -1))))[0, 1])
        for pair in moved
    ]
    assert all(a > b for a, b in zip(alike_there, elsewhere, strict=True))
    assert sum(alike_there) / len(moved) > 0.75  # each picture has its gamma and bias field


def test_the_loss_is_that_of_a_guess_or_none() -> None:
    """Of equal features, of features all apart, and of features that find their neighbour."""
    n = 4
    twins = Twins(torch.zeros(2, 1, 2, 2, 1), torch.arange(n).repeat(2, 1))
    equal = torch.ones(2, 4, n) / 2
    apart = torch.eye(4).expand(2, 4, n)
    for answer, expected, hits in (
        (equal, math.log(n), 1 / n),
        (apart, math.log(1 + 3 * math.exp(-10)), 1.0),
        (torch.stack((torch.eye(4), torch.eye(4).roll(1, 0))), 10.0 + math.log(1 + 3e-10), 0.0),
    ):
        loss, parts = feature_loss(Fixed(answer), twins, 0.1)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        assert parts["hits"].item() == pytest.approx(hits)


@pytest.mark.slow
def test_the_net_learns_and_nothing_else_moves(cache: Cache) -> None:
    networks = training_phases.build(TINY, CPU, bf16=False)
    before = {k: v.clone() for k, v in networks.tensors().items()}
    phases = training_phases.phases(TINY, networks, PairSource(cache, TINY, CPU))
    assert [phase.name for phase in phases] == ["feature net"]
    records = list(loop.run(phases, networks, loop.State(), TINY, lambda state: None, 1e9))
    assert float(records[-1]["loss"]) < 0.9 * float(records[0]["loss"])
    assert float(records[-1]["val_features"]) < 0
    for name, tensor in networks.tensors().items():
        assert torch.equal(tensor, before[name]) != name.startswith("sn.features.")


def test_the_features_lead_all_force_steps_where_contrasts_differ() -> None:
    levels = (replace(SN.config.levels[0], steps=config.Steps(3)), SN.config.levels[1])
    net = SNNet(replace(SN.config, levels=levels))
    images = picture((16, 16, 16), 1, batch=2)
    assert net.look(images) is images
    before = net(*images.chunk(2))[0]
    net.follow(FeatureNet(SMALL))
    assert net.look(images).shape == (2, 5, 16, 16, 16)
    assert [v.steps and v.steps.tissue for v in net.config.levels] == [5.0, None]
    assert not torch.equal(net(*images.chunk(2))[0], before)
    net.channels = (0.5, 0.5)  # a further channel comes first, and the features after it
    both = net(*images.chunk(2), maps=images)[0]
    net.channels = (1.0,)
    torch.testing.assert_close(both, net(*images.chunk(2))[0], atol=1e-4, rtol=0)


def test_a_config_with_features_survives_json_and_is_checked(cache: Cache) -> None:
    plain = json.loads(json.dumps(config.to_dict(TINY)))
    assert config.training_from_dict(plain) == TINY
    for change, word in (
        ({"tissue_crop": [23, 24, 16]}, "feature net's stride"),
        ({"sn_net": {**plain["sn_net"], "features": None}}, "sn_net has none"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=word):
            runs.training_of({**plain, **change})
    scans = replace(cache, has_image=(True,) * 8)
    with pytest.raises(UsageError, match="label maps"):
        source(scans)
