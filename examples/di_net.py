#!/usr/bin/env python3
"""What DI-Net alone is worth on SN-Net's half-way fields: mean squared residual of compose(inverse, field) inside the brain.

    python examples/di_net.py pairs.csv

pairs.csv has the columns moving and fixed. The fields are those of the preset fast, seen at half resolution, as in use; the
residual is told in voxels of theirs (2 mm for brain-t1). Beside it: what fixed-point steps, as many as DI-Net is asked
times, leave without the net.
"""

import argparse
from pathlib import Path

import benchmark
import numpy as np
import torch

from hsyn_cli import register
from hsyn_cli.fields import compose, downsample, warp
from hsyn_cli.networks import load_networks
from hsyn_cli.prepare import on_grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    pairs = benchmark.read_pairs(parser.parse_args().pairs)
    _, di, _ = load_networks(None, torch.device("cpu"))
    found: dict[str, list[float]] = {"DI-Net": [], "fixed-point steps": []}
    for pair in pairs:
        result = register(pair["moving"], pair["fixed"], preset="fast")
        working = result.working
        spacing = 2 * working.grid.spacing[0]
        brain = downsample(on_grid(result.fixed, working.grid), 2)[:, 0] > 0.05
        for field in (working.mid_to_moving, working.mid_to_fixed):
            u = downsample(field, 2)
            with torch.no_grad():
                plain = -u
                for _ in range(di.config.repeats):
                    plain = -warp(u, plain, spacing)
                for name, v in (("DI-Net", di(u, spacing)), ("fixed-point steps", plain)):
                    residual = (compose(v, u, spacing) / spacing).square().sum(1)
                    found[name].append(float(residual[brain].mean()))
    for name, values in found.items():
        print(f"{name}: {np.mean(values):.6f} voxel^2, worst field {max(values):.6f}")  # noqa: T201


if __name__ == "__main__":
    main()
