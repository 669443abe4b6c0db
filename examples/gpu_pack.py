#!/usr/bin/env python3
"""Pack pairs and training data for gpu_day.py, on a machine that has all of hsyn.

    python examples/gpu_pack.py WORK --pairs pairs.csv --data scans/ --config config.json

pairs.csv is as for benchmark.py: moving, fixed, moving_labels and fixed_labels; a labels.csv with
the columns index and ignore beside the fixed labels leaves out ids. --data and --config are those
of `hsyn train`; several configs share a cache where they can. The parts are in WORK/parts. Each
goes to the other machine in a call of its own. --mm makes all images as coarse, for a rehearsal.
"""

import argparse
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import benchmark
import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console

import hsyn_cli
from hsyn_cli import api
from hsyn_cli.anatomy.intensity import foreground
from hsyn_cli.devices import use_threads
from hsyn_cli.errors import HsynError, InputError
from hsyn_cli.io import images
from hsyn_cli.io.checkpoints import DEFAULT
from hsyn_cli.method import prepare
from hsyn_cli.method.carried import Carried, save_pair
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.report import to_dict
from hsyn_cli.results.run_folder import Wanted
from hsyn_cli.space import Grid, affine_parts
from hsyn_cli.training.cache import Cache, settings
from hsyn_cli.training.runs import RunFolder, read_config
from hsyn_cli.training.session import Session

PART = 38_000_000  # bytes; a call may carry 40 MB beside the tree
SEED = 0
say = Console().print


def coarse(image: sitk.Image, mm: float | None, labels: bool = False) -> sitk.Image:
    """An image on voxels of about `mm`, or as it is."""
    if mm is None or min(image.GetSpacing()) >= mm:
        return image
    sigma = [0.4 * max(mm - s, 0.01) for s in image.GetSpacing()]
    smooth = image if labels else sitk.SmoothingRecursiveGaussian(image, sigma)
    x, y, z = (
        max(1, round(n * s / mm)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    )
    grid = replace(Grid.of(image), size=(x, y, z), spacing=(mm, mm, mm))
    way = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    return sitk.Resample(smooth, grid.empty_image(image.GetPixelID()), sitk.Transform(), way)


def packed(row: dict[str, str], model: str, mm: float | None) -> Carried:
    """A pair of the table, read, aligned and on its working grid."""
    name = f"{Path(row['moving']).name.split('.')[0]} -> {Path(row['fixed']).name.split('.')[0]}"
    start = time.perf_counter()
    moving, fixed = (images.read_image(Path(row[k])).image for k in ("moving", "fixed"))
    seconds = {"reading": time.perf_counter() - start}
    moving, fixed = (coarse(image, mm) for image in (moving, fixed))
    maps = [
        coarse(images.read_labels(Path(row[f"{k}_labels"]), None).image, mm, labels=True)
        for k in ("moving", "fixed")
    ]
    start = time.perf_counter()
    chosen = prepare.begin("default", model, "cpu", SEED, None, "affine", 1.0)
    pair = prepare.look(moving, fixed, None, None)
    method = prepare.choose(pair, chosen)
    sn = method.networks.sn
    sn.config = replace(sn.config, spacing=mm or sn.config.spacing)
    pair, method, aligned = prepare.align(pair, method, chosen)
    seconds["affine and preparation"] = time.perf_counter() - start
    if pair.unit != 1 or not aligned.subjects.alike:
        raise InputError(f"{name}: not two people in one contrast", "leave the pair out")
    if prepare.finer_for(aligned.subjects, method) < 1:
        raise InputError(f"{name}: its refinement has a grid of its own", "pack brains")
    start = time.perf_counter()
    grid = prepare.grid_for(aligned.subjects, aligned.affine, method)
    scene = aligned.subjects.on(grid, aligned.affine, torch.device("cpu"))
    seconds["working-grid tensors"] = time.perf_counter() - start
    of_moving, of_fixed = (
        foreground(view.image, look.grey.hounsfield)
        for view, look in zip(pair.views, pair.looks, strict=True)
    )
    ids = [sitk.GetArrayFromImage(labels).astype(np.uint16) for labels in maps]
    ignored = {k for k, v in benchmark.names(row).items() if v.get("ignore") == "True"}
    counted = sorted(set(np.unique(ids[1]).tolist()) - {0} - ignored)
    return Carried(
        name, scene, affine_parts(aligned.affine), *pair.grids, (of_fixed, of_moving), *ids,
        tuple(counted), seconds,
    )  # fmt: skip


def whole(row: dict[str, str], model: str, mm: float | None) -> dict[str, float]:
    """Seconds per step of `hsyn register --preset fast` here, reading and writing told apart."""
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{role}.nii.gz" for role in ("moving", "fixed")]
        for role, path in zip(("moving", "fixed"), paths, strict=True):
            image = sitk.Cast(sitk.ReadImage(row[role]), sitk.sitkFloat32)
            sitk.WriteImage(coarse(image, mm), str(path))
        wanted = Wanted(Path(name) / "out")
        report = to_dict(
            api.register_files(Inputs(*paths), wanted, preset="fast", model=model, head="all")
        )
    steps = report["seconds"]
    rest = report["seconds_total"] - sum(steps.values())
    return {**steps, "reading and writing": rest}


def cached(config: Path, args: argparse.Namespace, out: Path) -> Cache:
    """The cache that `hsyn train` makes for a config."""
    run = RunFolder(args.work / "run")
    with Session(run.folder, "cpu", args.threads) as session:
        session.configure(config, None, False, None)
        cache = session.load_data(args.data, lambda step, part: None)
        run.cache.rename(out)
    return cache


def parts(content: Path, out: Path) -> list[Path]:
    """Everything in `content` as parts of PART bytes, and parts.json, which says what they hold."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(p for p in content.rglob("*") if p.is_file()):
            archive.add(path, str(path.relative_to(content)))
    whole, made, listed = stream.getvalue(), [], []
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*"):
        old.unlink()
    for k, first in enumerate(range(0, len(whole), PART), 1):
        piece, path = whole[first : first + PART], out / f"part-{k:02d}"
        path.write_bytes(piece)
        sha256 = hashlib.sha256(piece).hexdigest()
        listed.append({"name": path.name, "bytes": len(piece), "sha256": sha256})
        made.append(path)
    (out / "parts.json").write_text(json.dumps(listed, indent=1) + "\n")
    return made


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("work", type=Path, help="folder for what is packed")
    parser.add_argument("--pairs", type=Path, help="CSV of pairs; default: examples/brain")
    parser.add_argument("--most", type=int, help="the first so many pairs; default: all")
    parser.add_argument("--mm", type=float, help="voxels of images and working grid")
    parser.add_argument("--model", default=DEFAULT, help="to measure; default: %(default)s")
    parser.add_argument("--data", type=Path, help="training data, as for hsyn train")
    parser.add_argument("--config", type=Path, nargs="*", default=[], help="training configs")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    args = parser.parse_args()
    use_threads(args.threads)
    content = args.work / "content"
    try:
        rows = benchmark.read_pairs(args.pairs)[: args.most]
        content.mkdir(parents=True)
        seconds: dict[str, list[float]] = {}
        for k, row in enumerate(rows, 1):
            pair = packed(row, args.model, args.mm)
            save_pair(pair, content / f"pair-{k:02d}.xz")
            for step, value in pair.seconds.items():
                seconds.setdefault(step, []).append(value)
            say(f"pair {k} of {len(rows)}: {pair.name}, working grid {pair.scene.grid.size}")
        made: list[tuple[str, ...]] = []
        for config in args.config:
            if settings(read_config(config)) not in made:
                made.append(settings(read_config(config)))
                cache = cached(config, args, content / f"cache-{len(made)}")
                say(f"cache {len(made)}: {len(cache.names)} subjects; left out: {cache.left_out}")
        about = {"hsyn": hsyn_cli.__version__, "torch": torch.__version__, "mm": args.mm}
        about |= {"threads": torch.get_num_threads(), "model": Path(args.model).stem}
        if Path(args.model).suffix:  # a file, not a name of one in the tree
            shutil.copy(args.model, content / "shipped.safetensors")
        about["seconds"] = {step: float(np.mean(values)) for step, values in seconds.items()}
        about["register"] = whole(rows[0], args.model, args.mm)
        (content / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    except FileExistsError:
        parser.error(f"{content} exists; name a new folder")
    except (HsynError, OSError, KeyError) as error:
        parser.error(str(error))
    for path in parts(content, args.work / "parts"):
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    say(f"carry each with {args.work / 'parts' / 'parts.json'}, one a call, to gpu_day.py")


if __name__ == "__main__":
    main()
