#!/usr/bin/env python3
"""Plant a growth of the ventricles, and see how much of it `hsyn template --longitudinal` finds.

    python examples/longitudinal.py WORK [--voxel 2] [--growth 3 0] [--noise 3] [--draw 0]
        [--block] [--brain IMAGE LABELS IDS] [--alone] [--swap]

Both brains of examples/brain, and each --brain, are subjects with the visits "first" and "second".
In the second visit, the ventricles have grown by so many percent, through a smooth field without
curl whose divergence lies in them; the subjects take the numbers of --growth in turn. Each visit is
sampled in a pose of its own (up to 4 degrees and 4 mm), blurred as by a scanner, with noise of its
own; --draw gives other poses and noise. --block keeps only an ellipsoid around the ventricles,
which is quicker. --brain: a T1 of 1 mm without skull, its labels, and the ids of the ventricles,
such as 51,52.

The volume is the integral of the determinant of the within-subject forward field, on a grid of
1 mm, over the mean of both visits' ventricles in the subject's own template. The planted field
itself would give the number that was planted. --alone makes the subjects' own templates only, with
the settings that they have with --longitudinal. --swap exchanges the names of the visits. Other
options go to hsyn template.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

BRAINS = Path(__file__).parent / "brain"
VENTRICLES, CSF, HORNS = 4, 1, 4  # labels; voxels of CSF at the ventricles that are their horns
SIGMA = 3.0  # mm, of the divergence
PSF = 0.5  # voxels
FINE = 1.0  # mm, of the grid on which volumes are measured
ALONE = ["--frame", "rigid", "--first-preset", "default", "--tolerance", "0", "--sharpen", "0"]
BLOCK = (34.0, 56.0, 40.0)  # mm along x, y, z: half the ellipsoid of --block
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Brain:
    """A scan without skull, 1 mm, and its ventricles."""

    name: str
    image: sitk.Image
    region: sitk.Image

    @classmethod
    def example(cls, name: str) -> Brain:
        """One of examples/brain."""
        labels = sitk.ReadImage(str(BRAINS / f"{name}_labels.nii.gz"))
        image = sitk.ReadImage(str(BRAINS / f"{name}.nii.gz"), sitk.sitkFloat64)
        return cls(name, image, ventricles(labels))

    @classmethod
    def given(cls, image: str, labels: str, ids: str) -> Brain:
        """One that the user has."""
        marked = sitk.ReadImage(labels)
        region = sitk.Image(marked.GetSize(), sitk.sitkUInt8)
        region.CopyInformation(marked)
        for label in ids.split(","):
            region |= marked == int(label)
        scan = sitk.ReadImage(image, sitk.sitkFloat64)
        region.CopyInformation(scan)
        return cls(Path(image).name.split(".")[0], scan, region)

    def block(self) -> sitk.Image:
        """The scan, 0 beyond an ellipsoid around the ventricles, and cropped to it."""
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(sitk.Cast(self.region, sitk.sitkUInt8))
        box = np.array(shape.GetBoundingBox(1))
        middle, half = box[:3] + (box[3:] - 1) / 2, np.array(BLOCK)
        axes = np.meshgrid(*(np.arange(n) for n in self.image.GetSize()), indexing="ij")
        radius = np.sqrt(
            sum(((x - m) / h) ** 2 for x, m, h in zip(axes, middle, half, strict=True))
        )
        weight = sitk.GetImageFromArray(np.clip((1 - radius) * 8, 0, 1).T)
        weight.CopyInformation(self.image)
        low = np.maximum(middle - half - 6, 0).astype(int)
        size = np.minimum(2 * half + 12, self.image.GetSize() - low).astype(int)
        return sitk.RegionOfInterest(self.image * weight, size.tolist(), low.tolist())


def ventricles(labels: sitk.Image) -> sitk.Image:
    """The ventricles with their thin horns, which examples/brain counts as other CSF."""
    found, room = labels == VENTRICLES, (labels == VENTRICLES) | (labels == CSF)
    for _ in range(HORNS):
        found = sitk.BinaryDilate(found, [1, 1, 1], sitk.sitkBall) & room
    return found


def determinants(u: Values) -> Values:
    """Of x + u(x) along the axes of a 1 mm grid, (Z, Y, X, 3) with the components x, y, z."""
    slopes = [np.stack(np.gradient(u[..., k])[::-1], -1) for k in range(3)]
    out: Values = np.linalg.det(np.stack(slopes, -2) + np.eye(3))
    return out


def planted(region: sitk.Image, growth: float) -> Values:
    """A field along the axes of a 1 mm grid by which the region grows, (Z, Y, X, 3)."""
    soft = sitk.GetArrayFromImage(
        sitk.SmoothingRecursiveGaussian(sitk.Cast(region, sitk.sitkFloat64), SIGMA)
    )
    waves = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in soft.shape), indexing="ij")
    square = sum(wave**2 for wave in waves)
    square[0, 0, 0] = 1
    potential = -np.fft.fftn(soft - soft.mean()) / square
    u = np.stack([np.fft.ifftn(1j * wave * potential).real for wave in waves[::-1]], -1)
    inside, factor = sitk.GetArrayViewFromImage(region) > 0, growth / 100
    for _ in range(5 if growth else 0):
        factor *= growth / 100 / (determinants(factor * u)[inside].mean() - 1)
    return factor * u


def grid_around(image: sitk.Image, voxel: float) -> sitk.Image:
    """An empty image with such voxels on the place of another one."""
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    size = [
        int(np.ceil(n * s / voxel))
        for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([voxel] * 3)
    grid.SetDirection(image.GetDirection())
    axes = np.reshape(image.GetDirection(), (3, 3))
    grid.SetOrigin((np.array(middle) - axes @ ((np.array(size) - 1) / 2 * voxel)).tolist())
    return grid


def make(brain: Brain, growth: float, given: argparse.Namespace, seed: int) -> None:
    """Write both visits of a subject and their ventricles.

    What lies at x in the first visit lies at x + u(x) in the second, but for the poses.
    """
    from hsyn_cli.api import invert

    axes = np.reshape(brain.image.GetDirection(), (3, 3))
    u = planted(brain.region, growth)
    field = sitk.GetImageFromArray((u @ axes.T).astype(np.float32), isVector=True)
    field.CopyInformation(brain.image)
    back = sitk.Cast(invert(field, tolerance=1e-3).inverse, sitk.sitkVectorFloat64)
    image = brain.block() if given.block else brain.image
    rng = np.random.default_rng([seed, given.draw])
    soft = sitk.SmoothingRecursiveGaussian(image, PSF * given.voxel)
    noise = given.noise / 100 * np.percentile(sitk.GetArrayViewFromImage(image), 99)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    grid, fine = grid_around(image, given.voxel), grid_around(image, FINE)
    region = sitk.Cast(brain.region, sitk.sitkFloat32)
    for visit in ("first", "second"):
        turns, shifts = np.deg2rad(rng.uniform(-4, 4, 3)), rng.uniform(-4, 4, 3)
        pose = sitk.Euler3DTransform(middle, *turns.tolist(), shifts.tolist())
        way = sitk.CompositeTransform(3)
        if visit == "second":
            way.AddTransform(sitk.DisplacementFieldTransform(sitk.Image(back)))
        way.AddTransform(pose)  # the last one comes first
        scan = sitk.Resample(soft, grid, way, sitk.sitkBSpline, 0.0)
        values = np.clip(sitk.GetArrayFromImage(scan), 0, None)
        values = np.hypot(values + rng.normal(0, noise, values.shape),
                          rng.normal(0, noise, values.shape))  # fmt: skip
        scan = sitk.GetImageFromArray(values.astype(np.float32))
        scan.CopyInformation(grid)
        sitk.WriteImage(scan, str(given.work / f"{brain.name}-{visit}.nii.gz"))
        own = sitk.Resample(region, fine, way, sitk.sitkLinear, 0.0)
        sitk.WriteImage(own, str(given.work / f"{brain.name}-{visit}-ventricles.nii.gz"))


def found(name: str, given: argparse.Namespace, names: dict[str, str]) -> float:
    """The growth in percent from the visit named first to the one named second."""
    folder = given.work / "tpl" / "within" / name
    weights, dets = 0.0, {}
    for scan, visit in names.items():
        place = folder / "subjects" / (f"{name}-{scan}" if given.alone else visit)
        field = sitk.ReadImage(str(place / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
        fine = grid_around(field, FINE)  # along L, P, S, as the components
        u = sitk.GetArrayFromImage(sitk.Resample(field, fine))
        dets[visit] = determinants(u / FINE)
        share = sitk.ReadImage(str(given.work / f"{name}-{scan}-ventricles.nii.gz"))
        moved = sitk.Resample(share, fine, sitk.DisplacementFieldTransform(field))
        weights = weights + sitk.GetArrayFromImage(moved)
    first, second = ((dets[visit] * weights).sum() for visit in ("first", "second"))
    return 100 * float(second / first - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--voxel", type=float, default=2.0, help="mm; default: %(default)s")
    parser.add_argument("--growth", type=float, nargs="+", default=[3.0, 0.0], help="percent")
    parser.add_argument("--noise", type=float, default=3.0, help="percent; default: %(default)s")
    parser.add_argument("--draw", type=int, default=0, help="of poses and noise")
    parser.add_argument("--block", action="store_true", help="only what is near the ventricles")
    parser.add_argument("--brain", nargs=3, action="append", default=[], help="one more subject")
    parser.add_argument("--alone", action="store_true", help="no template of the group")
    parser.add_argument("--swap", action="store_true", help="exchange the names of the visits")
    given, more = parser.parse_known_args()
    given.work.mkdir(parents=True)
    names = {"first": "second", "second": "first"} if given.swap else {
        "first": "first", "second": "second"
    }  # fmt: skip
    brains = [Brain.example("moving"), Brain.example("fixed")]
    brains += [Brain.given(*words) for words in given.brain]
    truth = dict(zip((brain.name for brain in brains), itertools.cycle(given.growth), strict=False))
    for seed, brain in enumerate(brains):
        make(brain, truth[brain.name], given, seed)
    rows = [f"{name},{names[v]},{name}-{v}.nii.gz\n" for name in truth for v in names]
    table = given.work / "subjects.csv"
    table.write_text("subject,visit,scan\n" + "".join(rows))
    made = given.work / "tpl"
    runs = [["--longitudinal", str(table), "-o", str(made)]]
    if given.alone:
        scans = {name: [str(given.work / f"{name}-{v}.nii.gz") for v in names] for name in truth}
        runs = [[*scans[name], "-o", str(made / "within" / name), *ALONE] for name in truth]
    for words in runs:
        command = [sys.executable, "-m", "hsyn_cli", "template", *words, *more]
        subprocess.run(command, check=True)  # noqa: S603
    shown = Table("subject", "found, %", "planted, %")
    for name, growth in truth.items():
        true = 100 / (1 + growth / 100) - 100 if given.swap else growth
        shown.add_row(name, f"{found(name, given, names):.2f}", f"{true:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
