#!/usr/bin/env python3
"""How well hsyn finds the brains of whole heads.

    python examples/find_brains.py MAPS
    python examples/find_brains.py MAPS --head scan.nii.gz scan_brain.nii.gz

MAPS holds label maps of whole heads with FreeSurfer's ids, such as those that SynthSeg was trained
with. The last people are painted as painted_people.py paints them, as T1, T2, FLAIR and CT-like.
The script prints the litres of what hsyn takes for brain, the Dice with the brain and the fluid
around it, and how much of the brain itself lies outside, and outside by more than 2 mm. --head
adds a scan and the same scan skull-stripped by other means, whose outline counts as the brain.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from painted_people import CONTRASTS, picture
from rich.console import Console
from rich.table import Table

from hsyn_cli.anatomy.view import view_of
from hsyn_cli.method.brain_finder import find_brain, litres

FLUID, OUTSIDE = 24, 500  # ids: around the brain; of what lies outside from here on
FAR_MM = 2.0


def row(head: sitk.Image, inside: NDArray[np.bool_] | None, brain: NDArray[np.bool_]) -> list[str]:
    """What the table says of a head. `inside`: the brain with its fluid, if it is known."""
    found = find_brain(view_of(head).image)
    if found is None:
        return ["none", "", "", ""]
    whole = sitk.Resample(found, head, sitk.Transform(), sitk.sitkNearestNeighbor)
    mask = sitk.GetArrayFromImage(whole) != 0
    far = sitk.SignedMaurerDistanceMap(whole, squaredDistance=False, useImageSpacing=True)
    missed = brain & (sitk.GetArrayViewFromImage(far) > FAR_MM)
    dice = (
        "" if inside is None else f"{2 * (mask & inside).sum() / (mask.sum() + inside.sum()):.3f}"
    )
    shares = (100 * part.sum() / brain.sum() for part in (brain & ~mask, missed))
    return [f"{litres(found):.2f}", dice, *(f"{share:.2f} %" for share in shares)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("--people", type=int, default=4, help="the last; default: %(default)s")
    parser.add_argument("--head", type=Path, nargs=2, action="append", default=[])
    arguments = parser.parse_args()
    table = Table("head", "litres", "Dice", "brain missed", f"by more than {FAR_MM:g} mm")
    for path in sorted(arguments.maps.glob("*.nii.gz"))[-arguments.people :]:
        labels = sitk.ReadImage(str(path))
        ids = sitk.GetArrayFromImage(labels)
        inside = (ids > 0) & (ids < OUTSIDE)
        for k, kind in enumerate(CONTRASTS):
            head = picture(labels, kind, (0, k))
            name = path.name.removesuffix(".nii.gz")
            table.add_row(f"{name}, {kind}", *row(head, inside, inside & (ids != FLUID)))
    for scan, stripped in arguments.head:
        head, brain = (sitk.ReadImage(str(path)) for path in (scan, stripped))
        near = sitk.Resample(brain, head, sitk.Transform(), sitk.sitkNearestNeighbor)
        table.add_row(scan.name, *row(head, None, sitk.GetArrayFromImage(near) != 0))
    Console().print(table)


if __name__ == "__main__":
    main()
