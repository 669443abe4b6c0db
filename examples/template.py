#!/usr/bin/env python3
"""Compare `hsyn template` with `build_template` of antspyx: time, centrality, sharpness, overlap.

    python examples/template.py SCANS WORK [--people 8] [--rounds 3] [--threads 2]
    python examples/template.py MAPS WORK --painted [--pairwise]

SCANS holds skull-stripped scans; the first ones are taken. MAPS holds label maps of whole heads
with FreeSurfer's ids, and the last ones are painted as skull-stripped T1-like pictures. Both tools
get the same scans on one grey scale, do the same number of rounds without sharpening, with
antsRegistrationSyNQuick[s] on the one side, and use the same number of threads.

The judges are registrations of every scan to each finished template: by antsRegistrationSyNQuick[s]
and by `hsyn register`. Each tells, over the brain of the template, the norm of the mean
displacement beyond a rigid motion; of hsyn's template, also by the fields that it wrote. Sharpness
is the mean gradient magnitude over that brain. With --painted, it also tells the mean Dice over all
pairs of people in the space of the template: by hsyn's own fields, and for the peer by its own
registration to its finished template, which it does not write; with --pairwise, also that of
registering each person to the next one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from ten_images import hsyn, mean_dice, painted

CONFIG = Path(__file__).parents[1] / "weights" / "brain-t1.train.json"
SYN = "antsRegistrationSyNQuick[s]"
TOOLS = ("hsyn", "ants")
Values = NDArray[np.float64]


def prepare(arguments: argparse.Namespace) -> list[Path]:
    """The scans on one scale: dark 0, the 99.5th percentile of what is not, 100; and label maps."""
    folder = arguments.work / "scans"
    if folder.exists():
        return sorted(folder.glob("*.nii.gz"))
    folder.mkdir(parents=True)
    paths = sorted(arguments.scans.glob("*.nii*"))
    count, rng = arguments.people, np.random.default_rng(0)
    chosen = paths[-count:] if arguments.painted else paths[:count]
    greys = {int(k): v for k, v in json.loads(CONFIG.read_text())["intensities"].items()}
    out = []
    for k, path in enumerate(chosen, 1):
        image = sitk.ReadImage(str(path))
        if arguments.painted:
            labels = sitk.Cast(image, sitk.sitkInt32)
            brain = (labels < 500) & (labels > 0)
            sitk.WriteImage(sitk.Mask(labels, brain), str(arguments.work / f"labels-{k:02}.nii.gz"))
            image = sitk.Mask(painted(labels, rng, greys), brain)
        values = sitk.GetArrayFromImage(image).astype(np.float32)
        scaled = sitk.GetImageFromArray(values * (100 / np.percentile(values[values > 0], 99.5)))
        scaled.CopyInformation(image)
        out.append(folder / f"sub-{k:02}.nii.gz")
        sitk.WriteImage(scaled, str(out[-1]))
    return out


def by_hsyn(scans: list[Path], work: Path, rounds: int, threads: int) -> None:
    """Make hsyn's template in WORK/hsyn, and write the seconds that it took beside it."""
    begun = time.monotonic()
    options = ("--rounds", rounds, "--tolerance", 0, "--sharpen", 0, "--quiet")
    hsyn("template", *scans, "-o", work / "hsyn", "--jobs", threads, "--threads", 1, *options)
    (work / "hsyn.txt").write_text(str(time.monotonic() - begun))


def by_ants(scans: list[Path], work: Path, rounds: int, threads: int) -> None:
    """The same of the peer, in WORK/ants, in a process of its own."""
    _run([sys.executable, __file__, "--peer-in", str(work), str(rounds), *map(str, scans)], threads)


def _run(words: list[str], threads: int) -> None:
    many = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}
    subprocess.run(words, check=True, env={**os.environ, **many}, stdout=subprocess.DEVNULL)  # noqa: S603


def build_peer(work: Path, rounds: int, scans: list[str]) -> None:
    """The work of that process."""
    import ants

    images = [ants.image_read(scan) for scan in scans]
    (work / "ants").mkdir(exist_ok=True)
    begun = time.monotonic()
    made = ants.build_template(
        image_list=images, iterations=rounds, blending_weight=None, type_of_transform=SYN
    )
    seconds = time.monotonic() - begun
    ants.image_write(made, str(work / "ants" / "template.nii.gz"))
    (work / "ants.txt").write_text(str(seconds))


def judge(
    judge_by: str, template: Path, scans: list[Path], out: Path, threads: int
) -> list[sitk.Image]:
    """Fields, template point -> scan point, of registrations of all scans to a template."""
    peers = Path(__file__).with_name("peers.py")
    fields = []
    for scan in scans:
        folder = out / scan.name[:-7]
        folder.mkdir(parents=True, exist_ok=True)
        field = folder / "forward_field.nii.gz"
        if field.exists():
            pass
        elif judge_by == "ants":
            _run(
                [sys.executable, str(peers), "ants", str(scan), str(template), str(folder)], threads
            )
        else:
            pair = ("-m", scan, "-f", template, "-o", folder, "--keep", "forward_field")
            hsyn("register", *pair, "--threads", threads, "--quiet", "--force")
        fields.append(sitk.ReadImage(str(field), sitk.sitkVectorFloat64))
    return fields


def brain_of(fields: list[sitk.Image], scans: list[Path]) -> NDArray[np.bool_]:
    """Where at least half of the scans, taken to the template, show something."""
    shares = []
    for field, scan in zip(fields, scans, strict=True):
        inside = sitk.Cast(sitk.ReadImage(str(scan)) > 0, sitk.sitkFloat32)
        way = sitk.DisplacementFieldTransform(sitk.Image(field))
        shares.append(sitk.GetArrayFromImage(sitk.Resample(inside, field, way)))
    return np.asarray(np.mean(shares, axis=0) >= 0.5)


def off_centre(fields: list[sitk.Image], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """The norm of the mean displacement beyond a rigid motion, and the mean norm; over a brain."""
    index = np.argwhere(brain)[:, ::-1]
    reference = fields[0]
    axes = np.reshape(reference.GetDirection(), (3, 3)) * np.array(reference.GetSpacing())
    points = index @ axes.T + np.array(reference.GetOrigin())
    total, norms = np.zeros_like(points), 0.0
    for field in fields:
        ends = points + sitk.GetArrayViewFromImage(field)[brain]
        v = _unposed(points, ends) - points
        total += v / len(fields)
        norms += float(np.linalg.norm(v, axis=1).mean()) / len(fields)
    return float(np.linalg.norm(total, axis=1).mean()), norms


def _unposed(points: Values, ends: Values) -> Values:
    """`ends` after the rigid motion that brings them nearest to `points` (Kabsch)."""
    a, b = points.mean(0), ends.mean(0)
    left, _, right = np.linalg.svd((points - a).T @ (ends - b))
    flip = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    out: Values = (ends - b) @ (left @ flip @ right).T + a
    return out


def sharpness(template: Path, brain: NDArray[np.bool_]) -> float:
    """The mean gradient magnitude, grey values per mm."""
    image = sitk.ReadImage(str(template), sitk.sitkFloat64)
    slopes = np.gradient(sitk.GetArrayViewFromImage(image), *image.GetSpacing()[::-1])
    return float(np.sqrt(sum(slope**2 for slope in slopes))[brain].mean())


def overlap(fields: list[sitk.Image], maps: list[sitk.Image]) -> float:
    """The mean Dice over all pairs of label maps in the space of a template."""
    there = [
        sitk.Resample(labels, field, sitk.DisplacementFieldTransform(sitk.Image(field)),
                      sitk.sitkNearestNeighbor, 0)
        for labels, field in zip(maps, fields, strict=True)
    ]  # fmt: skip
    pairs = itertools.combinations(there, 2)
    return float(np.mean([mean_dice(sitk.Transform(), one, other) for one, other in pairs]))


def pairwise(
    scans: list[Path], maps: list[sitk.Image], out: Path, threads: int
) -> dict[str, float]:
    """The mean Dice of registering each person to the next one, by both tools."""
    scores = {}
    for tool in TOOLS:
        each = []
        for m in range(len(scans)):
            f = (m + 1) % len(scans)
            (field,) = judge(tool, scans[f], [scans[m]], out / f"{tool}-{m}-{f}", threads)
            each.append(mean_dice(sitk.DisplacementFieldTransform(field), maps[m], maps[f]))
        scores[tool] = float(np.mean(each))
    return scores


def main() -> None:
    if sys.argv[1:2] == ["--peer-in"]:
        build_peer(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path, help="folder; what stands there is not done again")
    parser.add_argument("--people", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--judges", nargs="*", choices=TOOLS, help="default: both")
    parser.add_argument("--painted", action="store_true")
    parser.add_argument("--pairwise", action="store_true")
    given = parser.parse_args()
    work, threads = given.work, given.threads
    scans = prepare(given)
    seconds = {}
    for tool, make in (("hsyn", by_hsyn), ("ants", by_ants)):
        told = work / f"{tool}.txt"
        if not told.exists():
            make(scans, work, given.rounds, threads)
        seconds[tool] = float(told.read_text())
        print(f"{tool}: {seconds[tool]:.0f} s", flush=True)  # noqa: T201
    own = [
        sitk.ReadImage(str(work / "hsyn" / "subjects" / scan.name[:-7] / "forward_field.nii.gz"),
                       sitk.sitkVectorFloat64)
        for scan in scans
    ]  # fmt: skip
    found = {("hsyn", "its own fields"): own}
    for tool, by in itertools.product(TOOLS, given.judges or TOOLS):
        template = work / tool / "template.nii.gz"
        found[tool, by] = judge(by, template, scans, work / f"judged-{tool}-{by}", threads)
    maps = [sitk.ReadImage(str(path)) for path in sorted(work.glob("labels-*.nii.gz"))]
    heads = ["template", "s", "judge", "off centre, mm", "mean shift, mm", "sharpness", "Dice"]
    table = Table(*heads)
    for (tool, by), fields in found.items():
        brain = brain_of(fields, scans)
        off, mean = off_centre(fields, brain)
        sharp = sharpness(work / tool / "template.nii.gz", brain)
        dice = f"{overlap(fields, maps):.4f}" if maps else ""
        cells = (f"{off:.3f}", f"{mean:.2f}", f"{sharp:.3f}", dice)
        table.add_row(tool, f"{seconds[tool]:.0f}", by, *cells)
    Console(width=100).print(table)
    if maps and given.pairwise:
        for tool, dice in pairwise(scans, maps, work / "pairwise", threads).items():
            print(f"each person to the next one, {tool}: mean Dice {dice:.4f}")  # noqa: T201


if __name__ == "__main__":
    main()
