#!/usr/bin/env python3
"""Error in mm of hsyn and its peers on painted brains bent by a field that is known.

    python examples/known_field.py MAPS WORK [--people 2] [--methods default,greedy] [--bend 6]

MAPS holds label maps of whole heads with FreeSurfer's ids, such as those that SynthSeg was trained
with. For the last people, which brain-t1 has not seen, the script bends the label map by a smooth
random field, and paints both maps as skull-stripped T1-like pictures, each with its own noise and
bias field. The error is |forward(p) - true(p)| at the voxels of the fixed map, by tissue. Methods
are those of benchmark.py. Needs SimpleITK, numpy and rich.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from benchmark import register
from rich.console import Console
from rich.table import Table
from ten_images import painted
from whole_heads import CONFIG

SIGMAS_MM = (20.0, 8.0)  # of the random field's parts: large bends, and half of that in small ones
PARTS = {
    "cortex": (3, 42),
    "white matter": (2, 41),
    "nuclei, hippocampus, amygdala": (10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58),
    "brain stem": (16,),
    "cerebellum": (7, 8, 46, 47),
}


def bend(like: sitk.Image, most: float, rng: np.random.Generator) -> sitk.Image:
    """A smooth random displacement field, mm LPS, of at most `most` mm, without folds."""
    total = np.zeros((*like.GetSize()[::-1], 3))
    for sigma, share in zip(SIGMAS_MM, (2 / 3, 1 / 3), strict=True):
        noise = sitk.GetImageFromArray(rng.normal(size=total.shape), isVector=True)
        noise.CopyInformation(like)
        smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(noise, sigma))
        total += smooth * (share * most / np.linalg.norm(smooth, axis=-1).max())
    field = sitk.GetImageFromArray(total, isVector=True)
    field.CopyInformation(like)
    least = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).min()
    if least <= 0:
        raise SystemExit(f"a field of {most:g} mm folds; give a smaller --bend")
    return field


def make_pair(labels: sitk.Image, most: float, seed: int, folder: Path) -> dict[str, object]:
    """Write moving.nii.gz and fixed.nii.gz -> their paths, the true field, and the fixed labels."""
    rng = np.random.default_rng(seed)
    greys = {int(k): v for k, v in json.loads(CONFIG.read_text())["intensities"].items()}
    true = bend(labels, most, rng)
    bent = sitk.Resample(
        labels, sitk.DisplacementFieldTransform(sitk.Image(true)), sitk.sitkNearestNeighbor, 0
    )
    pair: dict[str, object] = {"true": sitk.GetArrayFromImage(true)}
    for name, ids in (("moving", labels), ("fixed", bent)):
        brain = sitk.Mask(painted(ids, rng, greys), (ids < 500) & (ids > 0))
        pair[name] = str(folder / f"{name}.nii.gz")
        sitk.WriteImage(brain, pair[name])
    return {**pair, "labels": sitk.GetArrayFromImage(bent)}


def errors(out: Path, pair: dict) -> dict[str, tuple[float, float]]:
    """{part: mean and 95 % of the error in mm}."""
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "forward_field.nii.gz")))
    error = np.linalg.norm(found - pair["true"], axis=-1)
    parts = {name: error[np.isin(pair["labels"], ids)] for name, ids in PARTS.items()}
    return {name: (float(v.mean()), float(np.percentile(v, 95))) for name, v in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--people", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--methods", default="default,greedy", help="default: %(default)s")
    parser.add_argument("--bend", type=float, default=6.0, help="mm at most; default: %(default)s")
    parser.add_argument("--hsyn", default="hsyn", help="the program; default: hsyn on the PATH")
    parser.add_argument("--peer-python", default=sys.executable, help="default: this one")
    args = parser.parse_args()
    args.threads = os.cpu_count()
    args.work.mkdir(parents=True)
    methods = args.methods.split(",")
    scores: dict[str, list[dict]] = {name: [] for name in methods}
    for number, path in enumerate(sorted(args.maps.glob("*.nii*"))[-args.people :]):
        folder = args.work / str(number)
        folder.mkdir()
        pair = make_pair(sitk.ReadImage(str(path)), args.bend, number, folder)
        for name in methods:
            out = folder / name / "out"
            out.mkdir(parents=True)
            register(name, pair, out, args)
            scores[name].append(errors(out, pair))
    table = Table("error in mm, mean / 95 %", *methods)
    for part in PARTS:
        cells = ([run[part] for run in scores[name]] for name in methods)
        means = (np.mean(values, axis=0) for values in cells)
        table.add_row(part, *(f"{mean:.2f} / {high:.2f}" for mean, high in means))
    Console().print(table)


if __name__ == "__main__":
    main()
