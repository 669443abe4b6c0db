#!/usr/bin/env python3
"""What fine-tuning on ten images on a CPU adds, for images unlike those of the training.

    python examples/ten_images.py MAPS WORK [--minutes 20]

MAPS holds 14 or more label maps of whole heads with FreeSurfer's ids, such as those that SynthSeg
was trained with. From ten of them, the script paints T2-like pictures with skull and skin, which
brain-t1 has never seen. `hsyn train --from brain-t1` learns from these pictures alone. The script
then registers pairs of pictures of four other people with the checkpoint before and after, with
the preset fast, and prints the mean Dice over the regions of the brain.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

TRAINED, TESTED = 10, 4  # people
T2 = {
    24: 1.0, 4: 1.0, 43: 1.0, 14: 1.0, 15: 1.0, 2: 0.35, 41: 0.35, 7: 0.35, 46: 0.35, 16: 0.4,
    28: 0.4, 60: 0.4, 13: 0.3, 52: 0.3, 12: 0.5, 51: 0.5, 11: 0.55, 50: 0.55, 10: 0.45, 49: 0.45,
}  # fmt: skip
GREY = 0.6  # all other brain labels


def painted(
    labels: sitk.Image, rng: np.random.Generator, greys: dict[int, float] = T2
) -> sitk.Image:
    """A T2-like picture: one value per label, blurred, with bias field and noise; dark outside."""
    ids = sitk.GetArrayFromImage(labels)
    outside = {int(k): rng.uniform(0.1, 0.7) for k in np.unique(ids) if k > 500}
    value = {int(k): greys.get(int(k), outside.get(int(k), GREY)) for k in np.unique(ids) if k}
    table = np.zeros(int(ids.max()) + 1, np.float32)
    for k, v in value.items():
        table[k] = v + rng.normal(0, 0.02)
    picture = sitk.GetImageFromArray(table[ids])
    picture.CopyInformation(labels)
    picture = sitk.DiscreteGaussian(picture, 0.5)
    waves = sitk.GetImageFromArray(rng.normal(0, 0.15, (4, 4, 4)).astype(np.float32))
    extent = [n * s for n, s in zip(labels.GetSize(), labels.GetSpacing(), strict=True)]
    waves.SetSpacing([e / 3 for e in extent])
    waves.SetOrigin(labels.GetOrigin())
    waves.SetDirection(labels.GetDirection())
    bias = sitk.Exp(sitk.Resample(waves, labels, sitk.Transform(), sitk.sitkBSpline, 0.0))
    picture = sitk.AdditiveGaussianNoise(picture * bias, 0.03, 0.0, int(rng.integers(2**31)))
    return sitk.Cast(sitk.Clamp(picture * 200, sitk.sitkFloat32, 0, 255), sitk.sitkUInt8)


def hsyn(*words: object) -> str:
    command = [sys.executable, "-m", "hsyn_cli", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return done.stdout


def mean_dice(transform: sitk.Transform, moving: sitk.Image, fixed: sitk.Image) -> float:
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor, 0)
    a, b = (sitk.GetArrayViewFromImage(v) for v in (fixed, warped))
    ids = [k for k in np.unique(a) if 0 < k < 500 and k != 24]
    return float(
        np.mean([2 * np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k)) for k in ids])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument(
        "--minutes", type=float, help="of training; default: the plan of hsyn train"
    )
    arguments = parser.parse_args()
    paths = sorted(arguments.maps.glob("*.nii*"))[: TRAINED + TESTED]
    if len(paths) < TRAINED + TESTED:
        parser.error(
            f"{arguments.maps} holds {len(paths)} label maps, {TRAINED + TESTED} are needed"
        )
    images = arguments.work / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, path in enumerate(paths):
        folder = images if number < TRAINED else arguments.work
        sitk.WriteImage(
            painted(sitk.ReadImage(str(path)), rng), str(folder / f"{number:02}.nii.gz")
        )
    limit = () if arguments.minutes is None else ("--minutes", arguments.minutes)
    run = arguments.work / "run"
    begun = time.monotonic()
    lines = hsyn(
        "train", "--data", images, "-o", run, "--from", "brain-t1", *limit, "--json"
    ).splitlines()
    took = time.monotonic() - begun
    announced = json.loads(lines[0])["seconds"]
    minutes = f"announced {announced / 60:.1f} minutes, took {took / 60:.1f}"
    print(f"training: {minutes}, data included")  # noqa: T201
    tested = list(enumerate(paths))[TRAINED:]
    scores: dict[str, list[float]] = {"affine alone": []}
    for name in ("brain-t1", str(run / "checkpoint.safetensors")):
        scores[name] = []
        for (m, moving), (f, fixed) in zip(tested, [*tested[1:], tested[0]], strict=True):
            out = arguments.work / f"{Path(name).stem}-{m}-{f}"
            pair = (
                "-m",
                arguments.work / f"{m:02}.nii.gz",
                "-f",
                arguments.work / f"{f:02}.nii.gz",
                "-o",
                out,
            )
            hsyn("register", *pair, "--preset", "fast", "--weights", name, "--no-html", "--quiet")
            labels = [sitk.ReadImage(str(p)) for p in (moving, fixed)]
            field = sitk.ReadImage(str(out / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
            scores[name].append(mean_dice(sitk.DisplacementFieldTransform(field), *labels))
            if name == "brain-t1":
                affine = sitk.ReadTransform(str(out / "affine.mat"))
                scores["affine alone"].append(mean_dice(affine, *labels))
    for name, values in scores.items():
        each = [round(v, 3) for v in values]
        print(f"{Path(name).stem}: mean Dice {np.mean(values):.3f} {each}")  # noqa: T201


if __name__ == "__main__":
    main()
