"""The Markdown table of gpu_day.py: each figure, its bar, and whether it passes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

DICE, FIELD_MM = 0.001, 0.05  # of the device against the CPU
WHOLE = {"default": 0.5, "fast": 0.2}  # seconds from working-grid tensors to total fields
CORE, CORE_PARTS = 0.1, ("networks", "composition", "exact inverse")
Units = Mapping[str, Any]
Row = tuple[str, str, str, str]


def table(results: Mapping[str, Any]) -> str:
    """All that is known so far."""
    units, on_cpu = results["units"], results["device"] == "cpu"
    sound = {key: unit for key, unit in units.items() if "failed" not in unit}
    packed = results["packed"]
    lines = [
        f"Device: {results['device']}, torch {results['torch']}, "
        f"CPU threads: {results['threads']}; "
        f"packed with {packed['model']}{f', at {mm:g} mm' if (mm := packed['mm']) else ''}.",
        *(["Bars on seconds are for a GPU."] if on_cpu else []), "",
        "| what | figure | bar | |", "|-|-|-|-|",
    ]  # fmt: skip
    parts = (
        parity(sound), timings(sound, on_cpu), here(packed), memory(sound, on_cpu),
        training(sound, on_cpu), evaluation(sound, packed["model"]),
    )  # fmt: skip
    lines += [f"| {' | '.join(row)} |" for part in parts for row in part]
    lines += [f"| {key} | {unit['failed']} | | FAIL |" for key, unit in units.items()
              if "failed" in unit]  # fmt: skip
    timed = [key for key in sound if key.startswith("timings/") and not key.endswith("-01")]
    first = {key: unit for key, unit in sound.items() if key not in timed}
    shown = [line for key, unit in first.items() for line in kernels(key, unit)]
    return "\n".join([*lines, *shown]) + "\n"


def of(units: Units, *start: str) -> list[Any]:
    """The units whose keys begin so."""
    return [unit for key, unit in units.items() if key.split("/")[: len(start)] == list(start)]


def verdict(value: float, bar: float, judged: bool = True) -> str:
    """Pass or FAIL; NaN fails."""
    return "not judged" if not judged else "pass" if value <= bar else "FAIL"


def parity(units: Units) -> Iterator[Row]:
    for preset in WHOLE:
        found = of(units, "parity", preset)
        for name in found[0] if found else ():
            if name == "dice":
                continue
            title = f"against the CPU in float32, {preset}, {name}"
            if isinstance(found[0][name], str):
                yield title, found[0][name], "", ""
                continue
            each = [unit[name] for unit in found]
            if kind := each[0].get("precision"):
                title += f" ({kind})"
            change = max((abs(v["dice_change"]) for v in each), default=math.nan)
            far, most = (max(v[k] for v in each) for k in ("mean_mm", "max_mm"))
            yield f"{title}: Dice", f"{change:.5f}", f"{DICE}", verdict(change, DICE)
            text = f"{far:.4f} mm (largest {most:.2f})"
            yield f"{title}: mean distance", text, f"{FIELD_MM} mm", verdict(far, FIELD_MM)


def timings(units: Units, on_cpu: bool) -> Iterator[Row]:
    for preset, bar in WHOLE.items():
        found = of(units, "timings", preset)
        if not found:
            continue
        whole = statistics.fmean(unit["whole"] for unit in found)
        parts = {k: statistics.fmean(unit["parts"][k] for unit in found) for k in found[0]["parts"]}
        core = sum(parts[name] for name in CORE_PARTS)
        size = " x ".join(map(str, found[0]["size"]))
        judged = not on_cpu
        title = f"tensors ({size}) to total fields, {preset}"
        yield title, seconds(whole), seconds(bar), verdict(whole, bar, judged)
        yield f"the same with cudnn.benchmark, {preset}", found[0]["cudnn_benchmark"], "", ""
        title = f"{', '.join(CORE_PARTS)}, {preset}"
        yield title, seconds(core), seconds(CORE), verdict(core, CORE, judged)
        for name, value in parts.items():
            yield f"{name}, {preset}", seconds(value), "", ""
        yield f"host waits, {preset}", waits(found[0]["host_waits"]), "", ""
        yield f"kernels, {preset}", launched(found[0], on_cpu), "", ""


def here(packed: Mapping[str, Any]) -> Iterator[Row]:
    """What the packing machine measured."""
    where = f"packing machine, CPU threads: {packed['threads']}"
    for name, value in packed["seconds"].items():
        yield f"{name}, {where}", seconds(value), "", ""
    steps = packed["register"]
    for name in ("affine", "warping", "reading and writing"):
        yield f"{name}, hsyn register --preset fast, {where}", seconds(steps[name]), "", ""
    yield f"all of hsyn register --preset fast, {where}", seconds(sum(steps.values())), "", ""


def memory(units: Units, on_cpu: bool) -> Iterator[Row]:
    for preset in WHOLE:
        for peaks in of(units, "memory", preset):
            what = "of the process" if on_cpu else "on the device"
            for name, peak in peaks.items():
                yield f"peak memory {what}, {name}, {preset}", f"{peak:.0f} MB", "", ""


def training(units: Units, on_cpu: bool) -> Iterator[Row]:
    for key, unit in units.items():
        kind, _, name = key.partition("/")
        if kind == "pace":
            for phase, found in unit["phases"].items():
                pace = f"{found['steps_per_second']:.2f} steps/s, {unit['precision']}, "
                pace += f"kernels a step: {launched(found, on_cpu)}"
                yield f"{name}, {phase}, before training", pace, "", ""
                text = waits(found["host_waits"])
                passed = "" if isinstance(found["host_waits"], str) else verdict(
                    found["host_waits"]["count"], 0
                )  # fmt: skip
                yield f"{name}, {phase}, host waits a step", text, "0" if passed else "", passed
        if kind == "training":
            for phase, (step, steps) in unit["steps"].items():
                scores = ", ".join(f"{k} {v:.4f}" for k, v in unit["validation"][phase].items())
                pace = f"{unit['steps_per_second'][phase]:.2f} steps/s"
                done = f"step {step} of {steps}, {pace}{scores and f', {scores}'}"
                yield f"{name}, {phase}, trained", done, "", ""


def evaluation(units: Units, shipped: str) -> Iterator[Row]:
    keys = [key.split("/")[1:4] for key in units if key.startswith("evaluation/")]
    newest = {(name, preset): sha256 for name, sha256, preset in keys}
    for (name, preset), sha256 in newest.items():
        found = of(units, "evaluation", name, sha256, preset)
        scores, base = (
            {key.split("/")[-1]: unit["dice"] for key, unit in units.items()
             if key.split("/")[:4] == ["evaluation", *which, preset]}
            for which in ((name, sha256), (shipped, "shipped"))
        )  # fmt: skip
        text = f"{statistics.fmean(scores.values()):.4f}"
        if name != shipped and scores.keys() == base.keys():
            more = [scores[pair] - base[pair] for pair in scores]
            error = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else math.nan
            text += f" ({statistics.fmean(more):+.4f}, standard error {error:.4f})"
        what = f"{name}, {preset}, {len(found)} pairs"
        yield f"Dice, {what}", text, "", ""
        folded, corner = (sum(unit[k] for unit in found) for k in ("folded", "folded_corner"))
        yield f"folded voxels, {what}", f"{folded} (corner rule {corner})", "0", verdict(folded, 0)
        mean = statistics.fmean(unit["round_trip_mean_mm"] for unit in found)
        most = max(unit["round_trip_max_mm"] for unit in found)
        yield f"round trips, {what}", f"{mean:.4f} mm, largest {most:.2f} mm", "", ""


def kernels(key: str, unit: Any) -> Iterator[str]:
    """The longest kernels of a unit, or of its phases."""
    phases = {f"{key}, {name}": part for name, part in unit.get("phases", {}).items()}
    for title, part in (phases or {key: unit}).items():
        if "shares" in part:
            yield f"\n{title}: share of time per kernel\n"
            yield from (f"- {share:.1%} {name[:80]}" for name, share in part["shares"].items())
        found = part.get("host_waits")
        if isinstance(found, dict) and found["places"]:
            yield f"\n{title}: where the host waits\n"
            yield from (f"- {count} times in {place}" for place, count in found["places"].items())


def waits(found: Mapping[str, Any] | str) -> str:
    return found if isinstance(found, str) else str(found["count"])


def launched(found: Mapping[str, Any], on_cpu: bool) -> str:
    if "no_kernels" in found:
        return str(found["no_kernels"])
    if on_cpu:
        return f"not measured; {found['launches']} operators, views too"
    return f"{found['launches']}, device busy {found['busy']:.0%} of the time"


def seconds(value: float) -> str:
    return f"{value:.3f} s"
