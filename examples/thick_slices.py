#!/usr/bin/env python3
"""Write the example pair with thick slices of one image, and a table of pairs for benchmark.py.

    python examples/thick_slices.py WORK
    python examples/benchmark.py WORK/pairs.csv --methods default,greedy

A slice is the mean of the thin ones that it covers. The labels keep their voxels of 1 mm. The table
has the pair as given, with thick slices of the moving image, and with those of the fixed one.
"""

import argparse
import csv
from pathlib import Path

import SimpleITK as sitk

BRAIN = Path(__file__).resolve().parent / "brain"
ROLES = ("moving", "fixed")


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("work", type=Path, metavar="WORK", help="new folder")
    parser.add_argument("--slice", type=int, default=6, help="mm; default: %(default)s")
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    given = {name: str(BRAIN / f"{name}.nii.gz") for name in ROLES}
    given |= {f"{name}_labels": str(BRAIN / f"{name}_labels.nii.gz") for name in ROLES}
    rows = [given]
    for name in ROLES:
        thick = sitk.BinShrink(sitk.ReadImage(given[name], sitk.sitkFloat32), (1, 1, args.slice))
        path = args.work.resolve() / f"{name}.nii.gz"
        sitk.WriteImage(thick, str(path))
        rows.append({**given, name: str(path)})
    with (args.work / "pairs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, given)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
