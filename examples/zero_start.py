#!/usr/bin/env python3
"""What the checkpoint is worth to the refinement: mean Dice after so many full-resolution steps, with it and from a zero start.

    python examples/zero_start.py pairs.csv [--steps 4,8,16]

pairs.csv as for benchmark.py. Both go the steps of SN-Net's two coarse levels along the forces of local NCC first; "with
the checkpoint" its nets correct them and the full-resolution steps see its tissue map; "zero start" has nothing that was learned.
No half-way field is repaired; labels are warped by the half-way fields' composition on the working grid.
"""

import argparse
import dataclasses
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console
from rich.table import Table

from hsyn_cli import affine, config
from hsyn_cli.fields import compose, resampled
from hsyn_cli.inverse import invert, taper
from hsyn_cli.networks import load_networks
from hsyn_cli.prepare import on_grid, pair_box
from hsyn_cli.refine import refine
from hsyn_cli.sn_net import SNNet
from hsyn_cli.space import Grid, affine_parts, working_grid
from hsyn_cli.totals import affine_displacement, on_target, to_image


@torch.no_grad()
def dice(net: SNNet, pair: dict[str, str], counts: list[int], learned: bool) -> list[float]:
    fixed, moving = (sitk.ReadImage(pair[name], sitk.sitkFloat32) for name in ("fixed", "moving"))
    transform = affine.align(fixed, moving, "affine", seed=0)
    grid = working_grid(Grid.of(fixed), pair_box(fixed, moving, transform), 1.0, 8.0, net.config.multiple)
    images = torch.cat((on_grid(moving, grid, transform), on_grid(fixed, grid)))
    start = torch.cat(net(*images.chunk(2), 2))
    seen = net.look(images) if learned else images
    (stage,) = config.PRESETS["default"].refinement
    found = []
    for count in counts:
        how = dataclasses.replace(stage.how, steps=count)
        u = refine(start, seen, 1.0, [config.RefineStage(stage.scale, how)])
        to_moving, to_fixed = taper(resampled(u, images.shape[2:]), 8).split(1)
        back = invert(to_fixed, 1.0, -to_fixed, tolerance=0.05)
        a, t = affine_parts(transform)
        along = on_target(compose(back, to_moving, 1.0), grid, Grid.of(fixed))
        total = torch.einsum("ij,bjzyx->bizyx", torch.from_numpy(a).float(), along)
        total += affine_displacement(Grid.of(fixed), a, t, total.device)
        field = sitk.Cast(to_image(total, Grid.of(fixed)), sitk.sitkVectorFloat64)
        found.append(benchmark.mean_dice(sitk.DisplacementFieldTransform(field), pair))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--steps", default="4,8,16", help="default: %(default)s")
    arguments = parser.parse_args()
    counts = [int(v) for v in arguments.steps.split(",")]
    net, _, _ = load_networks(None, torch.device("cpu"))
    nothing, _, _ = load_networks(None, torch.device("cpu"))
    for level in nothing.levels:  # nets that answer zero leave the steps alone
        for parameter in level.parameters():
            parameter.zero_()
    table = Table("full-resolution steps", *map(str, counts))
    pairs = benchmark.read_pairs(arguments.pairs)
    for name, one in (("with the checkpoint", net), ("zero start", nothing)):
        scores = np.array([dice(one, pair, counts, one is net) for pair in pairs])
        table.add_row(name, *(f"{v:.4f}" for v in scores.mean(0)))
    Console().print(table)


if __name__ == "__main__":
    main()
