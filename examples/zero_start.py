#!/usr/bin/env python3
"""What the checkpoint adds: mean Dice after a number of refinement steps, with and without it.

    python examples/zero_start.py pairs.csv [--steps 4,8,16]

benchmark.py describes pairs.csv. Both runs first take the steps of SN-Net's two coarse levels
along the forces of local NCC. "with the checkpoint" adds the U-Nets of these levels, and the
full-resolution steps also use its tissue map. "zero start" has nothing that was learned. The
script repairs no half-way field. It warps labels by the composition of the half-way fields on the
working grid.
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

from hsyn_cli.anatomy import affine
from hsyn_cli.anatomy.intensity import pair_box, resample_image
from hsyn_cli.config import presets
from hsyn_cli.fields.grids import affine_displacement
from hsyn_cli.fields.images import to_image
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.repair import taper
from hsyn_cli.fields.sampling import compose
from hsyn_cli.fields.smoothing import resize_smooth
from hsyn_cli.fields.totals import field_on
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.refine import refine
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.space import Grid, affine_parts, working_grid


@torch.no_grad()
def dice(net: SNNet, pair: dict[str, str], counts: list[int], learned: bool) -> list[float]:
    fixed, moving = (sitk.ReadImage(pair[name], sitk.sitkFloat32) for name in ("fixed", "moving"))
    transform = affine.align(fixed, moving, "affine", seed=0)
    grid = working_grid(
        Grid.of(fixed), pair_box(fixed, moving, transform), 1.0, 8.0, net.config.multiple
    )
    images = torch.cat((resample_image(moving, grid, transform), resample_image(fixed, grid)))
    start = torch.cat(net(*images.chunk(2), 2))
    seen = net.look(images) if learned else images
    (stage,) = presets.find("default").refinement
    found = []
    for count in counts:
        steps = dataclasses.replace(stage.steps, steps=count)
        u = refine(start, seen, 1.0, [presets.RefineStage(stage.scale, steps)])
        to_moving, to_fixed = taper(resize_smooth(u, images.shape[2:]), 1.0, 8).split(1)
        back = fixed_point_inverse(to_fixed, 1.0, -to_fixed, tolerance=0.05)
        a, t = affine_parts(transform)
        along = field_on(compose(back, to_moving, 1.0), grid, Grid.of(fixed))
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
    for level in nothing.levels:  # nets that predict zero change nothing
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
