#!/usr/bin/env python3
"""What each part of the brain checkpoint does and costs: every pair, with and without it.

    python examples/parts.py scans.csv WORK
    python examples/parts.py scans.csv WORK --table      # of what is there so far

scans.csv has the columns image and labels. Its paths are relative to the file. To leave out ids,
put a labels.csv with the columns index and ignore (True) beside the labels. Ten scans give 45
pairs, and 90 with a direction: a registration gives both, the total forward field and its inverse.

The parts are the net of each level, the tissue net and DI-Net. Without a part, its seconds go to
more steps along the forces: of its own level, of the level before if its own takes none, and of the
refinement for the tissue net. The seconds of DI-Net go nowhere: the exact inversion then starts
without an answer. The first pair tells the seconds. All variants of a pair share its affine.

Dice is the mean over the labels, warped with nearest neighbour, and over the two directions.
Seconds are those of the processor in this process, from the aligned pair to the total fields. A
difference is the mean over the pairs, with its standard error. WORK keeps every run, and the same
command goes on. --pairs N stops after the first N pairs; each scan is then moving and fixed about
as often.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import benchmark
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hsyn_cli.config.architecture import Level
from hsyn_cli.devices import convolution_type, use_threads
from hsyn_cli.fields.images import as_transform, total_images
from hsyn_cli.method import inference, prepare, register
from hsyn_cli.method.clock import Clock
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.states import Aligned, Pair
from hsyn_cli.method.unet import use_precision
from hsyn_cli.method.working import Method

ALL, TISSUE, DI_NET, NETS = "everything", "the tissue net", "DI-Net", "all nets"
REFINEMENT = "the refinement"
CHECKPOINT, CPU = "brain-t1", torch.device("cpu")
Cost = Counter[str]  # {part: seconds}; {"steps of level 1": seconds of one}


def net_of(number: int) -> str:
    return f"the net of level {number}"


def steps_of(number: int) -> str:
    return f"steps of level {number}"


def parts(method: Method) -> list[str]:
    """The parts that run with a preset."""
    nets = [net_of(k + 1) for k in range(method.depth)]
    return [*nets, *([TISSUE] if method.preset.refinement else []), DI_NET]


def without(method: Method, left_out: list[str], more: Counter[str]) -> Method:
    """The method without some parts, and with more steps of levels and of the refinement."""
    sn, di, levels = method.networks.sn, method.networks.di, []
    for number, spec in enumerate(sn.config.levels[: method.depth], 1):
        spec = dataclasses.replace(spec, repeats=spec.repeats * (net_of(number) not in left_out))
        if spec.steps:
            steps = spec.steps.steps + more[steps_of(number)]
            spec = dataclasses.replace(spec, steps=dataclasses.replace(spec.steps, steps=steps))
        levels.append(spec)
    while not runs(levels[-1]):
        levels.pop()
    tissue = None if TISSUE in left_out else sn.config.tissue
    config = dataclasses.replace(sn.config, levels=tuple(levels), tissue=tissue)
    fewer = SNNet(config).eval()
    own = fewer.state_dict()
    fewer.load_state_dict({name: value for name, value in sn.state_dict().items() if name in own})
    use_precision(fewer, convolution_type(CPU))
    if DI_NET in left_out:
        di = DINet(dataclasses.replace(di.config, repeats=0)).eval()
    preset = method.preset
    if preset.refinement:
        *first, last = preset.refinement
        steps = dataclasses.replace(last.steps, steps=last.steps.steps + more[REFINEMENT])
        preset = dataclasses.replace(
            preset, refinement=(*first, dataclasses.replace(last, steps=steps))
        )
    networks = method.networks._replace(sn=fewer, di=di)
    return dataclasses.replace(method, networks=networks, preset=preset, depth=len(levels))


def runs(level: Level) -> bool:
    return bool(level.repeats or level.steps)


def deformed(pair: Pair, aligned: Aligned, method: Method) -> tuple[Any, float]:
    """The total fields, and the processor's seconds that they took."""
    torch.manual_seed(0)
    start = time.process_time()
    clock = Clock(lambda step, share: None, method.preset.work)
    joined, _ = register.deform(aligned, method, CPU, clock)
    with torch.no_grad():
        composed = register.compose(joined, aligned, pair, method)
    return composed, time.process_time() - start


def measure(pair: Pair, aligned: Aligned, method: Method, row: dict[str, str]) -> dict[str, float]:
    composed, seconds = deformed(pair, aligned, method)
    turned = {"moving_labels": row["fixed_labels"], "fixed_labels": row["moving_labels"]}
    images = total_images(composed.totals, pair.unit)
    dices = [
        benchmark.mean_dice(as_transform(field), way)
        for field, way in zip(images, (row, turned), strict=True)
    ]
    there, back = composed.settled.errors
    return {
        "dice": sum(dices) / 2,
        "dice_forward": dices[0],
        "seconds": seconds,
        "folded": sum(found.voxels for found in composed.settled.folding),
        "trip_mm": (there.mean_mm + back.mean_mm) / 2,
        "trip_max_mm": max(there.max_mm, back.max_mm),
    }


def costs(pair: Pair, aligned: Aligned, method: Method) -> Cost:
    """The processor's seconds of each part, and of one step of each level and the refinement."""
    cost, sn, di = Counter[str](), method.networks.sn, method.networks.di

    def timed(work: Callable[..., Any], name: Callable[[Any], str]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            start = time.process_time()
            out = work(*args, **more)
            cost[name(args[0])] += time.process_time() - start
            return out

        return run

    places: list[tuple[Any, str, Callable[[Any], str]]] = [
        (sn, "step", lambda k: net_of(k + 1)),
        (sn, "level", lambda k: steps_of(k + 1)),
        (sn, "look", lambda _: TISSUE),
        (di, "forward", lambda _: DI_NET),
        (inference.refinement, "refine", lambda _: REFINEMENT),
    ]
    with ExitStack() as stack:
        for owner, name, label in places:
            work = timed(getattr(owner, name), label)
            stack.enter_context(mock.patch.object(owner, name, work))
        deformed(pair, aligned, method)
    for number, spec in enumerate(sn.config.levels[: method.depth], 1):
        cost[steps_of(number)] -= cost[net_of(number)]
        cost[steps_of(number)] /= spec.steps.steps if spec.steps else math.inf
    cost[REFINEMENT] /= sum(stage.steps.steps for stage in method.preset.refinement) or math.inf
    return cost


def variants(pair: Pair, aligned: Aligned, method: Method) -> dict[str, tuple[list[str], Cost]]:
    """{name: (parts left out, more steps)}, the steps as long as the parts were."""
    costs(pair, aligned, method)  # once to warm up
    cost, there = costs(pair, aligned, method), parts(method)
    bare = costs(pair, aligned, without(method, [TISSUE], Counter())) if TISSUE in there else cost
    stages = sum(stage.steps.steps for stage in method.preset.refinement)
    out = {}
    for name in (ALL, *there, NETS):
        left_out, spare = [] if name == ALL else there if name == NETS else [name], Counter[str]()
        for number, spec in enumerate(method.networks.sn.config.levels, 1):
            if net_of(number) in left_out:
                spare[steps_of(number if spec.steps else number - 1)] += cost[net_of(number)]
        if TISSUE in left_out:
            spare[REFINEMENT] += cost[TISSUE] + stages * (cost[REFINEMENT] - bare[REFINEMENT])
        out[name] = left_out, Counter({k: round(v / bare[k]) for k, v in spare.items()})
    return out


def every(scans: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Each pair once; among the first, each scan is moving and fixed about as often."""
    count = len(scans)
    for ahead in range(1, count // 2 + 1):
        for k, moving in enumerate(scans[: count // 2] if 2 * ahead == count else scans):
            fixed = scans[(k + ahead) % count]
            yield {
                "moving": moving["image"], "moving_labels": moving["labels"],
                "fixed": fixed["image"], "fixed_labels": fixed["labels"],
            }  # fmt: skip


def run(row: dict[str, str], preset: str, work: Path, threads: int) -> None:
    """The variants of one pair that WORK lacks."""
    use_threads(threads)
    settings = prepare.begin(preset, CHECKPOINT, "cpu", 0, None, "affine", 1.0)
    pair = prepare.look(row["moving"], row["fixed"], None, None)
    pair, method, aligned = prepare.align(pair, prepare.choose(pair, settings), settings)
    plan = work / f"{preset}.json"
    if not plan.exists():
        plan.write_text(json.dumps(variants(pair, aligned, method), indent=1))
    done = {(r["moving"], r["fixed"], r["preset"], r["variant"]) for r in read(work)}
    for name, (left_out, more) in json.loads(plan.read_text()).items():
        if (row["moving"], row["fixed"], preset, name) in done:
            continue
        scores = measure(pair, aligned, without(method, left_out, Counter(more)), row)
        found = {**row, "preset": preset, "variant": name, **scores}
        with (work / "runs.jsonl").open("a") as stream:
            stream.write(json.dumps(found) + "\n")


def read(work: Path) -> list[dict[str, Any]]:
    """The runs so far; a line that a killed run left is no run."""
    path, rows = work / "runs.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def table(work: Path, preset: str) -> Table:
    """Each variant beside everything, over the pairs that have all variants."""
    plan = json.loads((work / f"{preset}.json").read_text())
    by_pair: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in read(work):
        if row["preset"] == preset:
            by_pair.setdefault((row["moving"], row["fixed"]), {})[row["variant"]] = row
    whole = [found for found in by_pair.values() if len(found) == len(plan)]
    titles = ("Dice", "difference", "seconds", "difference", "folds", "round trip, worst, mm")
    out = Table(f"{preset}, {len(whole)} pairs, without", "more steps", *titles)
    for name, (_, more) in plan.items():
        if not whole:
            break
        values = {k: np.array([found[name][k] for found in whole]) for k in whole[0][ALL]
                  if isinstance(whole[0][ALL][k], int | float)}  # fmt: skip
        cells = []
        for key, digits in (("dice", 4), ("seconds", 2)):
            change = values[key] - [found[ALL][key] for found in whole]
            error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else math.nan
            told = "" if name == ALL else f"{change.mean():+.{digits}f} ± {error:.{digits}f}"
            cells += [f"{values[key].mean():.{digits}f}", told]
        trips = f"{values['trip_mm'].mean():.3f}, {values['trip_max_mm'].max():.2f}"
        steps = ", ".join(f"{v} {k}" for k, v in more.items() if v)
        shown = "-" if name == ALL else name
        out.add_row(shown, steps, *cells, f"{values['folded'].mean():.1f}", trips)
    return out


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("scans", type=Path, help="CSV of scans and labels")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of the runs")
    parser.add_argument("--presets", default="default,fast", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=None, help="first pairs; default: all")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="only show the runs so far")
    args = parser.parse_args()
    with args.scans.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    scans = [{k: str(args.scans.parent / row[k]) for k in ("image", "labels")} for row in rows]
    args.work.mkdir(parents=True, exist_ok=True)
    presets, console = args.presets.split(","), Console()
    pairs = list(every(scans))[: args.pairs]
    for number, row in enumerate(pairs if not args.table else [], 1):
        for preset in presets:
            console.print(f"pair {number} of {len(pairs)}, {preset} ...")
            run(row, preset, args.work, args.threads)
    for preset in presets:
        if (args.work / f"{preset}.json").exists():
            console.print(table(args.work, preset))


if __name__ == "__main__":
    main()
