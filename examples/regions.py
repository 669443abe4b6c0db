#!/usr/bin/env python3
"""Dice per region, and pictures of the worst regions, from what benchmark.py kept.

    python examples/benchmark.py pairs.csv --methods default,greedy --keep KEEP
    python examples/regions.py pairs.csv KEEP --picture worst.png

Left and right count as one region, and all pairs count together. If a labels.csv lies beside the
labels (Neuromorphometrics), ids from 100 are cortex. The picture shows the axial slice that holds
most of the region: the fixed image above, the warped image below. On both, it outlines the region
of the fixed labels and the region that the method brings there. Needs matplotlib.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import benchmark
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

CORTEX = 100  # the first id
SIZE_MM = 70.0  # of a picture
FIXED, WARPED = "#ff9f1c", "#2ec4b6"


def transform_of(out: Path) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(
        sitk.ReadImage(out / "forward_field.nii.gz", sitk.sitkVectorFloat64)
    )


def region(name: str) -> str:
    """The name without its side."""
    return name.removeprefix("Right ").removeprefix("Left ")


def draw(
    cases: list[tuple[float, int, int]],
    pairs: list[dict[str, str]],
    keep: Path,
    method: str,
    to: Path,
) -> None:
    """A column for each (Dice, index of the pair, id)."""
    figure, panels = plt.subplots(
        2, len(cases), figsize=(3 * len(cases), 6.6), layout="constrained", squeeze=False
    )
    for column, (dice, number, label) in enumerate(cases):
        pair, out = pairs[number], keep / f"{number + 1}-{method}" / "out"
        labels = sitk.ReadImage(pair["fixed_labels"])
        moved = sitk.ReadImage(pair["moving_labels"])
        moved = sitk.Resample(moved, labels, transform_of(out), sitk.sitkNearestNeighbor, 0)
        images = [sitk.ReadImage(pair["fixed"]), sitk.ReadImage(out / "warped.nii.gz")]
        fixed, warped, own, brought = (
            sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
            for image in (*images, labels, moved)
        )
        here = own == label
        z = int(here.sum((1, 2)).argmax())
        at = np.argwhere(here[z] | (brought[z] == label)).mean(0).astype(int)
        half = int(SIZE_MM / 2 / min(labels.GetSpacing()))
        cut = (z, *(slice(max(c - half, 0), c + half) for c in at))
        for axes, image in zip(panels[:, column], (fixed, warped), strict=True):
            axes.imshow(image[cut], cmap="gray", vmin=0, vmax=np.percentile(image, 99.5))
            for mask, colour in ((here, FIXED), (brought == label, WARPED)):
                if mask[cut].any():
                    axes.contour(mask[cut], levels=[0.5], colors=colour, linewidths=1.2)
            axes.set_axis_off()
        title = benchmark.names(pair).get(label, {"name": str(label)})["name"]
        panels[0, column].set_title(f"{title}\npair {number + 1}, Dice {dice:.2f}", fontsize=9)
    figure.savefig(to, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("keep", type=Path, help="folder of benchmark.py --keep")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument(
        "--cases", type=int, default=4, help="regions in the picture; default: %(default)s"
    )
    parser.add_argument(
        "--methods", help="the picture and the order are those of the first; default: all kept"
    )
    arguments = parser.parse_args()
    pairs = benchmark.read_pairs(arguments.pairs)
    kept = [
        m
        for m in (*benchmark.HSYN, *benchmark.PEERS)
        if any(arguments.keep.glob(f"1-{m}/out/forward_field*"))
    ]
    methods = arguments.methods.split(",") if arguments.methods else kept
    if unknown := set(methods) - set(kept):
        lacking = ", ".join(sorted(unknown))
        parser.error(f"{arguments.keep} has nothing of {lacking}; it has {', '.join(kept)}")
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cases: dict[str, tuple[float, int, int]] = {}  # the worst of each region
    for number, pair in enumerate(pairs):
        rows = benchmark.names(pair)
        for method in methods:
            scores = benchmark.dices(
                transform_of(arguments.keep / f"{number + 1}-{method}" / "out"), pair
            )
            for label, dice in scores.items():
                name = region(rows[label]["name"]) if rows else str(label)
                group = "all of the cortex" if label >= CORTEX else "all below the cortex"
                for place in (name, group, "all") if rows else (name, "all"):
                    found[place][method].append(dice)
                if method == methods[0]:
                    cases[name] = min(cases.get(name, (2.0, 0, 0)), (dice, number, label))
    table = Table("region", *methods)
    for name, scores in sorted(found.items(), key=lambda item: -np.mean(item[1][methods[0]])):
        table.add_row(name, *(f"{np.mean(scores[method]):.3f}" for method in methods))
    Console().print(table)
    if arguments.picture:
        draw(
            sorted(cases.values())[: arguments.cases],
            pairs,
            arguments.keep,
            methods[0],
            arguments.picture,
        )


if __name__ == "__main__":
    main()
