#!/usr/bin/env python3
"""Dice of the classes that a checkpoint's tissue net finds in scans with label maps.

    python examples/structures.py run/checkpoint.safetensors scans.csv \
        --classes examples/gpu/neuromorphometrics.csv
    python examples/structures.py run/checkpoint.safetensors brain.csv --split test

scans.csv has the columns image and labels, and may have split. Its paths are relative to the file.
A label map without an image gets a painted T1-like picture. If the label maps have other ids than
the classes of the net, --classes maps them: its columns are index, an id of the label maps, and
class, an id of the net's config. Ids that it lacks count as no class. Every voxel gets its most
likely class. Dice is measured on the grids of the label maps. The net works as in hsyn register.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from contrasts import T1
from rich.console import Console
from rich.table import Table
from ten_images import painted

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.intensity import content_box, resample_image
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.config.architecture import SNNetConfig, TissueConfig
from hsyn_cli.devices import choose_device
from hsyn_cli.io.images import read_image
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.tissue_net import TissueNet
from hsyn_cli.space import Grid, working_grid

MARGIN = 8  # working voxels around the content, as in hsyn register


@torch.no_grad()
def marked(net: TissueNet, config: SNNetConfig, given: sitk.Image, like: sitk.Image) -> np.ndarray:
    """The class of each voxel of `like`, (Z, Y, X): 0, or 1 + its place in the config."""
    view = view_of(given)
    look, organ = organs.look(view.image), organs.find(config.organ)
    image = organ.prepare(view.image, look)
    box, margin = content_box(image), MARGIN * config.spacing
    grid = working_grid(Grid.of(image), box, config.spacing, margin, net.stride)
    grey = organ.window(image, config.inputs.percentile)
    device = next(net.parameters()).device
    index = net.logits(resample_image(image, grid, None, grey).to(device)).argmax(1)[0]
    found = grid.stamp(sitk.GetImageFromArray(index.byte().cpu().numpy()))
    return sitk.GetArrayFromImage(
        sitk.Resample(found, like, sitk.Transform(), sitk.sitkNearestNeighbor)
    )


def classed(labels: np.ndarray, config: TissueConfig, mapping: Mapping[int, int]) -> np.ndarray:
    """The class of each voxel by its label map. `mapping`: {id of the map: id of the config}."""
    place = {k: number for number, group in enumerate(config.classes, 1) for k in group}
    ids, index = np.unique(labels, return_inverse=True)
    table = [place.get(mapping.get(int(k), -1), 0) for k in ids]
    return np.array(table, np.uint8)[index].reshape(labels.shape)


def dices(found: np.ndarray, true: np.ndarray, count: int) -> list[float]:
    """Dice of the classes 1 to `count`; NaN where the label map lacks one."""
    sizes = [np.bincount(v.ravel(), minlength=count + 1)[1:] for v in (found, true)]
    both = np.bincount(true[found == true].ravel(), minlength=count + 1)[1:]
    return np.where(sizes[1] > 0, 2 * both / np.maximum(sizes[0] + sizes[1], 1), np.nan).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("scans", type=Path)
    parser.add_argument("--classes", type=Path, help="a CSV; default: the ids are the same")
    parser.add_argument("--split", help="measure the rows of this split alone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    networks = load_networks(arguments.checkpoint, choose_device(arguments.device))
    net, config = networks.sn.tissue, networks.sn.config
    if net is None or config.tissue is None or not config.tissue.classes:
        parser.error(f"{arguments.checkpoint} has no tissue net with classes")
    classes, mapping = config.tissue.classes, None
    if arguments.classes is not None:
        with arguments.classes.open(newline="") as stream:
            mapping = {int(row["index"]): int(row["class"]) for row in csv.DictReader(stream)}
    with arguments.scans.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["labels"]]
    if arguments.split:
        rows = [row for row in rows if row.get("split") == arguments.split]
    if not rows:
        parser.error(f"{arguments.scans} has no label maps to measure")
    scores = []
    for number, row in enumerate(rows):
        labels = sitk.ReadImage(str(arguments.scans.parent / row["labels"]))
        values = sitk.GetArrayFromImage(labels).astype(np.int64)
        if row.get("image"):
            image = read_image(arguments.scans.parent / row["image"]).image
        else:
            image = painted(labels, np.random.default_rng(number), T1)
        same = {int(k): int(k) for k in np.unique(values)}
        true = classed(values, config.tissue, same if mapping is None else mapping)
        scores.append(dices(marked(net, config, image, labels), true, len(classes)))
        Console().print(f"{row['labels']}: mean Dice {np.nanmean(scores[-1]):.3f}")
    each = np.nanmean(np.array(scores), axis=0)
    table = Table("class", "mean Dice", "worst scan")
    for group, mean, worst in zip(classes, each, np.nanmin(np.array(scores), axis=0), strict=True):
        table.add_row(", ".join(map(str, group)), f"{mean:.3f}", f"{worst:.3f}")
    table.add_row("all", f"{np.nanmean(each):.3f}", "")
    Console().print(table)
    if arguments.json:
        about = {"mean": float(np.nanmean(each)), "classes": classes, "dice": scores}
        arguments.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
