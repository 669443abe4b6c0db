#!/usr/bin/env python3
"""Compare the forecast of `hsyn check` with what `hsyn register` then needs.

    python examples/forecast.py --threads 1

It takes the example pair of brains at several voxel sizes, and the example pair of chests. It
prints the memory and the time of both programs: the time on the clock, with all that ran beside
them, and the CPU seconds, which are the time alone if there is one thread. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import SimpleITK as sitk

HERE = Path(__file__).parent
SIZES_MM = (1, 2, 3)
LEAST_BLUR = 0.4  # of the voxel


def pairs(folder: Path, sizes: list[float]) -> Iterator[tuple[str, list[Path]]]:
    """The name of each pair, and the moving and the fixed image."""
    for mm in sizes:
        paths = []
        for name in ("moving", "fixed"):
            image = sitk.ReadImage(str(HERE / "brain" / f"{name}.nii.gz"), sitk.sitkFloat32)
            factor = mm / image.GetSpacing()[0]
            if factor > 1:
                smooth = sitk.SmoothingRecursiveGaussian(image, LEAST_BLUR * mm)
                size = [round(n / factor) for n in image.GetSize()]
                origin, axes = image.GetOrigin(), image.GetDirection()
                image = sitk.Resample(
                    smooth, size, sitk.Transform(), sitk.sitkLinear, origin, [mm] * 3, axes
                )
            paths.append(folder / f"{name}_{mm:g}mm.nii.gz")
            sitk.WriteImage(image, str(paths[-1]))
        yield f"brains, {mm:g} mm", paths
    yield "chests", [HERE / "lung" / f"{name}.nii.gz" for name in ("moving", "fixed")]


def hsyn(*words: object) -> tuple[Any, float, float]:
    """The JSON of a command, its seconds and its CPU seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    line = [sys.executable, "-m", "hsyn_cli", *map(str, words), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)  # noqa: S603
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--mm", type=float, nargs="+", default=SIZES_MM)
    options = parser.parse_args()
    method = ("--threads", options.threads, "--preset", options.preset)
    click.echo("pair            memory, MB      clock, s        alone, CPU s     check, CPU s")
    with tempfile.TemporaryDirectory() as folder:
        for name, (moving, fixed) in pairs(Path(folder), options.mm):
            pair = ("-m", moving, "-f", fixed)
            told, _, own = hsyn("check", *pair, *method)
            cost = told["pairs"][0]["cost"]
            out = ("-o", Path(folder) / "out", "--force", "--on-failure", "warn")
            report, seconds, cpu = hsyn("register", *pair, *method, *out)
            both = (
                (cost["memory_mb"], report["peak_memory_mb"]),
                (cost["seconds"], seconds),
                (cost["seconds_alone"], cpu),
            )
            cells = (f"{a:.4g} of {b:.4g}".ljust(16) for a, b in both)
            click.echo(f"{name:<16}{''.join(cells)} {own:.1f}")


if __name__ == "__main__":
    main()
