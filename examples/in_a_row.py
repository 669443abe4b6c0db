"""Register a small pair many times in one process, and watch memory, threads and files.

python examples/in_a_row.py --times 200

Memory is the resident size after each run, freed memory returned to the system (glibc). The script
fits a line to the second half of the runs and exits with 1 if memory grows by more than 20 MB over
200 runs, or if threads or files are left.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import threading
from pathlib import Path

import click
import numpy as np
import SimpleITK as sitk

from hsyn_cli import api
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.run_folder import Wanted

MOST_MB = 20.0  # growth over 200 runs


def phantom(seed: int) -> sitk.Image:
    """An ellipsoid with structure, 40 voxels of 4 mm along each axis."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    a, b, c = rng.uniform(5, 8, 3)
    values = 100 + 30 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * z)
    inside = (x / 0.7) ** 2 + (y / (0.75 + 0.02 * seed)) ** 2 + (z / 0.7) ** 2 < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    image.SetSpacing((4.0, 4.0, 4.0))
    return image


def resident_mb() -> float:
    """The resident memory of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--preset", default="fast")
    given = parser.parse_args()
    memory, threads = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k, file in enumerate(("m.nii.gz", "f.nii.gz")):
            sitk.WriteImage(phantom(k), str(folder / file))
        inputs = Inputs(folder / "m.nii.gz", folder / "f.nii.gz")
        for k in range(given.times):
            wanted = Wanted(folder / "out", html=k % 10 == 0)
            api.register_files(inputs, wanted, preset=given.preset, force=True)
            memory.append(resident_mb())
            threads.append(threading.active_count())
            if k % 20 == 19:
                click.echo(f"run {k + 1}: {memory[-1]:.0f} MB, {threads[-1]} threads")
        left = sorted(path.name for path in folder.rglob(".hsyn-*"))
    half = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) * 200
    click.echo(f"growth over 200 runs: {slope:.1f} MB; left behind: {left or 'nothing'}")
    sys.exit(slope > MOST_MB or threads[-1] > threads[0] or bool(left))


if __name__ == "__main__":
    main()
