#!/usr/bin/env python3
"""Measure hsyn and two widely used tools on the same pairs, one after the other, on this machine.

    python examples/benchmark.py                     # the pair of examples/brain, all methods
    python examples/benchmark.py pairs.csv --methods fast,default,greedy --json scores.json
    python examples/benchmark.py pairs.csv --methods default@0.5,default@2,greedy@2 --profile

pairs.csv has the columns moving, fixed, moving_labels and fixed_labels. Its paths are relative to
the file. To leave out ids, put a labels.csv with the columns index and ignore (True) beside the
fixed labels.

The methods are hsyn's presets fast, default and accurate, and ants and greedy as peers.py runs
them. NAME@FACTOR is hsyn with --smoothness FACTOR, or greedy with its default sigmas times FACTOR.
--profile also gives hsyn's seconds per step. The script notes which of them are not installed.
Seconds of hsyn are those of the whole command, including start-up and writing. Seconds of the
others are those of the registration alone. Peak memory is that of the process. The functions that
measure the results use SimpleITK and numpy only, nothing of hsyn. Runs on Linux and macOS. Needs
SimpleITK, numpy and rich.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

EXAMPLE = Path(__file__).resolve().parent / "brain"
HSYN = ("fast", "default", "accurate")
PEERS = ("ants", "greedy")
ROWS = {  # key of a score: its row in the table
    "dice": "mean Dice over the labels",
    "dice_affine": "the same with the affine alone",
    "seconds": "seconds",
    "peak_gb": "peak memory, GB",
    "folded": "folded voxels (central differences)",
    "folded_corner": "folded voxels (any of 8 corners)",
    "min_det": "smallest determinant (central)",
    "sd_log_det": "SD of log det inside the fixed image",
    "inverse_mean_mm": "inverse error, mean, mm",
    "inverse_p99_mm": "inverse error, 99 %, mm",
    "inverse_max_mm": "inverse error, largest, mm",
    "back_mean_mm": "the other way, mean, mm",
    "back_p99_mm": "the other way, 99 %, mm",
    "back_max_mm": "the other way, largest, mm",
}


def measured(command: list[str], threads: int, log: Path) -> tuple[float, float]:
    """Seconds and peak GB of one command. Raises RuntimeError with its last line if it fails."""
    names = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(threads))}
    start = time.perf_counter()
    with log.open("w") as stream:
        both = {"stdout": stream, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, **both, env=env)  # noqa: S603
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        words = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise RuntimeError(f"exit code {child.returncode}: {words[-1]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def register(
    method: str, pair: dict[str, str], out: Path, args: argparse.Namespace
) -> dict[str, float]:
    """Run one method, which writes forward_field.nii.gz and inverse_field.nii.gz to `out`."""
    method, _, factor = method.partition("@")
    if method in HSYN:
        images = ["-m", pair["moving"], "-f", pair["fixed"]]
        options = ["-o", str(out), "--preset", method, "--threads", str(args.threads)]
        options += ["--smoothness", factor] if factor else []
        options += getattr(args, "options", [])  # further ones of other scripts
        program = shutil.which(args.hsyn)
        if not program:
            raise RuntimeError(
                f"{args.hsyn} is not installed: pip install hsyn, or give --hsyn PATH"
            )
        command = [program, "register", *images, *options]
    else:
        command = [
            args.peer_python,
            str(EXAMPLE.with_name("peers.py")),
            method,
            pair["moving"],
            pair["fixed"],
            str(out),
            *filter(None, [factor]),
        ]
    seconds, peak = measured(command, args.threads, out.parent / "log.txt")
    if method in PEERS:
        seconds = float((out / "seconds.txt").read_text())
    if (out / "report.json").exists():
        report = json.loads((out / "report.json").read_text())
        steps = {**report["seconds"], "start-up, reading, writing": seconds}
        steps["start-up, reading, writing"] -= sum(report["seconds"].values())
        return {"seconds": seconds, "peak_gb": peak, "steps": steps}
    return {"seconds": seconds, "peak_gb": peak}


def dices(transform, pair: dict[str, str]) -> dict[int, float]:
    """Dice of each id of the fixed labels. The moving labels are warped with nearest neighbour."""
    fixed, moving = sitk.ReadImage(pair["fixed_labels"]), sitk.ReadImage(pair["moving_labels"])
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor, 0)
    a, b = (sitk.GetArrayFromImage(image).astype(np.int64).ravel() for image in (fixed, warped))
    ids = (
        set(np.unique(a).tolist())
        - {0}
        - {k for k, row in names(pair).items() if row.get("ignore") == "True"}
    )
    count = int(max(a.max(), b.max())) + 1
    both = np.bincount(a[a == b], minlength=count)
    total = np.bincount(a, minlength=count) + np.bincount(b, minlength=count)
    return {k: float(2 * both[k] / total[k]) for k in sorted(ids)}


def mean_dice(transform, pair: dict[str, str]) -> float:
    """Mean over the ids of `dices`."""
    return float(np.mean(list(dices(transform, pair).values())))


def names(pair: dict[str, str]) -> dict[int, dict[str, str]]:
    """{id: row} of the labels.csv beside the fixed labels; {} if there is none."""
    table = Path(pair["fixed_labels"]).with_name("labels.csv")
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        return {int(float(row["index"])): row for row in csv.DictReader(stream)}


def roughness(field, fixed) -> dict[str, float]:
    """Standard deviation of log det inside the foreground of `fixed`, by central differences."""
    d, values = sitk.GetArrayViewFromImage(field), sitk.GetArrayViewFromImage(fixed)
    direction, spacing = np.array(field.GetDirection()).reshape(3, 3), field.GetSpacing()
    logs, least, inner = [], values.min(), slice(1, -1)
    for z in range(1, d.shape[0] - 1, 16):  # slabs, for memory
        slab = d[z - 1 : z + 17]
        a, b, c = (
            np.moveaxis(np.gradient(slab, spacing[k], axis=2 - k)[inner, inner, inner], -1, 0)
            + direction[:, k, None, None, None]
            for k in range(3)
        )
        cross = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
        det = sum(x * y for x, y in zip(a, cross, strict=True)) * np.linalg.det(direction)
        inside = values[z : z + len(det), inner, inner] > least
        logs.append(np.log(np.clip(det[inside], 1e-9, 1e9)))
    return {"sd_log_det": float(np.concatenate(logs).std())}


def folding(field) -> dict[str, float]:
    """Voxels with det(dp'/dp) <= 0 for p' = p + d(p), without the outermost layer; d in mm, LPS.

    With the direction D and x in mm along the axes, det(I + dd/dx D^T) = det(D + dd/dx) det(D).
    """
    d = sitk.GetArrayViewFromImage(field)  # (z, y, x, 3)
    direction = np.array(field.GetDirection()).reshape(3, 3)
    sign, counts, smallest = np.linalg.det(direction), np.zeros(2, int), np.inf
    inner = slice(1, -1)

    def determinant(columns) -> np.ndarray:
        a, b, c = (np.moveaxis(g, -1, 0) for g in columns)
        cross = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
        return (a[0] * cross[0] + a[1] * cross[1] + a[2] * cross[2]) * sign

    for z in range(1, d.shape[0] - 1, 16):  # slabs, for memory
        slab = d[z - 1 : z + 17]
        sides = []  # per axis: backward and forward difference, and the axis itself added
        for axis in (2, 1, 0):
            keep = tuple(slice(None) if axis == k else inner for k in range(3))
            step = (
                np.diff(slab[keep], axis=axis) / field.GetSpacing()[2 - axis]
                + direction[:, 2 - axis]
            )
            ends = np.arange(step.shape[axis] - 1)
            sides.append((step.take(ends, axis), step.take(ends + 1, axis)))
        central = determinant([(back + ahead) / 2 for back, ahead in sides])
        corner = np.zeros(central.shape, bool)
        for k in range(8):
            corner |= determinant([sides[axis][k >> axis & 1] for axis in range(3)]) <= 0
        counts += np.sum(central <= 0), np.sum(corner)
        smallest = min(smallest, float(central.min()))
    return {"folded": int(counts[0]), "folded_corner": int(counts[1]), "min_det": smallest}


def through(field, points: np.ndarray) -> np.ndarray:
    """p + d(p) for (N, 3) points in mm LPS, by linear interpolation; NaN outside the grid."""
    d, size = sitk.GetArrayViewFromImage(field), np.array(field.GetSize())
    to_index = np.linalg.inv(np.array(field.GetDirection()).reshape(3, 3) * field.GetSpacing())
    index = (points - field.GetOrigin()) @ to_index.T
    outside = np.any((index < 0) | (index > size - 1), axis=1) | ~np.isfinite(index).all(axis=1)
    index[outside] = 0
    low = np.minimum(np.floor(index).astype(int), size - 2)
    part, moved = index - low, points.copy()
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (low + corner).T
        moved += np.prod(np.where(corner, part, 1 - part), axis=1)[:, None] * d[z, y, x]
    moved[outside] = np.nan
    return moved


def inverse_error(forward, inverse, fixed, name: str = "inverse") -> dict[str, float]:
    """|inverse(forward(p)) - p| over fixed voxels above the minimum whose path stays inside."""
    values = sitk.GetArrayViewFromImage(fixed)
    index = np.argwhere(values > values.min())[:, ::-1]
    to_mm = np.array(fixed.GetDirection()).reshape(3, 3) * fixed.GetSpacing()
    errors = []
    for part in np.array_split(index, len(index) // 250_000 + 1):
        points = part @ to_mm.T + fixed.GetOrigin()
        errors.append(np.linalg.norm(through(inverse, through(forward, points)) - points, axis=1))
    error = np.concatenate(errors)
    error = error[np.isfinite(error)]
    values = {"mean": error.mean(), "p99": np.percentile(error, 99), "max": error.max()}
    return {f"{name}_{key}_mm": float(value) for key, value in values.items()}


def judge(out: Path, pair: dict[str, str]) -> dict[str, float]:
    names = [
        name for name in ("forward_field", "inverse_field") if (out / f"{name}.nii.gz").exists()
    ]
    fields = [sitk.ReadImage(str(out / f"{name}.nii.gz"), sitk.sitkVectorFloat64) for name in names]
    total = sitk.DisplacementFieldTransform(sitk.Image(fields[0]))  # it empties its argument
    scores = {"dice": mean_dice(total, pair), **folding(fields[0])}
    if (out / "warped.nii.gz").exists():  # hsyn's: affine.mat maps fixed to moving points
        scores["dice_affine"] = mean_dice(sitk.ReadTransform(str(out / "affine.mat")), pair)
    if len(fields) == 2:
        fixed, moving = (sitk.ReadImage(pair[k], sitk.sitkFloat32) for k in ("fixed", "moving"))
        scores |= roughness(fields[0], fixed)
        scores |= inverse_error(*fields, fixed)
        scores |= inverse_error(*fields[::-1], moving, "back")
    return scores


def read_pairs(path: Path | None) -> list[dict[str, str]]:
    columns = ("moving", "fixed", "moving_labels", "fixed_labels")
    if path is None:
        return [{name: str(EXAMPLE / f"{name}.nii.gz") for name in columns}]
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{name: str(path.resolve().parent / row[name]) for name in columns} for row in rows]


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("pairs", type=Path, nargs="?", help="CSV of pairs; default: examples/brain")
    parser.add_argument("--methods", default=",".join((*HSYN, *PEERS)), help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--hsyn", default="hsyn", help="the program; default: hsyn on the PATH")
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        help="a Python that has ants and greedy; default: this one",
    )
    parser.add_argument("--profile", action="store_true", help="also show seconds per step")
    parser.add_argument("--keep", type=Path, help="folder that keeps what each run wrote")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmark.json"), help="default: %(default)s"
    )
    args = parser.parse_args()
    console, methods, results = Console(), args.methods.split(","), []
    if unknown := {name.partition("@")[0] for name in methods} - {*HSYN, *PEERS}:
        parser.error(f"unknown methods {sorted(unknown)}; there are {', '.join((*HSYN, *PEERS))}")
    try:
        pairs = read_pairs(args.pairs)
    except (OSError, KeyError) as error:
        parser.error(f"{args.pairs}: cannot be read as a table of pairs: {error!r}")
    if missing := [path for pair in pairs for path in pair.values() if not Path(path).exists()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if args.keep and args.keep.exists():
        parser.error(f"{args.keep} exists; name a new folder")
    for number, pair in enumerate(pairs, 1):
        for method in methods:
            console.print(f"pair {number} of {len(pairs)}: {method} ...")
            with tempfile.TemporaryDirectory() as folder:
                out = (args.keep or Path(folder)) / f"{number}-{method}" / "out"
                out.mkdir(parents=True)
                try:
                    scores = {**register(method, pair, out, args), **judge(out, pair)}
                except RuntimeError as error:
                    scores = {"note": str(error)}
            results.append({"method": method, **pair, **scores})
    means = {method: average([r for r in results if r["method"] == method]) for method in methods}
    machine = {
        "system": platform.platform(),
        "processor": platform.processor(),
        "threads": args.threads,
    }
    report = {"machine": machine, "mean": means, "runs": results}
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    table = Table("mean over the pairs; inverse_max, folded, min_det: worst", *methods)
    for key, title in ROWS.items():
        table.add_row(
            title, *("-" if key not in means[m] else f"{means[m][key]:.4g}" for m in methods)
        )
    console.print(table)
    if args.profile:
        console.print(profile(results, [name for name in methods if name.startswith(HSYN)]))
    for note in sorted({f"{r['method']}: {r['note']}" for r in results if "note" in r}):
        console.print(note, markup=False)


def profile(results: list[dict], methods: list[str]) -> Table:
    """Mean seconds per step of hsyn's methods."""
    runs = {m: [r["steps"] for r in results if r["method"] == m and "steps" in r] for m in methods}
    table = Table("mean seconds", *methods)
    names = {name: None for m in methods for steps in runs[m] for name in steps}
    for name in names:
        cells = ([steps.get(name, 0.0) for steps in runs[m]] for m in methods)
        table.add_row(name, *(f"{np.mean(c):.1f}" if c else "-" for c in cells))
    return table


def average(runs: list[dict]) -> dict[str, float]:
    """Means over the runs without a note; folds and the largest errors of the worst pair."""
    worst = {
        "folded": max,
        "folded_corner": max,
        "inverse_max_mm": max,
        "back_max_mm": max,
        "peak_gb": max,
        "min_det": min,
    }
    good = [run for run in runs if "note" not in run]
    keys = [key for key in ROWS if good and all(key in run for run in good)]
    return {key: float(worst.get(key, np.mean)([run[key] for run in good])) for key in keys}


if __name__ == "__main__":
    main()
