"""The forecast of a device's memory is right: it is compared with the tensors that live."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_examples import EXAMPLES, load

from hsyn_cli.config.architecture import FeatureConfig, Level, SNNetConfig, TissueConfig
from hsyn_cli.method import memory
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import UNet

counting = load(EXAMPLES / "device_memory.py")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default"])
def test_the_forecast_counts_the_tensors_of_a_run(preset: str) -> None:
    ((_, moving, fixed),) = list(counting.pairs([3]))[:1]
    told, counted = counting.compare(moving, fixed, preset=preset)
    assert set(told) >= {"networks", "refinement", "exact inverse", "total fields"}
    for step, most in told.items():
        assert most == pytest.approx(counted[step], rel=0.25), step


def test_the_forecast_counts_the_maps_of_a_net_and_what_it_gives() -> None:
    """The shipped tissue net has one map, one of classes has a number for each, too."""
    tissue = TissueConfig(({"2": 1.0}, {"3": 1.0}), classes=((2,), (3,), (4,)))
    features = FeatureConfig(count=5)
    assert (SNNet(SNNetConfig()).maps, SNNet(SNNetConfig(tissue=tissue)).maps) == (0, 2)
    net = SNNet(SNNetConfig(tissue=tissue, features=features))
    assert (net.maps, net.looked) == (2, 4)
    assert net.features is not None
    net.follow(net.features)
    assert (net.maps, net.looked) == (5, 5)


@pytest.mark.parametrize("wide", [2, 4])
@pytest.mark.parametrize(
    "level",
    [
        Level(scale=1, stride=2, encoder=(16, 16, 32, 32), head=(16,), window=5, forces=True),
        Level(scale=2, stride=1, encoder=(16, 16, 32, 32), head=(16,), window=5, forces=True),
        Level(scale=4, stride=1, encoder=(16, 32, 32, 32), head=(32, 16), window=5, forces=True),
        Level(1, 1, (16, 32, 32, 32, 32), (16, 16), window=7, forces=True, decoder=(32,) * 4),
    ],
)
def test_the_forecast_of_a_net_counts_its_tensors(level: Level, wide: int) -> None:
    net = UNet(5, level.stride, level.encoder, level.head, decoder=level.decoder)
    net.precision = torch.bfloat16 if wide == 2 else torch.float32
    size, live = (32, 48, 32), counting.Live()
    with live, torch.no_grad():
        net(torch.zeros(2, 5, *size))
    told = memory._net(level, wide) * np.prod(size)
    assert told == pytest.approx(max(live.peaks.values()), rel=0.25)
