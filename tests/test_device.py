"""hsyn on a pretend device: no mix-up, the results of the CPU; and mix-ups that are planted.

What the pretend device refuses and allows is told in test_pretend.py.
"""

from __future__ import annotations

import functools

import pytest
import torch
from on_device import CHECKS
from on_device.plants import PLANTS, Plant
from pretend import HALF, MixUp, pretending

from hsyn_cli.devices import convolution_type

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real device")


def capability() -> tuple[int, int]:
    """That of a device whose networks compute in the number type of this CPU."""
    return HALF if convolution_type(torch.device("cpu")) == torch.bfloat16 else (7, 5)


@functools.cache
def passes(name: str) -> bool:
    with pretending() as record:
        CHECKS[name]("cuda")
    return not record.mixups


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_device_all_is_as_on_the_cpu(name: str) -> None:
    expected = CHECKS[name]("cpu")
    with pretending(capability()) as record:
        found = CHECKS[name]("cuda")
    assert not record.mixups
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=5e-3, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.kind)
def test_a_planted_mix_up_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(plant.check)
    plant.set(monkeypatch)
    with pretending() as record, pytest.raises((MixUp, TypeError)):
        CHECKS[plant.check]("cuda")
    assert record.mixups


def test_networks_of_a_device_are_in_the_numbers_that_it_is_fast_in() -> None:
    """The pretend autocast lowers the precision, so that mixtures of numbers would be found."""
    results = []
    for able in ((7, 5), HALF):
        with pretending(able):
            results.append(CHECKS["networks"]("cuda"))
    apart = [float((a - b).abs().max()) for a, b in zip(*results, strict=True)]
    assert max(apart) > 1e-4
    torch.testing.assert_close(*results, atol=0.3, rtol=0.1)
