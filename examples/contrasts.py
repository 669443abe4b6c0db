#!/usr/bin/env python3
"""Dice of painted pairs whose images differ in contrast, with the features of a checkpoint or not.

    python examples/contrasts.py brain.csv --split test --models none run/checkpoint.safetensors
    python examples/contrasts.py brain.csv --split test --same

brain.csv is as for hsyn train, with the column split; its label maps of whole heads have
FreeSurfer's ids. Each map is registered to the next one, painted skull-stripped as T1 and as T2,
FLAIR, or with random grey values, by the painter of ten_images.py, which no training uses. The
script prints the mean Dice over the regions of the brain for each kind of pair and model, and the
mean gain over the first model with its standard error over the pairs. --mm makes coarser maps, for
a quick look.

--same registers two pictures of one map instead, the moving one turned by 12 degrees and shifted by
8 mm, and prints how far the forward field is from that, in mm, as the mean over the brain.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table
from ten_images import T2, mean_dice, painted

import hsyn_cli

OUTSIDE = (24, 500)  # fluid around the brain; the first id beyond it
T1 = {
    2: 0.9, 41: 0.9, 7: 0.9, 46: 0.9, 16: 0.9, 28: 0.9, 60: 0.9, 4: 0.15, 43: 0.15, 14: 0.15,
    15: 0.15, 24: 0.15, 5: 0.15, 44: 0.15, 10: 0.72, 49: 0.72, 11: 0.72, 50: 0.72, 12: 0.72,
    51: 0.72, 13: 0.72, 52: 0.72,
}  # fmt: skip
FLAIR = {
    2: 0.45, 41: 0.45, 7: 0.45, 46: 0.45, 16: 0.5, 28: 0.5, 60: 0.5, 4: 0.1, 43: 0.1, 14: 0.1,
    15: 0.1, 24: 0.1, 5: 0.1, 44: 0.1, 10: 0.58, 49: 0.58, 11: 0.65, 50: 0.65, 12: 0.62, 51: 0.62,
    13: 0.45, 52: 0.45,
}  # fmt: skip
RIGHT = {k: k - 39 for k in range(41, 53)} | {53: 17, 54: 18, 58: 26, 60: 28}  # its left id
KINDS = (("T1", "T2"), ("T1", "FLAIR"), ("T2", "FLAIR"), ("T1", "random"))


def greys(kind: str, ids: np.ndarray, rng: np.random.Generator) -> dict[int, float]:
    """The grey value of each id; both sides have one."""
    if kind == "random":
        of_left = {int(k): float(rng.uniform(0.1, 1)) for k in ids}
        return {k: of_left.get(RIGHT.get(k, k), v) for k, v in of_left.items()}
    return {"T1": T1, "T2": T2, "FLAIR": FLAIR}[kind]


def brain(path: Path, mm: float | None) -> sitk.Image:
    """The label map at `path` without what is outside the brain."""
    labels = sitk.ReadImage(str(path))
    if mm is not None:
        size = [
            round(n * s / mm) for n, s in zip(labels.GetSize(), labels.GetSpacing(), strict=True)
        ]
        labels = sitk.Resample(
            labels, size, sitk.Transform(), sitk.sitkNearestNeighbor, labels.GetOrigin(), [mm] * 3,
            labels.GetDirection(),
        )  # fmt: skip
    fluid, beyond = OUTSIDE
    return sitk.Mask(labels, (labels != fluid) & (labels < beyond))


def turned(image: sitk.Image) -> tuple[sitk.Image, sitk.Transform]:
    """The image as if the head had moved, and the map from its old points to its new ones."""
    middle = [(n - 1) / 2 for n in image.GetSize()]
    centre = image.TransformContinuousIndexToPhysicalPoint(middle)
    axis, shift = np.array([1, 2, -1.5]), np.array([4, -4, 3])
    pose = sitk.VersorRigid3DTransform()
    pose.SetCenter(centre)
    pose.SetRotation((axis / np.linalg.norm(axis)).tolist(), np.deg2rad(12))
    pose.SetTranslation((8 * shift / np.linalg.norm(shift)).tolist())
    out, turn = sitk.Image(image), np.reshape(pose.GetMatrix(), (3, 3))
    out.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    out.SetOrigin(pose.TransformPoint(image.GetOrigin()))
    return out, pose


def apart(field: sitk.Image, pose: sitk.Transform, brain: sitk.Image) -> float:
    """The mean distance in mm between a field and the true map, over the brain."""
    true = sitk.TransformToDisplacementField(
        pose, sitk.sitkVectorFloat64, field.GetSize(), field.GetOrigin(), field.GetSpacing(),
        field.GetDirection(),
    )  # fmt: skip
    off = sitk.VectorMagnitude(sitk.Cast(field, sitk.sitkVectorFloat64) - true)
    return float(sitk.GetArrayViewFromImage(off)[sitk.GetArrayViewFromImage(brain) > 0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--models", nargs="+", default=["none"])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--mm", type=float)
    parser.add_argument("--same", action="store_true", help="two pictures of each map")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    with arguments.maps.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["labels"]]
    paths = [
        arguments.maps.parent / row["labels"] for row in rows if row.get("split") == arguments.split
    ]
    if len(paths) < 2:
        parser.error(f"{arguments.maps} has fewer than two label maps of {arguments.split}")
    labels = [brain(path, arguments.mm) for path in paths]
    found = {f"{a} to {b}": {model: [] for model in arguments.models} for a, b in KINDS}
    for number, (a, b) in enumerate(KINDS):
        for k, moving in enumerate(labels):
            fixed = moving if arguments.same else labels[(k + 1) % len(labels)]
            rng = np.random.default_rng((number, k))
            ids = np.unique(sitk.GetArrayFromImage(moving))
            pair = [
                sitk.Mask(painted(v, rng, greys(kind, ids, rng)), v > 0)
                for v, kind in ((moving, a), (fixed, b))
            ]
            if arguments.same:
                pair[0], pose = turned(pair[0])
            for model in arguments.models:
                result = hsyn_cli.register(*pair, weights=model, preset=arguments.preset)
                field = sitk.Cast(result.forward_field, sitk.sitkVectorFloat64)
                score = (
                    apart(field, pose, fixed) if arguments.same
                    else mean_dice(sitk.DisplacementFieldTransform(field), moving, fixed)
                )  # fmt: skip
                found[f"{a} to {b}"][model].append(score)
                Console().print(f"{paths[k].name}, {a} to {b}, {model}: {score:.3f}")
    table = Table("pair", *(Path(model).stem for model in arguments.models), "gain, its error")
    every = {
        model: [dice for scores in found.values() for dice in scores[model]]
        for model in arguments.models
    }
    for name, scores in {**found, "all": every}.items():
        first, *others = (np.array(scores[model]) for model in arguments.models)
        gains = [
            f"{np.mean(v - first):+.4f}, {np.std(v - first, ddof=1) / len(v) ** 0.5:.4f}"
            for v in others
        ]
        table.add_row(name, *(f"{np.mean(v):.3f}" for v in (first, *others)), "; ".join(gains))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
