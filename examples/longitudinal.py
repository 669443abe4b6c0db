#!/usr/bin/env python3
"""Plant a growth of the ventricles, and see how much of it `hsyn template --longitudinal` finds.

    python examples/longitudinal.py WORK [--voxel 2] [--growth 3] [--noise 3] [--swap]

Both brains of examples/brain are subjects with the visits "first" and "second". In the second visit
of the first subject, the ventricles have grown by so many percent, through a smooth field without
curl whose divergence lies in them; the other subject has not changed. Each visit is sampled in a
pose of its own (up to 4 degrees and 4 mm), blurred as by a scanner, with noise of its own. The
volume is the integral of the within-subject Jacobian determinant over the mean of both visits'
ventricles in the subject's own template. The last column is what the same weights find
in the planted field. --swap exchanges the names of the visits. Other options go to hsyn template.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
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
Values = NDArray[np.float64]


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


def make(name: str, growth: float, given: argparse.Namespace, seed: int) -> float:
    """Write both visits of a subject and their ventricles; what their weights find of the growth.

    What lies at x in the first visit lies at x + u(x) in the second, but for the poses.
    """
    from hsyn_cli.api import invert

    image = sitk.ReadImage(str(BRAINS / f"{name}.nii.gz"), sitk.sitkFloat64)
    region = ventricles(sitk.ReadImage(str(BRAINS / f"{name}_labels.nii.gz")))
    axes = np.reshape(image.GetDirection(), (3, 3))
    u = planted(region, growth)
    field = sitk.GetImageFromArray((u @ axes.T).astype(np.float32), isVector=True)
    field.CopyInformation(image)
    back = sitk.Cast(invert(field, tolerance=1e-3).inverse, sitk.sitkVectorFloat64)
    rng, blur = np.random.default_rng(seed), PSF * given.voxel
    soft, share = (
        sitk.SmoothingRecursiveGaussian(sitk.Cast(part, sitk.sitkFloat64), blur)
        for part in (image, region)
    )
    noise = given.noise / 100 * np.percentile(sitk.GetArrayViewFromImage(image), 99)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    size = [int(np.ceil(n / given.voxel)) for n in image.GetSize()]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([given.voxel] * 3)
    grid.SetDirection(image.GetDirection())
    half = axes @ ((np.array(size) - 1) / 2 * given.voxel)
    grid.SetOrigin((np.array(middle) - half).tolist())
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
        sitk.WriteImage(scan, str(given.work / f"{name}-{visit}.nii.gz"))
        own = sitk.Resample(share, grid, way, sitk.sitkLinear, 0.0)
        sitk.WriteImage(own, str(given.work / f"{name}-{visit}-ventricles.nii.gz"))
    weights = sitk.GetArrayFromImage(share)
    return 100 * float((determinants(u) * weights).sum() / weights.sum() - 1)


def found(name: str, given: argparse.Namespace, names: dict[str, str]) -> float:
    """The growth in percent from the visit named first to the one named second."""
    folder = given.work / "tpl" / "within" / name
    weights, dets = 0.0, {}
    for scan, visit in names.items():
        place = folder / "subjects" / visit
        field = sitk.ReadImage(str(place / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
        log = sitk.ReadImage(str(place / "log_jacobian.nii.gz"))
        share = sitk.ReadImage(str(given.work / f"{name}-{scan}-ventricles.nii.gz"))
        moved = sitk.Resample(share, log, sitk.DisplacementFieldTransform(field))
        weights = weights + sitk.GetArrayFromImage(moved)
        dets[visit] = np.exp(sitk.GetArrayFromImage(log).astype(float))
    volumes = {visit: (det * weights).sum() for visit, det in dets.items()}
    return 100 * float(volumes["second"] / volumes["first"] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--voxel", type=float, default=2.0, help="mm; default: %(default)s")
    parser.add_argument("--growth", type=float, default=3.0, help="percent; default: %(default)s")
    parser.add_argument("--noise", type=float, default=3.0, help="percent; default: %(default)s")
    parser.add_argument("--swap", action="store_true", help="exchange the names of the visits")
    given, more = parser.parse_known_args()
    given.work.mkdir(parents=True)
    names = {"first": "second", "second": "first"} if given.swap else {
        "first": "first", "second": "second"
    }  # fmt: skip
    truth = {"moving": make("moving", given.growth, given, 0), "fixed": make("fixed", 0, given, 1)}
    rows = [f"{name},{names[v]},{name}-{v}.nii.gz\n" for name in truth for v in names]
    table = given.work / "subjects.csv"
    table.write_text("subject,visit,scan\n" + "".join(rows))
    words = ["template", "--longitudinal", str(table), "-o", str(given.work / "tpl"), *more]
    subprocess.run([sys.executable, "-m", "hsyn_cli", *words], check=True)  # noqa: S603
    shown = Table("subject", "found, %", "planted, as its weights see it, %")
    for name, true in truth.items():
        seen = 100 / (1 + true / 100) - 100 if given.swap else true
        shown.add_row(name, f"{found(name, given, names):.2f}", f"{seen:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
