#!/usr/bin/env python3
"""Mean squared residual of DI-Net alone on SN-Net's half-way fields, inside the brain.

    python examples/di_net.py pairs.csv

pairs.csv has the columns moving and fixed. The fields are those of the preset fast at half
resolution, as hsyn uses them. The residual of compose(inverse, field) is in voxels of this
resolution (2 mm for brain-t1). For comparison, the script takes as many fixed-point steps, without
the network, as hsyn applies DI-Net.
"""

import argparse
from pathlib import Path

import benchmark
import numpy as np
import torch

from hsyn_cli import register
from hsyn_cli.anatomy.intensity import resample_image
from hsyn_cli.fields.sampling import compose, downsample, warp
from hsyn_cli.method.networks import load_networks


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
        brain = downsample(resample_image(result.fixed, working.grid), 2)[:, 0] > 0.05
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
