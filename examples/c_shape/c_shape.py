#!/usr/bin/env python3
"""Figure 1 of the paper as an experiment: one direction against symmetric, on shapes far apart.

    python examples/c_shape/c_shape.py WORK [--steps 400]

The script writes to WORK: rings with an opening (C-shapes, as thick slices), two runs of `hsyn
train` that differ in `symmetric` alone, registrations of C-shapes to closed rings that neither
network has seen, and comparison.png. The picture shows moving image, fixed image, the result of
each network, and its Dice. Needs hsyn with its extra `train`. Takes some minutes on a CPU.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk

SIZE, SPACING = (64, 64, 24), 2.0  # voxels (x, y, z), mm
LEVELS = [
    {"scale": 4, "stride": 1, "encoder": [16, 32, 32], "head": [32, 16], "window": 5},
    {"scale": 2, "stride": 1, "encoder": [16, 16, 32, 32], "head": [16], "window": 5},
]
SHAPES, TESTS = 40, 6
NETWORKS = {"one direction": False, "symmetric": True}


def c_shape(rng: np.random.Generator, opening: float) -> sitk.Image:
    """A ring in the x-y plane with soft edges; `opening` is the open share of the circle."""
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * SPACING for n in reversed(SIZE)), indexing="ij"
    )
    radius, angle = np.hypot(x, y), np.abs(np.arctan2(y, x)) / np.pi
    middle, width = rng.uniform(28, 34), rng.uniform(12, 16)
    edges = (
        width / 2 - np.abs(radius - middle),
        (angle - opening) * middle if opening else 99.0,
        14 - np.abs(z),
    )
    values = 200 * np.prod(
        [1 / (1 + np.exp(-np.clip(e, -30, 30))) for e in np.broadcast_arrays(*edges)], axis=0
    )
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((SPACING,) * 3)
    return image


def hsyn(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "hsyn_cli", *map(str, words)], check=True)  # noqa: S603


def train(data: Path, run: Path, symmetric: bool, steps: int) -> None:
    settings = {
        "sn_net": {"spacing": SPACING, "levels": LEVELS, "symmetric": symmetric},
        "stages": [
            {"first": 0, "depth": 1, "steps": steps, "rate": 1e-3, "look": 2},
            {"first": 0, "depth": 2, "steps": steps, "rate": 1e-3},
        ],
        "di_steps": steps // 2,
        "size": SIZE,
        "smooth": 0.5,
        "mean_shape": 0.05,
        "flip": False,
        "precision": "float32",
    }
    config = run.with_suffix(".json")
    config.write_text(json.dumps(settings))
    hsyn("train", "--data", data, "-o", run, "--config", config)


def register(moving: Path, fixed: Path, run: Path, out: Path) -> sitk.Image:
    weights = run / "checkpoint.safetensors"
    pair = ("-m", moving, "-f", fixed, "-o", out)
    hsyn("register", *pair, "--weights", weights, "--no-affine", "--preset", "fast", "--quiet")
    return sitk.ReadImage(str(out / "warped.nii.gz"))


def dice(a: sitk.Image, b: sitk.Image) -> float:
    one, two = (sitk.GetArrayViewFromImage(v) > 100 for v in (a, b))
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def draw(images: dict[str, sitk.Image], path: Path) -> None:
    figure, axes = plt.subplots(1, len(images), figsize=(11, 3.2), layout="constrained")
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(sitk.GetArrayViewFromImage(image)[SIZE[2] // 2], cmap="gray", vmin=0, vmax=200)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument(
        "--steps", type=int, default=400, help="of each of the two stages; default: %(default)s"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    (work / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(SHAPES):
        sitk.WriteImage(c_shape(rng, rng.uniform(0, 0.6)), str(work / "data" / f"{k:02}.nii.gz"))
    pairs = [(c_shape(rng, 0.3 + 0.05 * k), c_shape(rng, 0.0)) for k in range(TESTS)]
    scores, shown = {}, {"moving": pairs[-1][0], "fixed": pairs[-1][1]}
    for name, symmetric in NETWORKS.items():
        run = work / name.replace(" ", "-")
        train(work / "data", run, symmetric, arguments.steps)
        scores[name] = []
        for k, pair in enumerate(pairs):
            paths = [work / f"{role}-{k}.nii.gz" for role in ("moving", "fixed")]
            for path, image in zip(paths, pair, strict=True):
                sitk.WriteImage(image, str(path))
            warped = register(*paths, run, work / f"{run.name}-{k}")
            scores[name].append(dice(warped, pair[1]))
        shown[f"{name}: Dice {scores[name][-1]:.3f}"] = warped
    draw(shown, work / "comparison.png")
    (work / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(f"before: mean Dice {np.mean([dice(*pair) for pair in pairs]):.3f}")  # noqa: T201
    for name, values in scores.items():
        mean, worst = np.mean(values), min(values)
        print(f"{name}: mean Dice {mean:.3f} over {TESTS} pairs, worst {worst:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
