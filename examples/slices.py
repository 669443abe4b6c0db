"""Register 2-D slices of the example pair by hsyn and by antspyx, in one process, and compare.

python examples/slices.py --peer SyN

Each slice lies at one place in space in both images. Dice is the mean over the labels with at least
30 pixels. Seconds are the least of six runs after a first one, images in memory. The peer's kind
is any `type_of_transform` of antspyx; `none` leaves it out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import SimpleITK as sitk

from hsyn_cli import api

BRAIN = Path(__file__).parent / "brain"
NAMES = ("moving", "fixed", "moving_labels", "fixed_labels")
OFFSETS = (-16, 0, 16)  # voxels from the middle of the fixed image
LEAST, RUNS = 30, 6
COLLAPSE = sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOIDENTITY


def slices(volumes: dict[str, sitk.Image], axis: int, offset: int) -> dict[str, sitk.Image]:
    """The 2-D slice of each volume at one place of the fixed image."""
    fixed = volumes["fixed"]
    middle = [n // 2 for n in fixed.GetSize()]
    middle[axis] += offset
    point = fixed.TransformIndexToPhysicalPoint(middle)
    out = {}
    for name, volume in volumes.items():
        first, size = [0, 0, 0], list(volume.GetSize())
        first[axis] = volume.TransformPhysicalPointToIndex(point)[axis]
        size[axis] = 0
        out[name] = sitk.Extract(volume, size, first, COLLAPSE)
    return out


def dice(labels: sitk.Image, warped: np.ndarray[Any, Any]) -> float:
    """The mean over the labels of the fixed image."""
    still = sitk.GetArrayFromImage(labels)
    ids = [k for k in np.unique(still) if k and (still == k).sum() >= LEAST]
    both = [((still == k) & (warped == k)).sum() for k in ids]
    sizes = [(still == k).sum() + (warped == k).sum() for k in ids]
    return float(np.mean(2 * np.array(both) / sizes))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and the least of its times after a first run."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - start)
    return found, min(times[1:])


def of_hsyn(pair: dict[str, sitk.Image], preset: str) -> tuple[float, float]:
    found, seconds = timed(lambda: api.register(pair["moving"], pair["fixed"], preset=preset))
    field = sitk.Cast(found.forward_field, sitk.sitkVectorFloat64)
    there, nearest = sitk.DisplacementFieldTransform(field), sitk.sitkNearestNeighbor
    warped = sitk.Resample(pair["moving_labels"], pair["fixed_labels"], there, nearest, 0)
    return dice(pair["fixed_labels"], sitk.GetArrayFromImage(warped)), seconds


def of_ants(pair: dict[str, sitk.Image], kind: str) -> tuple[float, float]:
    import ants

    moving, fixed, labels, _ = (ants.from_sitk(pair[name]) for name in NAMES)
    found, seconds = timed(lambda: ants.registration(fixed, moving, kind))
    chain = found["fwdtransforms"]
    warped = ants.apply_transforms(fixed, labels, chain, interpolator="nearestNeighbor")
    return dice(pair["fixed_labels"], warped.numpy().T), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default="SyN", metavar="KIND")
    parser.add_argument("--preset", default="default", metavar="NAME")
    options = parser.parse_args()
    volumes = {name: sitk.ReadImage(str(BRAIN / f"{name}.nii.gz")) for name in NAMES}
    rows = []
    click.echo("slice           hsyn: Dice  seconds    peer: Dice  seconds")
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        for offset in OFFSETS:
            pair = slices(volumes, axis, offset)
            row = [*of_hsyn(pair, options.preset), np.nan, np.nan]
            if options.peer != "none":
                row[2:] = of_ants(pair, options.peer)
            rows.append(row)
            ours, theirs = (f"{row[k]:.3f}{row[k + 1]:9.2f}" for k in (0, 2))
            click.echo(f"{plane:9s}{offset:+4d}{ours:>21s}{theirs:>22s}")
    mean = np.where([True, False] * 2, np.mean(rows, axis=0), np.median(rows, axis=0))
    ours, theirs = (f"{mean[k]:.3f}{mean[k + 1]:9.2f}" for k in (0, 2))
    click.echo(f"{'mean, median':13s}{ours:>21s}{theirs:>22s}")


if __name__ == "__main__":
    main()
