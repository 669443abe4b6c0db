#!/usr/bin/env python3
"""Measure and train on a machine with a GPU, torch, numpy and safetensors, without SimpleITK.

    PYTHONPATH=. python3 examples/gpu_day.py CARRIED WORK --until 500 --out "$OUT"

CARRIED holds parts.json and parts that gpu_pack.py made, brought in one call or several. WORK
keeps what is done: a call goes on where the last one ended, was killed, or ran out of time. The
steps are parity, timings, memory, training and evaluation. After each of them, --out gets
results.json, table.md and all checkpoints. Exit codes: 0, all is done; 3, parts or time were
missing, call again; 1, something failed, see the table. The guide gpu-day says more.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measure import evaluate, memory, pace, parity, timings
from gpu_table import table

from hsyn_cli.devices import choose_device, device_name, use_torch_threads
from hsyn_cli.errors import HsynError, UsageError
from hsyn_cli.io import atomic, checkpoints
from hsyn_cli.training.cache import settings
from hsyn_cli.training.runs import RunFolder, read_config
from hsyn_cli.training.session import Session

PRESETS = ("default", "fast")
PARITY_PAIRS, TIMED_PAIRS = 3, 2
SAY_EVERY = 20.0  # seconds
AGAIN = 3  # exit code: call again
GIVEN = "given.json"  # in the folder of a training: its config as given


class TimeOver(Exception):
    """--until has passed."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Day:
    """What is known so far, in WORK/results.json, and what is left to do."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.end = time.monotonic() + args.until
        self.device = choose_device(args.device)
        self.content, self.path = args.work / "content", args.work / "results.json"
        self.results: dict[str, Any] = {"device": device_name(self.device), "units": {}}
        if self.path.exists():
            known = json.loads(self.path.read_text())
            if known["device"] != self.results["device"]:
                hint = "name a new WORK"
                raise UsageError(f"{self.path} is of another device, {known['device']}", hint)
            self.results = known
        about = (self.content / "about.json").read_text()
        cores = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
        self.results |= {"packed": json.loads(about), "torch": torch.__version__, **cores}
        self.pairs = sorted(self.content.glob("pair-*.xz"))[: args.pairs]
        if len({config.stem for config in args.config}) < len(args.config):
            raise UsageError("several configs have one name", "give each a name of its own")
        for config in args.config:
            run = RunFolder(args.work / "train" / config.stem)
            begun = run.folder / GIVEN
            if run.config.exists() and begun.read_bytes() != config.read_bytes():
                text = f"{config} has changed since its training began in {run.folder}"
                raise UsageError(text, "give it another name, or name a new WORK")

    @property
    def model(self) -> str:
        """The checkpoint that was packed, or the name of one in the tree."""
        carried = self.content / "shipped.safetensors"
        return str(carried) if carried.exists() else self.results["packed"]["model"]

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.end - time.monotonic()

    def once(self, key: str, work: Callable[[], Any]) -> None:
        """Do and keep a piece of work, unless it was done. What fails is told, and tried again."""
        known = self.results["units"].get(key)
        if known is not None and "failed" not in known:
            return
        if self.left <= 0:
            raise TimeOver
        begun = time.monotonic()
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - the rest of the day goes on
            value = {"failed": f"{type(error).__name__}: {error}"}
        self.keep(key, value)
        failed = value.get("failed", "")
        say(f"{key}: {time.monotonic() - begun:.1f} s{failed and f', {failed}'}")

    def keep(self, key: str, value: Any) -> None:
        self.results["units"][key] = value
        atomic.write_text(self.path, json.dumps(self.results, indent=1) + "\n")


def train(day: Day, config: Path, key: str) -> None:
    """Train a config, or go on with it, until its end or the end of the time."""
    run = RunFolder(day.work / "train" / config.stem)
    if day.results["units"].get(key, {}).get("finished"):
        return
    if day.left <= 0:
        raise TimeOver
    resumed = run.config.exists() and run.state.exists()
    training = read_config(run.config if resumed else config)
    caches = [c.parent for c in sorted(day.content.glob("cache-*/cache.json"))
              if tuple(json.loads(c.read_text())["made_with"]) == settings(training)]  # fmt: skip
    if not caches:
        raise UsageError(f"no cache was packed for {config}", "pack with this --config")
    run.folder.mkdir(parents=True, exist_ok=True)
    if not resumed:
        atomic.copy(config, run.folder / GIVEN)
    if not run.cache.exists():
        run.cache.symlink_to(caches[0].resolve(), target_is_directory=True)
    with Session(run.folder, day.device.type, day.args.threads) as session:
        start = None if training.stages else checkpoints.DEFAULT  # whose levels stay as they are
        session.configure(None if resumed else config, start, resumed, None)
        session.load_data(None, lambda step, part: None)
        day.once(f"pace/{config.stem}", lambda: pace(session))
        if day.args.minutes and not resumed:
            session.plan(day.args.minutes)
        said = time.monotonic()
        for record in session.train(max(day.left, 0) / 60):
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                say(f"{config.stem}: {record['name']}, step {record['step']} of {record['steps']}")
        finished = session.finished
    records = run.records()
    last = {str(r["name"]): r for r in records}
    scores = {n: {k: v for k, v in r.items() if k.startswith("val")} for n, r in last.items()}
    paces = {n: statistics.median(float(r["steps_per_second"]) for r in records if r["name"] == n)
             for n in last}  # fmt: skip
    done = {n: [int(r["step"]), int(r["steps"])] for n, r in last.items()}
    about = {"finished": finished, "steps": done, "steps_per_second": paces, "validation": scores,
             "config": json.loads(run.config.read_text())}  # fmt: skip
    day.keep(key, about)
    say(f"{key}: {'finished' if finished else 'goes on in the next call'}")
    if not finished:
        raise TimeOver


def evaluation(day: Day) -> None:
    """The shipped checkpoint and every trained one, on all pairs."""
    models = {day.model: ""}
    for path in sorted(day.work.glob("train/*/checkpoint.safetensors")):
        models[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    for model, sha256 in models.items():
        name = Path(model).parent.name if sha256 else day.results["packed"]["model"]
        for preset in PRESETS:
            for path in day.pairs:
                key = "/".join(("evaluation", name, sha256 or "shipped", preset, path.stem))
                day.once(key, lambda p=path, q=preset, m=model: evaluate(p, q, m, day.device))


def carried_in(carried: Path, work: Path) -> bool:
    """Take in the parts that lie in `carried`, and unpack them once all are there."""
    own, given = work / "parts.json", carried / "parts.json"
    if own.exists() and given.exists() and own.read_bytes() != given.read_bytes():
        raise UsageError(f"{work} is of other parts than {given} lists", "name a new WORK")
    if (work / "content").exists():
        return True
    kept = work / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    atomic.copy(given, own)
    listed, missing = json.loads(own.read_text()), []
    for part in listed:
        for path in (kept / part["name"], carried / part["name"]):
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]:
                if path.parent != kept:
                    atomic.copy(path, kept / part["name"])
                break
        else:
            missing.append(part["name"])
    if missing:
        here = f"{len(listed) - len(missing)} of {len(listed)} parts are here"
        say(f"{here}; still to carry: {', '.join(missing)}")
        return False
    whole = b"".join((kept / part["name"]).read_bytes() for part in listed)
    shutil.rmtree(work / "unpacking", ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        archive.extractall(work / "unpacking", filter="data")
    (work / "unpacking").rename(work / "content")
    shutil.rmtree(kept)
    return True


def measure(day: Day, step: str, most: int, work: Callable[..., dict[str, Any]]) -> None:
    """Measure the first pairs with each preset."""
    model = day.model
    for preset in PRESETS:
        for path in day.pairs[:most]:
            key = f"{step}/{preset}/{path.stem}"
            day.once(key, lambda p=path, q=preset: work(p, q, model, day.device))


def training(day: Day) -> None:
    """Train every config in turn."""
    for config in day.args.config:
        key = f"training/{config.stem}"
        try:
            train(day, config, key)
        except TimeOver:
            raise
        except Exception as error:  # noqa: BLE001 - the rest of the day goes on
            day.keep(key, {"failed": f"{type(error).__name__}: {error}"})
            say(f"{key}: {error}")


STEPS: dict[str, Callable[[Day], None]] = {
    "parity": lambda day: measure(day, "parity", PARITY_PAIRS, parity),
    "timings": lambda day: measure(
        day, "timings", TIMED_PAIRS, partial(timings, repeats=day.args.repeats)
    ),
    "memory": lambda day: measure(day, "memory", 1, memory),
    "training": training,
    "evaluation": evaluation,
}


def hand_out(day: Day) -> None:
    """Write the table; copy it, the results and the checkpoints to --out: few files."""
    atomic.write_text(day.work / "table.md", table(day.results))
    if (out := day.args.out) is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for path in (day.path, day.work / "table.md"):
        if path.exists():
            atomic.copy(path, out / path.name)
    for path in day.work.glob("train/*/checkpoint.safetensors"):
        atomic.copy(path, out / f"{path.parent.name}{path.suffix}")


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("carried", type=Path, help="folder with parts.json and parts")
    parser.add_argument("work", type=Path, help="folder that keeps what is done")
    parser.add_argument("--steps", default=",".join(STEPS), help="default: %(default)s")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds for this call")
    parser.add_argument("--config", type=Path, nargs="*", default=[], help="what to train")
    parser.add_argument("--minutes", type=float, help="for each config, as in hsyn train")
    parser.add_argument("--pairs", type=int, help="the first so many pairs; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="of timings; default: %(default)s")
    parser.add_argument("--device", default="cuda", help="cuda or cpu; default: %(default)s")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument("--out", type=Path, help="folder for the table and the checkpoints")
    args = parser.parse_args()
    steps = args.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps {sorted(unknown)}; there are {', '.join(STEPS)}")
    use_torch_threads(args.threads)
    try:
        if not carried_in(args.carried, args.work):
            sys.exit(AGAIN)
        day = Day(args)
        over = False
        for name in STEPS:
            if name in steps and not over:
                over = run_step(day, name)
                hand_out(day)  # a call that is killed later leaves what is done so far
        say((day.work / "table.md").read_text())
    except (HsynError, OSError) as error:
        parser.error(str(error))
    failed = any("failed" in unit for unit in day.results["units"].values())
    sys.exit(AGAIN if over else int(failed))


def run_step(day: Day, name: str) -> bool:
    """Run a step; whether the time is over."""
    try:
        STEPS[name](day)
    except TimeOver:
        say(f"the time is over in the step {name}; call again to go on")
        return True
    return False


if __name__ == "__main__":
    main()
