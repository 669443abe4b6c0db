"""No step of a training waits for its device: data, painting and losses stay there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from samples import balls, tiny_networks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from hsyn_cli.config.architecture import FeatureConfig, TissueConfig
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.training import loop, phases
from hsyn_cli.training.breathing import breathe
from hsyn_cli.training.painting import top_of
from hsyn_cli.training.pairs import Draws, PairSource

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
}
SHAPE = (32, 40, 24)
CPU = torch.device("cpu")
NET = {"encoder": (4, 6), "head": (4,)}
SN, DI = tiny_networks(1.0)


class OnDevice(TorchDispatchMode):
    """Marks tensors, and all that is computed from them, as if they lay on another device.

    `waits`: the operators by which the host asked for their values. It does not see tolist().
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.marked = WeakIdKeyDictionary()
        self.waits: list[str] = []
        for tensor in tensors:
            self.marked[tensor] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        marked = [v for v in given if v in self.marked]
        out = func(*args, **(kwargs or {}))
        if marked:
            picked = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
            masks = tree_leaves(args[1]) if picked else []
            if func in WAITS or any(v is not None and v.dtype == torch.bool for v in masks):
                self.waits.append(str(func))
            for made in tree_leaves(out):
                if isinstance(made, Tensor):
                    self.marked[made] = True
        return out


def training(**changes: Any) -> Training:
    nets = replace(
        SN.config,
        levels=tuple(replace(level, forces=True) for level in SN.config.levels),
        tissue=TissueConfig(({"2": 1.0}, {"3": 0.5}), classes=((2,), (3,)), **NET),  # type: ignore[arg-type]
        features=FeatureConfig(count=4, **NET),  # type: ignore[arg-type]
    )
    return Training(
        sn_net=nets, di_net=DI.config, size=SHAPE[::-1], precision="float32",
        stages=(Stage(0, 1, 3, 1e-3, look=2), Stage(1, 2, 3, 1e-3, crop=(16, 16, 8))),
        di_steps=3, tissue_steps=3, feature_steps=3, tissue_crop=(24, 24, 16), feature_voxels=50,
        labels=(2, 3, 41), intensities={"2": 0.9, "3": 0.5, "41": 0.1}, texture=0.1, **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_no_step_of_any_phase_waits_for_what_the_device_computes() -> None:
    """In six steps, a stage draws scans and painted maps, and all pictures of a net differ."""
    own = training()
    networks = phases.build(own, CPU, bf16=False)
    source = PairSource(balls(SHAPE), own, CPU)
    todo = phases.phases(own, networks, source)
    assert len(todo) == 5
    for phase in todo:
        adam = torch.optim.Adam(phase.parameters, lr=1e-3)
        networks.sn.requires_grad_(True)
        weights = [*networks.sn.parameters(), *networks.di.parameters(), *networks.sn.buffers()]
        with OnDevice(source.images, source.labels, *weights) as device:
            for number in range(6):
                loop.step(phase, adam, number, 1)
            assert len(device.marked) > len(weights)
        assert device.waits == [], phase.name


def test_a_breath_waits_for_nothing() -> None:
    """The fixed lungs' largest motion and their extent stay on the device."""
    lungs = torch.zeros(1, 1, 16, 20, 18)
    lungs[..., 3:13, 4:16, 3:15] = 1
    draws = Draws(CPU, 1)
    with OnDevice(lungs) as device:
        breathe(0.2 * lungs, lungs, 4.0, 20.0, draws.normal(300))
    assert device.waits == []


def test_the_mode_sees_what_waits() -> None:
    image = torch.rand(4, 4)
    with OnDevice(image) as device:
        top_of(image)
        assert device.waits == []
        for wait in (
            lambda v: float(v.max()),
            lambda v: v[v > 0.5],
            lambda v: bool((v > 0).any()),
            lambda v: v.nonzero(),
        ):
            before = len(device.waits)
            wait(image * 1)
            assert len(device.waits) == before + 1
        float(torch.rand(1))  # of the host alone
        assert len(device.waits) == 4
