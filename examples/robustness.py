#!/usr/bin/env python3
"""Mean Dice of the same pairs when the moving image is degraded in one way at a time.

    python examples/robustness.py pairs.csv WORK [--preset default]

benchmark.py describes pairs.csv and measures Dice. "turned" is by 30 degrees about an oblique axis
through the middle, and "shifted" by 60 mm. Both change the header alone, so nothing is
interpolated. "bias field" multiplies the image by a smooth field between about 0.4 and 2.5. "half
the resolution" averages 2 x 2 x 2 voxels. The moving labels change with the pose only.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table


def turned(image: sitk.Image) -> sitk.Image:
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    turn = sitk.VersorTransform((0.6, 0.48, 0.64), np.deg2rad(30), middle)
    out = sitk.Image(image)
    out.SetOrigin(turn.TransformPoint(image.GetOrigin()))
    rotation = np.reshape(turn.GetMatrix(), (3, 3))
    out.SetDirection((rotation @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return out


def shifted(image: sitk.Image) -> sitk.Image:
    out = sitk.Image(image)
    out.SetOrigin((np.array(image.GetOrigin()) + 60 * np.array([0.6, 0.48, 0.64])).tolist())
    return out


def biased(image: sitk.Image) -> sitk.Image:
    waves = sitk.GetImageFromArray(np.random.default_rng(0).uniform(-0.9, 0.9, (4, 4, 4)))
    extent = [n * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    waves.SetSpacing([e / 3 for e in extent])
    waves.SetOrigin(image.GetOrigin())
    waves.SetDirection(image.GetDirection())
    bias = sitk.Exp(sitk.Resample(waves, image, sitk.Transform(), sitk.sitkBSpline))
    return sitk.Cast(image, sitk.sitkFloat32) * sitk.Cast(bias, sitk.sitkFloat32)


def coarse(image: sitk.Image) -> sitk.Image:
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), [2, 2, 2])


def same(image: sitk.Image) -> sitk.Image:
    return image


SPOILS: dict[str, tuple[Callable[[sitk.Image], sitk.Image], Callable[[sitk.Image], sitk.Image]]] = {
    "as it is": (same, same),  # image, labels
    "turned 30 degrees": (turned, turned),
    "shifted 60 mm": (shifted, shifted),
    "strong bias field": (biased, same),
    "half the resolution": (coarse, same),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--preset", default="default")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    table = Table("moving image", "mean Dice", "worst fall of a pair")
    scores: dict[str, list[float]] = {}
    for name, (of_image, of_labels) in SPOILS.items():
        scores[name] = []
        for k, pair in enumerate(benchmark.read_pairs(arguments.pairs)):
            folder = arguments.work / f"{name.replace(' ', '-')}-{k}"
            folder.mkdir()
            moving, labels = folder / "moving.nii.gz", folder / "labels.nii.gz"
            sitk.WriteImage(of_image(sitk.ReadImage(pair["moving"])), str(moving))
            sitk.WriteImage(of_labels(sitk.ReadImage(pair["moving_labels"])), str(labels))
            command = [
                sys.executable, "-m", "hsyn_cli", "register", "-m", str(moving),
                "-f", pair["fixed"], "-o", str(folder / "out"), "--preset", arguments.preset,
                "--no-html", "--quiet",
            ]  # fmt: skip
            subprocess.run(command, check=True)  # noqa: S603
            field = sitk.ReadImage(
                str(folder / "out" / "forward_field.nii.gz"), sitk.sitkVectorFloat64
            )
            transform = sitk.DisplacementFieldTransform(field)
            scores[name].append(
                benchmark.mean_dice(transform, {**pair, "moving_labels": str(labels)})
            )
        falls = np.array(scores["as it is"]) - scores[name]
        table.add_row(name, f"{np.mean(scores[name]):.3f}", f"{max(0.0, falls.max()):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
