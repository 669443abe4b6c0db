#!/usr/bin/env python3
"""What a step of the trainings beside this file costs, counted without running them.

    python examples/gpu/sizes.py [config.json ...]

For each phase: parameters that learn, TFLOP of a step's convolutions (forward, and twice that for
backward), for the whole batch, and GB that the networks keep between both, for one item, with
convolutions in bfloat16. The tensors are fake: they have a shape and no content. Warps, losses and
painting are not counted.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import use_precision
from hsyn_cli.training.phases import DI_SCALE
from hsyn_cli.training.runs import read_config

HERE = Path(__file__).parent


def cost(parts: list[tuple[torch.nn.Module, Tensor]], learns: set[int]) -> tuple[float, float]:
    """TFLOP and GB of networks and their inputs. `learns`: ids of the networks that learn."""
    kept: dict[int, int] = {}
    flop = 0.0

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    for net, inputs in parts:
        net.requires_grad_(id(net) in learns)
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda v: v):
            alive.append(net(inputs))
        flop += counter.get_total_flops() * (3 if id(net) in learns else 1)
    return flop / 1e12, sum(kept.values()) / 1e9


def rows(path: Path) -> list[tuple[str, float, float, float]]:
    """Name, million parameters, TFLOP and GB of each phase."""
    training = read_config(path)
    with FakeTensorMode():
        sn, di = SNNet(training.sn_net), DINet(training.di_net)
        for net in (sn, di):
            use_precision(net, torch.bfloat16)

        def images(size: tuple[int, ...], scale: int, count: int, channels: int) -> Tensor:
            return torch.empty(count, channels, *(n // scale for n in size))

        found: list[tuple[str, list[tuple[torch.nn.Module, Tensor]], set[int]]] = []
        crop, whole = training.tissue_crop, training.size[::-1]
        for name, net, count in (("tissue net", sn.tissue, 1), ("feature net", sn.features, 2)):
            if net is not None:
                found.append((name, [(net.net, images(crop, 1, count, 1))], {id(net.net)}))
        for stage in training.stages:
            parts = []
            for level, spec in zip(sn.levels[: stage.depth], sn.config.levels, strict=False):
                cut = (
                    stage.crop
                    if stage.crop and spec is sn.config.levels[stage.depth - 1]
                    else whole
                )
                seen = images(cut, spec.scale, 2, 5 if spec.forces else 2)
                parts += [(level, seen)] * spec.repeats
            learn = {id(level) for level in sn.levels[stage.first : stage.depth]}
            name = f"SN-Net {'+'.join(str(k + 1) for k in range(stage.first, stage.depth))}"
            found.append((name, parts, learn))
        if training.di_steps:
            seen = images(whole, DI_SCALE, 2, 6)
            found.append(("DI-Net", [(di.net, seen)] * training.di_net.repeats, {id(di.net)}))
        out = []
        for name, parts, learn in found:
            nets = {id(net): net for net, _ in parts if id(net) in learn}
            numbers = sum(v.numel() for net in nets.values() for v in net.parameters())
            flop, kept = cost(parts, learn)
            out.append((name, numbers / 1e6, training.batch * flop, kept))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(HERE.glob("*.json")))
    table = Table("config", "phase", "million parameters", "TFLOP per step", "GB kept")
    for path in parser.parse_args().configs:
        for name, numbers, flop, kept in rows(path):
            table.add_row(path.stem, name, f"{numbers:.2f}", f"{flop:.2f}", f"{kept:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
