#!/usr/bin/env python3
"""Measure `hsyn invert` and SimpleITK's InvertDisplacementField on the same fields.

    python examples/benchmark_invert.py                       # random fields of up to 10, 20, 30 mm
    python examples/benchmark_invert.py forward_field.nii.gz sub1Warp.nii.gz

Seconds of hsyn are those of the whole command, including start-up, reading and writing. Seconds of
SimpleITK are those of the filter alone. It runs once with its defaults (10 iterations), and once
with --iterations and no tolerance. The code below measures the residual
|q + e(q) + d(q + e(q)) - q| with numpy and linear interpolation. It does so at every voxel q for
which q + e(q) lies on the field's grid and the field's determinant there is above 0.05. Needs
SimpleITK, numpy and rich.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table


def random_field(largest: float, seed: int) -> sitk.Image:
    """Three scales of smooth noise of up to `largest` mm, without determinants below 0.1."""
    rng = np.random.default_rng(seed)
    size = (128, 144, 120)
    reference = sitk.Image(size, sitk.sitkFloat32)
    reference.SetSpacing((1.5, 1.5, 1.5))
    total = np.zeros((*size[::-1], 3))
    for cells, weight in ((5, 1.0), (8, 0.4), (12, 0.15)):
        for k in range(3):
            coarse = sitk.GetImageFromArray(rng.normal(0, weight, (cells,) * 3))
            coarse.SetSpacing([1.5 * (n - 1) / (cells - 1) for n in size])
            total[..., k] += sitk.GetArrayFromImage(
                sitk.Resample(coarse, reference, sitk.Transform(), sitk.sitkBSpline)
            )
    while True:
        values = total * (largest / np.linalg.norm(total, axis=-1).max())
        field = sitk.GetImageFromArray(values, isVector=True)
        field.CopyInformation(reference)
        if benchmark.folding(field)["min_det"] > 0.1:
            return field
        smooth = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(total, isVector=True), 3.0)
        total = sitk.GetArrayFromImage(smooth)


def residual(field: sitk.Image, inverse: sitk.Image) -> np.ndarray:
    """The residual in mm of all voxels that count."""
    index = np.stack(
        np.meshgrid(*(np.arange(n) for n in inverse.GetSize()), indexing="ij"), -1
    ).reshape(-1, 3)
    to_mm = np.array(inverse.GetDirection()).reshape(3, 3) * inverse.GetSpacing()
    errors = []
    for part in np.array_split(index, len(index) // 250_000 + 1):
        points = part @ to_mm.T + inverse.GetOrigin()
        x, y, z = part.T
        there = points + sitk.GetArrayViewFromImage(inverse)[z, y, x]
        error = np.linalg.norm(benchmark.through(field, there) - points, axis=1)
        errors.append(error[np.isfinite(error) & (determinants(field, there) > 0.05)])
    return np.concatenate(errors)


def determinants(field: sitk.Image, points: np.ndarray, step: float = 0.5) -> np.ndarray:
    """det of d(p + d(p))/dp by central differences of half a mm to each side; 0 at the border."""
    columns = [
        (
            benchmark.through(field, points + step * axis)
            - benchmark.through(field, points - step * axis)
        )
        / (2 * step)
        for axis in np.eye(3)
    ]
    jacobian = np.stack(columns, axis=-1)
    jacobian[~np.isfinite(jacobian).all(axis=(1, 2))] = 0  # at the border
    return np.linalg.det(jacobian)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fields", type=Path, nargs="*")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument(
        "--iterations", type=int, default=100, help="of SimpleITK; default: %(default)s"
    )
    parser.add_argument("--hsyn", default="hsyn", help="the program; default: hsyn on the PATH")
    arguments = parser.parse_args()
    program = shutil.which(arguments.hsyn)
    if not program:
        parser.error(f"{arguments.hsyn} is not installed: pip install hsyn, or give --hsyn PATH")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(arguments.threads)
    table = Table("field", "program", "seconds", "mean mm", "99 %", "max mm", "voxels")
    with tempfile.TemporaryDirectory() as folder:
        paths = list(arguments.fields)
        for number, largest in enumerate(() if paths else (10, 20, 30)):
            paths.append(Path(folder) / f"random{largest}mm.nii.gz")
            sitk.WriteImage(
                sitk.Cast(random_field(largest, number), sitk.sitkVectorFloat32), str(paths[-1])
            )
        for path in paths:
            field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
            out = Path(folder) / "inverse.nii.gz"
            start = time.perf_counter()
            words = [
                program,
                "invert",
                str(path),
                "-o",
                str(out),
                "--threads",
                str(arguments.threads),
                "--quiet",
                "--force",
            ]
            subprocess.run(words, check=True)  # noqa: S603
            inverses = {
                "hsyn": (
                    time.perf_counter() - start,
                    sitk.ReadImage(str(out), sitk.sitkVectorFloat64),
                )
            }
            for count in (10, arguments.iterations):
                start = time.perf_counter()
                limits = (
                    {}
                    if count == 10
                    else {"maxErrorToleranceThreshold": 0.0, "meanErrorToleranceThreshold": 0.0}
                )
                theirs = sitk.InvertDisplacementField(
                    field, maximumNumberOfIterations=count, **limits
                )
                inverses[f"SimpleITK, {count}"] = (time.perf_counter() - start, theirs)
            for name, (seconds, inverse) in inverses.items():
                errors = residual(field, inverse)
                figures = (errors.mean(), np.percentile(errors, 99), errors.max())
                table.add_row(
                    path.name,
                    name,
                    f"{seconds:.1f}",
                    *(f"{v:.4f}" for v in figures),
                    str(len(errors)),
                )
    Console().print(table)


if __name__ == "__main__":
    main()
