#!/usr/bin/env python3
"""The ablations of the paper's table 2 and two of ours, with the same training time for each.

    python examples/ablation.py pairs.csv WORK --data folder-or-csv [--minutes 3]

benchmark.py describes pairs.csv. All networks are small and see images of 2 mm: one level at 8 mm
and one at 4 mm, with fields as coarse. Scores are therefore lower than those of the checkpoint
that ships; only the differences count. `hsyn train --minutes` gives every network the same time.
`hsyn register --preset fast` then shows what the network alone is worth. benchmark.py measures
Dice. Folded voxels are those of SN-Net's half-way fields before fold repair.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

COARSE = {
    "scale": 4,
    "stride": 1,
    "encoder": [16, 32, 32],
    "head": [16],
    "window": 5,
    "forces": True,
    "repeats": 2,
}
FINE = {**COARSE, "scale": 2}
BOTH = [
    {"first": 0, "depth": 1, "steps": 300, "rate": 1e-3},
    {"first": 0, "depth": 2, "steps": 300, "rate": 1e-3},
]
ONE = [{"first": 0, "depth": 1, "steps": 600, "rate": 1e-3}]


def variant(
    levels: list[dict], stages: list[dict], symmetric: bool = True, balance: str = "smc"
) -> dict:
    net = {"spacing": 2.0, "levels": levels, "symmetric": symmetric}
    return {
        "sn_net": net,
        "size": [80, 96, 80],
        "stages": stages,
        "di_steps": 30,
        "balance": balance,
    }


def without(key: str, value: object) -> list[dict]:
    return [{**level, key: value} for level in (COARSE, FINE)]


VARIANTS = {
    "all of it": variant([COARSE, FINE], BOTH),
    "L_mc for L_smc": variant([COARSE, FINE], BOTH, balance="mc"),
    "one direction": variant([COARSE, FINE], BOTH, symmetric=False),
    "one level": variant([FINE], ONE),
    "one direction, one level": variant([FINE], ONE, symmetric=False),
    "no forces shown": variant(without("forces", False), BOTH),
    "each level asked once": variant(without("repeats", 1), BOTH),
}


def hsyn(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "hsyn_cli", *map(str, words)], check=True)  # noqa: S603


def train(settings: dict, data: Path, run: Path, minutes: float, cache: Path | None) -> None:
    config = run.with_suffix(".json")
    config.write_text(json.dumps({**settings, "precision": "float32"}))
    if cache is not None:
        shutil.copytree(cache, run / "cache")
    hsyn("train", "--data", data, "--config", config, "-o", run, "--minutes", minutes, "--quiet")


def judge(pairs: list[dict[str, str]], run: Path) -> dict[str, float]:
    scores: dict[str, list[float]] = {"dice": [], "folds": []}
    for k, pair in enumerate(pairs):
        out = run / f"pair-{k}"
        images = ("-m", pair["moving"], "-f", pair["fixed"], "-o", out)
        weights = run / "checkpoint.safetensors"
        hsyn("register", *images, "--weights", weights, "--preset", "fast", "--no-html", "--quiet")
        field = sitk.ReadImage(str(out / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
        scores["dice"].append(benchmark.mean_dice(sitk.DisplacementFieldTransform(field), pair))
        report = json.loads((out / "report.json").read_text())
        scores["folds"].append(report["folded_before_repair_percent"])
        for image in out.glob("*.nii.gz"):
            image.unlink()
    steps = sum(1 for _ in (run / "log.jsonl").open()) * 10
    return {key: float(np.mean(values)) for key, values in scores.items()} | {"steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument(
        "--data", type=Path, required=True, help="as for hsyn train; not the people of the pairs"
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="of training per network; default: %(default)s"
    )
    arguments = parser.parse_args()
    pairs = benchmark.read_pairs(arguments.pairs)
    arguments.work.mkdir(parents=True)
    table = Table("network", "mean Dice", "folded voxels, %", "training steps, about")
    cache: Path | None = None
    found = {}
    for name, settings in VARIANTS.items():
        run = arguments.work / name.replace(" ", "-").replace(",", "")
        train(settings, arguments.data, run, arguments.minutes, cache)
        cache = cache or run / "cache"
        found[name] = scores = judge(pairs, run)
        table.add_row(
            name, f"{scores['dice']:.3f}", f"{scores['folds']:.4f}", f"{scores['steps']:.0f}"
        )
        (arguments.work / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
