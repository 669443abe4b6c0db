#!/usr/bin/env python3
"""Dice of painted people across contrasts, skull-stripped and as whole heads, beside a peer.

    python examples/painted_people.py MAPS WORK
    python examples/painted_people.py MAPS WORK --looks head --kinds T1-T1,T1-T2 --methods default
    python examples/painted_people.py MAPS WORK --looks head --methods default --head all

MAPS holds label maps of whole heads with FreeSurfer's ids, such as those that SynthSeg was trained
with. Of the last people, each is registered to the next one, painted by the painter of
ten_images.py, which no training uses, as T1, T2, FLAIR and a CT-like picture. What lies outside the
brain has grey values of its own in each contrast, the same for all people. The methods are those
of benchmark.py; ants uses mutual information. The script prints the mean Dice over the regions of
the brain, and on how many pairs the first method has the highest. A second call goes on.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
from benchmark import HSYN
from contrasts import brain, greys
from rich.console import Console
from rich.table import Table
from ten_images import painted

LOOKS = {"brain": "skull-stripped", "head": "whole heads"}
KINDS = "T1-T1,T1-T2,T1-FLAIR,T1-CT"
CONTRASTS = ("T1", "T2", "FLAIR", "CT")
CT = {
    2: 0.5, 41: 0.5, 7: 0.5, 46: 0.5, 16: 0.5, 28: 0.5, 60: 0.5, 4: 0.2, 43: 0.2, 14: 0.2, 15: 0.2,
    24: 0.2, 5: 0.2, 44: 0.2,
}  # fmt: skip


def picture(labels: sitk.Image, kind: str, seed: tuple[int, ...]) -> sitk.Image:
    """A whole head, painted."""
    rng, ids = np.random.default_rng(seed), np.unique(sitk.GetArrayViewFromImage(labels))
    values = dict(CT) if kind == "CT" else greys(kind, ids, rng)
    of_contrast = np.random.default_rng(CONTRASTS.index(kind))
    outside = dict(zip(range(501, 600), of_contrast.uniform(0.1, 0.9, 99), strict=True))
    return painted(labels, rng, values | outside)


def kept(image: sitk.Image, path: Path) -> None:
    """Write an image; a half-written one has another name."""
    beside = path.with_name(f"new-{path.name}")
    sitk.WriteImage(image, str(beside))
    beside.replace(path)


def written(paths: list[Path], look: str, kinds: list[str], work: Path) -> list[dict[str, str]]:
    """The pairs of one look and one pair of contrasts, as a row of benchmark.py's tables each."""
    rows = []
    for pair in itertools.pairwise(paths):
        row = {}
        for role, path, kind in zip(("moving", "fixed"), pair, kinds, strict=True):
            name = path.name.removesuffix(".nii.gz")
            only, file = (
                work / f"{name}-labels.nii.gz",
                work / f"{name}-{look}-{kind}-{role}.nii.gz",
            )
            if not only.exists():
                kept(brain(path, None), only)
            if not file.exists():
                seed = (zlib.crc32(name.encode()), role == "fixed", CONTRASTS.index(kind))
                head = picture(sitk.ReadImage(str(path)), kind, seed)
                kept(
                    head if look == "head" else sitk.Mask(head, sitk.ReadImage(str(only)) > 0), file
                )
            row |= {role: str(file), f"{role}_labels": str(only)}
        rows.append(row)
    return rows


def dice(method: str, pair: dict[str, str], arguments: argparse.Namespace) -> float:
    """The mean Dice, of a result that hsyn calls doubtful, too."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        try:
            benchmark.register(method, pair, out, arguments)
        except RuntimeError:
            if not (out / "report.json").exists():
                raise
        field = sitk.ReadImage(str(out / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
        return benchmark.mean_dice(sitk.DisplacementFieldTransform(field), pair)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--people", type=int, default=6, help="the last; default: %(default)s")
    parser.add_argument("--looks", default=",".join(LOOKS), help="default: %(default)s")
    parser.add_argument("--kinds", default=KINDS, help="default: %(default)s")
    parser.add_argument("--methods", default="default,ants", help="default: %(default)s")
    parser.add_argument("--head", default="auto", help="as of hsyn; default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--hsyn", default="hsyn", help="the program; default: hsyn on the PATH")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="a Python that has ants; default: this one"
    )
    arguments = parser.parse_args()
    paths = sorted(arguments.maps.glob("*.nii.gz"))[-arguments.people :]
    if len(paths) < 2:
        parser.error(f"{arguments.maps} has fewer than two label maps (.nii.gz)")
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.options = ["--head", arguments.head]
    saved = arguments.work / "scores.json"
    scores: dict[str, float] = json.loads(saved.read_text()) if saved.exists() else {}
    console, methods = Console(), arguments.methods.split(",")
    table = Table("images", "pair", *methods, f"{methods[0]} ahead")
    for look in arguments.looks.split(","):
        for kinds in arguments.kinds.split(","):
            rows = written(paths, look, kinds.split("-"), arguments.work)
            found: dict[str, list[float]] = {method: [] for method in methods}
            for k, row in enumerate(rows):
                for method in methods:
                    named = (look, kinds, paths[k].name, "to", paths[k + 1].name, method)
                    key = " ".join((*named, *(arguments.options if method in HSYN else ())))
                    if key not in scores:
                        scores[key] = dice(method, row, arguments)
                        saved.write_text(json.dumps(scores, indent=1) + "\n")
                        console.print(f"{key}: {scores[key]:.4f}", highlight=False)
                    found[method].append(scores[key])
            first, *others = found.values()
            ahead = sum(v > max(rest) for v, *rest in zip(first, *others, strict=True) if rest)
            means = (f"{np.mean(v):.3f}" for v in found.values())
            of = f"{ahead} of {len(first)}" if others else ""
            table.add_row(LOOKS[look], kinds.replace("-", " to "), *means, of)
    console.print(table)


if __name__ == "__main__":
    main()
