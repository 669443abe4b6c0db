"""The frame of a template: the scans' middles together, then affine passes to the mean so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from hsyn_cli import __version__
from hsyn_cli.cohort.jobs import PAIRS
from hsyn_cli.io.transforms import read_transform
from hsyn_cli.results.run_folder import FOLDER_FILES
from hsyn_cli.space import Array, Grid, affine_from, affine_parts
from hsyn_cli.template import scans
from hsyn_cli.template.averages import Means, Placed, average
from hsyn_cli.template.frame import Map, by_middles, centred, grid_of, hull, voxel_of
from hsyn_cli.template.making import Loader, Making, stage
from hsyn_cli.template.pairs import jobs_of
from hsyn_cli.template.run import Progress, Run
from hsyn_cli.template.stages import WORK, Stage, put
from hsyn_cli.template.subjects import Subject

PASSES = 2
COARSE, LEAST_SIDE = 2, 48  # voxels of the first means, if that leaves so many along each axis


def begin(run: Run) -> Stage:
    """All scans shifted onto one another by the middles of their contents, and averaged."""
    inputs = {subject.id: [subject.sha256, _of_mask(run, subject)] for subject in run.subjects}
    decides = {"inputs": inputs, "spacing": run.settings.spacing, "version": __version__}

    def make(making: Making) -> Stage:
        loaded = Loader()
        middles: dict[str, Array] = {}
        hulls: dict[str, Array] = {}
        grids: list[Grid] = []
        for k, subject in enumerate(run.subjects):
            making.step("reading", 0.5 * k / len(run.subjects))
            own = loaded(subject)
            middles[subject.id], hulls[subject.id] = scans.middle(own), hull(own)
            grids.append(own.grid)
        maps = by_middles(middles)
        voxel = run.settings.spacing or voxel_of(grids)
        grid = _coarse(grid_of(hulls, maps, voxel, grids[0].dimension))
        later = replace(making, step=lambda name, part: making.step(name, 0.5 + 0.5 * part))
        return _put(later, maps, hulls, voxel, grid)

    return stage(run, run.out / WORK / "start", "reading the scans", decides, [], make)


def align(run: Run, before: Stage, number: int) -> Stage:
    """An affine pass: align each scan to the mean, and turn the frame to the mean of the maps."""
    folder, kind = run.out / WORK / f"frame-{number}", run.settings.frame
    options = {"transform": kind, "preset": "fast", "keep": ["affine"]}
    jobs = jobs_of(run, before, options, started=number > 1)
    hulls = {name: np.array(points) for name, points in before.entry["hulls"].items()}
    voxel, last = float(before.entry["voxel"]), number == PASSES

    def make(making: Making) -> Stage:
        maps: dict[str, Map] = {}
        for subject in making.run.subjects:
            path = folder / PAIRS / subject.id / FOLDER_FILES["affine"]
            maps[subject.id] = affine_parts(read_transform(path, "affine").transform)
        maps = centred(maps, before.grid.points((np.array(before.grid.size) - 1) / 2))
        mine = {name: hulls[name] for name in maps}
        grid = grid_of(mine, maps, voxel, before.grid.dimension)
        return _put(making, maps, mine, voxel, grid if last else _coarse(grid))

    return stage(run, folder, f"{kind} pass {number} of {PASSES}", {"last": last}, jobs, make)


def _put(
    making: Making,
    maps: Mapping[str, Map],
    hulls: Mapping[str, Array],
    voxel: float,
    grid: Grid,
) -> Stage:
    """Average by the affine maps, and write the stage down."""
    means = _means(making.run, maps, grid, making.step)
    kept = {name: points.tolist() for name, points in hulls.items()}
    entry = {**making.entry(means, grid), "voxel": voxel, "hulls": kept}
    return put(making.folder, entry, means, maps, grid, making.run.hashes)


def _means(run: Run, maps: Mapping[str, Map], grid: Grid, step: Progress) -> Means:
    loaded = Loader()

    def placed() -> Iterator[Placed]:
        for subject in run.subjects:
            yield loaded(subject), affine_from(*maps[subject.id])

    return average(len(run.subjects), placed(), grid, step)


def _coarse(grid: Grid) -> Grid:
    """A grid with voxels twice as wide over the same place, if enough of them are left."""
    many = [n > 1 for n in grid.size]
    if any(n < COARSE * LEAST_SIDE for n, m in zip(grid.size, many, strict=True) if m):
        return grid
    x, y, z = (-(-n // COARSE) if m else n for n, m in zip(grid.size, many, strict=True))
    sx, sy, sz = (s * COARSE if m else s for s, m in zip(grid.spacing, many, strict=True))
    return replace(grid, size=(x, y, z), spacing=(sx, sy, sz))


def _of_mask(run: Run, subject: Subject) -> list[str]:
    return [] if subject.mask is None else run.hashes.of_image(subject.mask, "mask")
