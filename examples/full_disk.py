#!/usr/bin/env python3
"""Fill the disk of every command that writes, at many sizes, and see what it says and leaves.

    sudo python examples/full_disk.py

Each command writes to a small tmpfs of ever another size, or with few inodes left: once as it is,
and once with a check of free space that sees plenty, so that the disk becomes full while a file is
written. A command that fails must say so in one line, exit with 5 and leave nothing; `train` must
go on afterwards. Prints a line per command; exits with 1 if anything failed. Needs Linux and root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import SimpleITK as sitk
from killed import Run, child, contents, make_inputs, phantom

from hsyn_cli.training import session

LARGE = "size=64m"
PAGE = 4096
MODEL = "--preset fast --model model.safetensors --no-affine --threads 1"
FIELD = "out/forward_field.nii.gz"
REGISTER = "register -m data/0.nii.gz -f data/1.nii.gz"
TRAIN = "train -o disk/run --data data --config config.json --device cpu --threads 1"
COMMANDS = {
    "register": f"{REGISTER} -o disk/out {MODEL} --ants-prefix disk/ants_ --composite disk/ants_"
    " --save-midspace",
    "invert": f"invert {FIELD} -o disk/inverse.nii.gz --threads 1",
    "apply-field, image": f"apply-field -i data/0.nii.gz -t {FIELD} -o disk/moved.nii.gz",
    "apply-field, 4-D": f"apply-field -i series.nii.gz -t {FIELD} -o disk/moved.nii.gz",
    "apply-field, two": f"apply-field -i data/0.nii.gz -i data/2.nii.gz -t {FIELD} -o disk/new",
    "apply-field, points": f"apply-field --points points.csv -t {FIELD} -o disk/moved.csv",
    "compose": f"compose -t {FIELD} -t out/affine.mat -r data/1.nii.gz -o disk/field.nii.gz",
    "compose, h5": f"compose -t {FIELD} -t out/affine.mat -o disk/composite.h5",
    "compose, tfm": "compose -t out/affine.mat -t out/affine.mat -o disk/affine.tfm",
    "jacobian": f"jacobian {FIELD} -o disk/jacobian.nrrd",
    "convert, nii": f"convert {FIELD} disk/ras.nii --to ras",
    "convert, npz": f"convert {FIELD} disk/field.npz --moving data/0.nii.gz",
    "convert, npy": f"convert {FIELD} disk/field.npy --moving data/0.nii.gz",
    "convert, h5": f"convert {FIELD} disk/field.h5",
    "convert, mha": f"convert {FIELD} disk/field.mha",
    "convert, txt": "convert out/affine.mat disk/affine.txt --to ras",
    "evaluate": "evaluate out --csv disk/new/scores.csv --json-file disk/scores.json",
    "report": "report disk --force",
    "train": TRAIN,
}


def prepare() -> None:
    """Inputs in the current folder."""
    make_inputs()
    sitk.WriteImage(sitk.JoinSeries([phantom(k) for k in range(4)]), "series.nii.gz")
    points = np.random.default_rng(0).uniform(20, 130, (3000, 3))
    np.savetxt("points.csv", points, "%.6f", delimiter=",", header="x,y,z", comments="")


@contextlib.contextmanager
def mounted(options: str, words: str) -> Iterator[None]:
    """A new disk in the folder `disk`, with what the command needs there."""
    mount(options)
    try:
        if words == COMMANDS["report"]:
            shutil.copytree("out", "disk", dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "disk"], check=True)  # noqa: S607


def mount(options: str) -> None:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", "disk"]
    subprocess.run(words, check=True)  # noqa: S603


def run(words: str) -> int:
    Path("log.txt").write_text("")
    return Run(words.split()).wait()


def problem(code: int, before: set[Path], words: str, whole: dict[str, object]) -> str:
    """What is wrong with a run that ended so, or nothing. `whole`: what a good one writes."""
    said = Path("log.txt").read_text()
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    left = sorted(str(path) for path in set(Path("disk").rglob("*")) - before)
    hidden = [path for path in left if ".hsyn-" in path]
    if code == 0:
        other = contents(Path("disk")) != whole and "report" not in words
        return f"left {hidden}" if hidden else "wrote something else" if other else ""
    if code != 5 or len(lines) != 1 or "Traceback" in said or ".hsyn-" in said:
        return f"code {code}: {said[-400:]}"
    if words != TRAIN or hidden:
        return f"left {left}" if left else ""
    mount(f"remount,{LARGE},nr_inodes=1000")
    resume = Path("disk/run/config.json").exists()
    again = run("train -o disk/run --resume --device cpu --threads 1" if resume else TRAIN)
    return f"did not go on: {Path('log.txt').read_text()[-400:]}" if again else ""


def trial(words: str, options: str, whole: dict[str, object]) -> tuple[int, str]:
    """Run one command on such a disk; return its exit code and what was wrong."""
    with mounted(options, words):
        before = set(Path("disk").rglob("*"))
        code = run(words)
        return code, problem(code, before, words, whole)


def undisturbed(words: str) -> tuple[int, int, dict[str, object]]:
    """Bytes on a large disk before and after a run that ends well, and what it writes."""
    with mounted(LARGE, words):
        before = os.statvfs("disk")
        assert run(words) == 0, Path("log.txt").read_text()
        after = os.statvfs("disk")
        whole = contents(Path("disk"))
    used = ((stat.f_blocks - stat.f_bfree) * PAGE for stat in (before, after))
    return next(used), next(used), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, default=20)
    parser.add_argument("--inodes", type=int, default=10)
    parser.add_argument("--command", choices=list(COMMANDS))
    given = parser.parse_args()
    honest, failed = shutil.disk_usage, 0
    session.SAVE_EVERY = 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("disk").mkdir()
        pid = os.fork()
        if not pid:
            child(prepare)
        os.waitpid(pid, 0)
        assert run(f"{REGISTER} -o out {MODEL}") == 0, Path("log.txt").read_text()
        for name, words in COMMANDS.items():
            if given.command not in (None, name):
                continue
            start, end, whole = undisturbed(words)
            sizes = np.linspace(start + PAGE, 2 * end + 4 * PAGE, given.sizes).astype(int)
            trials = [f"size={size}" for size in sizes]
            inodes = 14 if start else 2
            trials += [f"{LARGE},nr_inodes={inodes + k}" for k in range(given.inodes)]
            counts: Counter[int] = Counter()
            for plenty in (False, True):
                free = SimpleNamespace(free=1 << 40)
                shutil.disk_usage = (lambda path, free=free: free) if plenty else honest
                for options in trials:
                    code, told = trial(words, options, whole)
                    counts[code] += 1
                    if told:
                        failed += 1
                        click.echo(f"{name}, {options}, plenty {plenty}: {told}")
            told = ", ".join(f"{count} ended with {code}" for code, count in sorted(counts.items()))
            click.echo(f"{name} (needs {(end - start) / 1e3:.0f} kB): {told}")
        os.chdir("/")
    click.echo(f"{failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
