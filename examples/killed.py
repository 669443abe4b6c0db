#!/usr/bin/env python3
"""Kill hsyn at random moments (SIGKILL) and see what is left, and whether the next run works.

    python examples/killed.py --times 200

Each of `register`, `apply-field` and `train` is killed so often on tiny phantoms: half of the runs
at any moment, a quarter in the last tenth, a quarter while outputs move into place. Most run in a
fork of this process, which has torch loaded, every tenth as the real command. Afterwards each file
must be whole, old or new; a new folder must have all its files; the next run must end well, give
what an undisturbed one gives, and leave no temporary folder. Prints a line per command; exits with
1 if anything failed. Runs on Linux and macOS.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

os.environ["OMP_NUM_THREADS"] = "1"

import click
import numpy as np
import SimpleITK as sitk
import torch
from matplotlib import figure  # noqa: F401 (so that the forks need not import it)
from safetensors.numpy import load_file

from hsyn_cli import cli, config
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.io import checkpoints
from hsyn_cli.io.staging import Staging
from hsyn_cli.io.staging_folders import JOURNAL
from hsyn_cli.method import register  # noqa: F401
from hsyn_cli.results import written  # noqa: F401
from hsyn_cli.tools import apply_files  # noqa: F401
from hsyn_cli.training import data, phases, session  # noqa: F401

SPACING = 8.0  # mm; 20 voxels along each axis
LEVELS = tuple(
    config.Level(scale=scale, stride=1, encoder=(4, 6), head=(4,), window=5) for scale in (4, 2)
)
TRAINING = Training(
    sn_net=config.SNNetConfig(SPACING, LEVELS), batch=1, size=(20, 20, 20), log_every=4,
    validate_every=4, di_net=config.DINetConfig(stride=2, encoder=(4, 6), head=(4,)), di_steps=4,
    precision="float32", stages=(Stage(0, 1, 8, 3e-3, look=2), Stage(0, 2, 4, 2e-3)),
)  # fmt: skip
COMMIT_SECONDS = 0.01  # more than one takes


def phantom(seed: int) -> sitk.Image:
    """An ellipsoid with structure."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij")
    a, b, c = rng.uniform(5, 8, 3)
    values = 100 + 30 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * z)
    inside = (x / 0.7) ** 2 + (y / (0.75 + 0.02 * seed)) ** 2 + (z / 0.7) ** 2 < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    image.SetSpacing((SPACING,) * 3)
    return image


def make_inputs() -> None:
    """Images, a training config and an untrained checkpoint, in the current folder."""
    Path("data").mkdir()
    for k in range(3):
        sitk.WriteImage(phantom(k), f"data/{k}.nii.gz")
    settings = config.to_dict(TRAINING)
    Path("config.json").write_text(json.dumps(settings))
    others = dataclasses.replace(TRAINING, seed=5)
    networks = phases.build(others, torch.device("cpu"), bf16=False)
    architecture = {name: settings[name] for name in ("sn_net", "di_net")}
    checkpoints.save(Path("model.safetensors"), networks.tensors(), architecture)


class Run:
    """A run of hsyn: in a fork of this process, or as the real command."""

    def __init__(self, arguments: list[str], real: bool = False) -> None:
        self.began, self.real = time.monotonic(), real
        self.commits, told = os.pipe()
        if real:
            words = [sys.executable, "-m", "hsyn_cli", *arguments]
            with open("log.txt", "ab") as log:
                self.pid = subprocess.Popen(words, stdout=log, stderr=log).pid  # noqa: S603
        else:
            self.pid = os.fork()
            if not self.pid:
                child(lambda: cli.run(arguments), told)
        os.close(told)

    def wait(self) -> int:
        """The exit code; below 0: the signal that killed it."""
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.commits)
        return os.waitstatus_to_exitcode(status)

    def kill(self, random: Random, seconds: float) -> None:
        """Kill the run, which takes so long, at a random moment."""
        moment, kind = random.random(), random.choice(["any", "any", "end", "commit"])
        if kind == "commit" and not self.real:
            for _ in range(random.choice([1, 2])):
                select.select([self.commits], [], [], 60)
                os.read(self.commits, 1)  # nothing once the run is over
            time.sleep(moment**2 * COMMIT_SECONDS)
        else:
            when = seconds * (moment if kind == "any" else 0.9 + 0.1 * moment)
            time.sleep(max(0.0, self.began + when - time.monotonic()))
        os.kill(self.pid, signal.SIGKILL)


def child(action: Callable[[], object], told: int | None = None) -> None:
    """Do `action` and end the process; `told`: a pipe that gets a byte at each commit."""
    commit = Staging._commit

    def telling(staging: Staging) -> None:
        if told is not None:
            os.write(told, b"c")
        commit(staging)

    Staging._commit = telling  # type: ignore[method-assign]
    code: object = 1
    try:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = action()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def contents(folder: Path) -> dict[str, object]:
    """What is in each file that has come into its place, without times, to be compared."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and ".hsyn-" not in name:
            found[name] = content(path)
    return found


def content(path: Path) -> object:
    """Raises an error for a file that is not whole."""
    if path.suffix == ".safetensors":
        return {name: array.tobytes() for name, array in load_file(path).items()}
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]
    if path.name == "report.json":
        return json.loads(path.read_text()).keys()
    if path.suffix == ".h5":  # holds the time
        return path.stat().st_size
    return None if path.suffix in (".png", ".html") else path.read_bytes()


@dataclass(frozen=True)
class Case:
    """A command. `old`: what its folder may hold already; `new`: what it gives; `seconds` it takes.

    `arguments`: of the command, given the state of its folder.
    """

    arguments: Callable[[Path], list[str]]
    old: Path
    new: dict[str, object]
    seconds: dict[bool, float]  # of the real command, and of a fork


def force(words: list[str], out: Path) -> list[str]:
    return [*words, "--force", "--quiet"]


def train_arguments(out: Path) -> list[str]:
    start = ["--data", "data", "--config", "config.json", "--from", "model.safetensors"]
    more = ["--resume"] if (out / "config.json").exists() else start
    return ["train", "-o", str(out), *more, "--device", "cpu", "--threads", "1", "--quiet"]


def trial(case: Case, out: Path, random: Random, real: bool) -> str:
    """Kill one run; return what became of it. Raises AssertionError."""
    shutil.rmtree(out, ignore_errors=True)
    replaces = random.random() < 0.5
    if replaces:
        shutil.copytree(case.old, out)
    old = contents(out)
    run = Run(case.arguments(out), real)
    run.kill(random, case.seconds[real])
    ended = run.wait()
    training = case.arguments is train_arguments
    left = contents(out)
    if not training:
        for name, value in left.items():
            assert value in (old.get(name), case.new.get(name)), f"{name} is neither old nor new"
        assert left.keys() >= old.keys(), "an old file went"
        assert replaces or not out.exists() or left.keys() == case.new.keys(), "not whole"
    moving = any(Path().rglob(f".hsyn-*/{JOURNAL}"))
    run = Run(case.arguments(out))
    again = run.wait()
    assert again == 0, f"the next run ended with {again}"
    took = time.monotonic() - run.began
    assert contents(out) == case.new, "the next run gives something else"
    hidden = [str(path) for path in Path().rglob(".hsyn-*")]
    assert not hidden, f"left behind: {hidden}"
    if not training:  # the machine may be busier than before, or less
        case.seconds[True] += took - case.seconds[False]
        case.seconds[False] = took
    if ended == 0:
        return "over before"
    if moving:
        return "half moved"
    return "new files" if left == case.new else "old files" if left == old else "part of a run"


def prepare(words: Callable[[Path], list[str]], old: Path, out: Path) -> Case:
    """The undisturbed run of a command, and how long it takes."""
    seconds = {}
    for real in (True, False):
        shutil.rmtree(out, ignore_errors=True)
        run = Run(words(out), real)
        assert run.wait() == 0, Path("log.txt").read_text()
        seconds[real] = time.monotonic() - run.began
    return Case(words, old, contents(out), seconds)


def cases() -> dict[str, Case]:
    """The three commands on new inputs in the current folder; their folders are out-NAME."""
    pid = os.fork()  # a library that started threads here could not be used after a fork
    if not pid:
        child(make_inputs)
    os.waitpid(pid, 0)
    model = ["--preset", "fast", "--model", "model.safetensors", "--no-affine", "--threads", "1"]

    def register_words(moving: str, out: str) -> list[str]:
        images = ["-m", f"data/{moving}.nii.gz", "-f", "data/1.nii.gz"]
        return ["register", *images, "-o", out, *model]

    def apply_words(moving: str, out: str) -> list[str]:
        field = f"{'old' if moving == '2' else 'out'}-register/forward_field.nii.gz"
        return ["apply-field", "-t", field, "-i", "data/0.nii.gz", "-i", "data/1.nii.gz", "-o", out]

    found = {}
    for name, words in (("register", register_words), ("apply-field", apply_words)):
        old = Path(f"old-{name}")
        assert Run(force(words("2", str(old)), old)).wait() == 0, Path("log.txt").read_text()
        out = Path(f"out-{name}")
        found[name] = prepare(functools.partial(force, words("0", str(out))), old, out)
    old = Path("old-train")
    assert Run([*train_arguments(old), "--stop-after", "0.0001"]).wait() == 0
    found["train"] = prepare(train_arguments, old, Path("out-train"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=["register", "apply-field", "train"])
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        session.SAVE_EVERY = 0.0
        for name, case in cases().items():
            if given.command not in (None, name):
                continue
            counts: Counter[str] = Counter()
            for k in range(given.times):
                random = Random(f"{given.seed} {name} {k}")  # noqa: S311
                try:
                    counts[trial(case, Path(f"out-{name}"), random, k % 10 == 9)] += 1
                except AssertionError as error:
                    counts["failed"] += 1
                    click.echo(f"{name} {k}: {error}")
            failed += counts["failed"]
            told = ", ".join(
                f"{n} {state}" for state, n in sorted(counts.items()) if state != "failed"
            )
            click.echo(f"{name}: killed {given.times} times, {told}, {counts['failed']} failed")
        os.chdir("/")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
