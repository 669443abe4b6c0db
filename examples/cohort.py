#!/usr/bin/env python3
"""Measure `hsyn batch` on phantoms: how fast, what bad pairs do, what is left when it is killed.

    python examples/cohort.py --pairs 100 --kills 20

1. Throughput: a loop over `hsyn register`, and `hsyn batch`, on the same pairs of 48 x 56 x 40.
2. Faults: of the same cohort one image is poisoned, one pair hangs, one eats the memory; all others
   must be done. The worker of this script makes two of these faults.
3. Kills: the driver, a worker, or both (SIGKILL), at random moments. At the end all images and
   fields must equal those of an undisturbed run, and what was done must not have run again.

Exits with 1 if 2 or 3 do not hold. Runs on Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import click
import numpy as np
import SimpleITK as sitk

from hsyn_cli import cli
from hsyn_cli.cohort import worker
from hsyn_cli.cohort.sources import local
from hsyn_cli.cohort.tasks import Outcome, Task

SIZE, SPACING = (48, 56, 40), 4.0  # voxels along x, y, z; mm
MEMORY, TIMEOUT = 2500, 60  # MB and seconds, limits in part 2
HANG, EAT, BAD = "hang", "eat", "bad"  # ids
SELF = [sys.executable, __file__]
COMPARED = ("*.nii.gz", "*.mat")


def phantom(seed: int) -> sitk.Image:
    """An ellipsoid with structure."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE[::-1]), indexing="ij")
    a, b, c = rng.uniform(5, 6, 3)
    values = 100 + 30 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * z)
    wide, high, deep = rng.uniform(0.65, 0.8, 3)
    inside = (x / wide) ** 2 + (y / high) ** 2 + (z / deep) ** 2 < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    image.SetSpacing((SPACING,) * 3)
    return image


def make_inputs(folder: Path, count: int) -> list[str]:
    """Images and pairs.csv, and faults.csv with three bad pairs among them; returns the ids."""
    sitk.WriteImage(phantom(0), str(folder / "fixed.nii.gz"))
    ids = [f"p{k:03}" for k in range(1, count + 1)]
    for k, name in enumerate((*ids, HANG, EAT), 1):
        sitk.WriteImage(phantom(k), str(folder / f"{name}.nii.gz"))
    (folder / f"{BAD}.nii.gz").write_bytes(b"\x1f\x8b poison")
    middle = count // 2
    mixed = [BAD, *ids[:middle], HANG, EAT, *ids[middle:]]
    for table, names in (("pairs", ids), ("faults", mixed)):
        rows = "".join(f"{name},{name}.nii.gz,fixed.nii.gz\n" for name in names)
        (folder / f"{table}.csv").write_text(f"id,moving,fixed\n{rows}")
    return ids


def batch(table: Path, study: Path, *more: str) -> subprocess.Popen[bytes]:
    """`hsyn batch` in a process, with the workers of this script."""
    words = [*SELF, "--batch", str(table), "-o", str(study), "--json", *more]
    with study.with_suffix(".txt").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log)  # noqa: S603


def states(study: Path) -> dict[str, dict[str, object]]:
    """{id: status} of what is known."""
    found = {}
    for path in (study / "status").glob("[!.]*.json"):
        found[path.stem] = json.loads(path.read_text())
    return found


def contents(study: Path) -> dict[str, str]:
    """{file: its hash} of all images, fields and affines."""
    files = [path for pattern in COMPARED for path in (study / "pairs").rglob(pattern)]
    return {
        str(path.relative_to(study)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".hsyn-" not in str(path)
    }


def throughput(folder: Path, ids: list[str], jobs: int, preset: list[str]) -> float:
    """A loop of `hsyn register`, then `hsyn batch`; returns the seconds of the latter."""
    start = time.monotonic()
    for name in ids:
        words = ["-m", str(folder / f"{name}.nii.gz"), "-f", str(folder / "fixed.nii.gz")]
        words = [*words, "-o", str(folder / "loop" / name), "--quiet", *preset]
        subprocess.run([sys.executable, "-m", "hsyn_cli", "register", *words], check=False)  # noqa: S603
    loop = time.monotonic() - start
    start = time.monotonic()
    code = batch(folder / "pairs.csv", folder / "study", "--jobs", str(jobs), *preset).wait()
    took = time.monotonic() - start
    done = sum(state["state"] == "done" for state in states(folder / "study").values())
    click.echo(f"loop: {loop:.0f} s; batch with {jobs} jobs: {took:.0f} s (exit code {code}, ")
    click.echo(f"{done} of {len(ids)} done): {loop / took:.2f} times the throughput")
    return took


def faults(folder: Path, ids: list[str], jobs: int, preset: list[str]) -> bool:
    """Three bad pairs among the others."""
    limits = ["--jobs", str(jobs), "--timeout", str(TIMEOUT), "--memory", str(MEMORY)]
    code = batch(folder / "faults.csv", folder / "faults", *limits, *preset).wait()
    found = states(folder / "faults")
    for name in (BAD, HANG, EAT):
        click.echo(f"{name}: {found[name]['error']}")
    failed = {name for name, state in found.items() if state["state"] != "done"}
    click.echo(f"{len(found) - len(failed)} of {len(ids)} others done, exit code {code}")
    return failed == {BAD, HANG, EAT} and code == 11


def kills(
    folder: Path, jobs: int, preset: list[str], times: int, most: float, random: Random
) -> bool:
    """Kill and resume, until all is done; compare with the undisturbed run of part 1.

    Each run is killed after `most` seconds at the latest.
    """
    study = folder / "killed"
    done: dict[str, object] = {}
    again: list[str] = []
    for k in range(times + 1):
        driver = batch(folder / "pairs.csv", study, "--jobs", str(jobs), *preset)
        if k < times:
            time.sleep(random.random() * most)
            whom = random.choice(["driver", "worker", "both"])
            if whom != "driver":
                workers = children(driver.pid)
                for pid in random.sample(workers, min(1, len(workers))):
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(random.random())
            driver.kill()
        driver.wait()
        found = states(study)
        again += [name for name, when in done.items() if found[name]["finished"] != when]
        done |= {name: s["finished"] for name, s in found.items() if s["state"] == "done"}
        click.echo(f"run {k + 1}: {len(done)} done")
    same = contents(study) == contents(folder / "study")
    left = [str(path) for path in study.rglob(".hsyn-*")]
    click.echo(f"files {'equal' if same else 'DIFFER'}; done twice: {again}; left behind: {left}")
    return same and not again and not left


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


def as_worker() -> None:
    """A worker of hsyn, but for two ids."""
    real = worker.carry_out

    def carry_out(task: Task, tell: worker.Tell) -> Outcome:
        eaten = []
        while task.id == HANG:
            time.sleep(1)
        while task.id == EAT:
            eaten.append(np.ones(10_000_000))  # 80 MB
            time.sleep(0.02)
        return real(task, tell)

    worker.carry_out = carry_out
    worker.main()


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        as_worker()
    if sys.argv[1:2] == ["--batch"]:
        local.COMMAND = (*SELF, "--worker")
        sys.exit(cli.run(["batch", *sys.argv[2:]]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="default")
    given = parser.parse_args()
    preset, random = ["--preset", given.preset], Random(given.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = make_inputs(folder, given.pairs)
        took = throughput(folder, ids, given.jobs, preset)
        well = faults(folder, ids, given.jobs, preset)
        well &= kills(folder, given.jobs, preset, given.kills, 10 + took / given.kills, random)
    sys.exit(not well)


if __name__ == "__main__":
    main()
