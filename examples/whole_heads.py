#!/usr/bin/env python3
"""Mean Dice over the regions of the brain for whole heads, and for the same heads skull-stripped.

    python examples/whole_heads.py MAPS WORK [--people 2]

MAPS holds label maps of whole heads with FreeSurfer's ids, such as those that SynthSeg was trained
with. For the last people, which brain-t1 has not seen, the script paints T1-like pictures with and
without what surrounds the brain. It registers every person to the next one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table
from ten_images import hsyn, mean_dice, painted

CONFIG = Path(__file__).parents[1] / "weights" / "brain-t1.train.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--people", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    paths = sorted(arguments.maps.glob("*.nii*"))[-arguments.people :]
    greys = {int(k): v for k, v in json.loads(CONFIG.read_text())["intensities"].items()}
    rng = np.random.default_rng(0)
    labels, pictures = [], {"whole heads": [], "skull-stripped": []}
    for k, path in enumerate(paths):
        labels.append(sitk.ReadImage(str(path)))
        head = painted(labels[k], rng, greys)
        for kind, image in (
            ("whole heads", head),
            ("skull-stripped", sitk.Mask(head, (labels[k] < 500) & (labels[k] > 0))),
        ):
            file = arguments.work / f"{kind.replace(' ', '-')}-{k}.nii.gz"
            sitk.WriteImage(image, str(file))
            pictures[kind].append(file)
    table = Table("pictures", "affine alone", "fast", "default", "recognised as")
    for kind, files in pictures.items():
        scores: dict[str, list[float]] = {"affine": [], "fast": [], "default": []}
        shown = set()
        for m in range(len(files)):
            f = (m + 1) % len(files)
            for preset in ("fast", "default"):
                out = arguments.work / f"{files[m].name[:-7]}-{preset}"
                hsyn(
                    "register",
                    "-m",
                    files[m],
                    "-f",
                    files[f],
                    "-o",
                    out,
                    "--preset",
                    preset,
                    "--no-html",
                    "--quiet",
                )
                field = sitk.ReadImage(str(out / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
                scores[preset].append(
                    mean_dice(sitk.DisplacementFieldTransform(field), labels[m], labels[f])
                )
            scores["affine"].append(
                mean_dice(sitk.ReadTransform(str(out / "affine.mat")), labels[m], labels[f])
            )
            shown |= set(json.loads((out / "report.json").read_text())["shown"].values())
        table.add_row(
            kind, *(f"{np.mean(v):.3f}" for v in scores.values()), ", ".join(sorted(shown))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
