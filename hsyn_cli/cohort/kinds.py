"""The kinds of pairs in a cohort, by sizes, voxels and options; and what the pairs of each hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.cohort import costs
from hsyn_cli.cohort.costs import Content
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.errors import HsynError

if TYPE_CHECKING:
    from hsyn_cli.io.headers import Header

MOST_LOOKS = 3  # pairs whose images are read
# Options that decide the cost.
DECIDE = ("preset", "model", "transform", "similarity", "affine", "search", "head", "device")


@dataclass(frozen=True)
class Kind:
    """Jobs with images of the same sizes. `voxels`: mean voxel of both images in mm."""

    jobs: list[Job]
    moving: int
    fixed: int
    voxels: tuple[float, float]

    @property
    def size(self) -> int:
        return (self.moving + self.fixed) * (1 + len(self.jobs[0].inputs.others))


def kinds_of(jobs: Iterable[Job]) -> tuple[dict[Any, Kind], list[str]]:
    """Jobs by kind, the most frequent kind first; and those whose headers cannot be read."""
    from hsyn_cli.io import headers

    read: dict[Path, Header] = {}
    kinds: dict[Any, Kind] = {}
    problems: list[str] = []
    for job in jobs:
        try:
            for path in (job.inputs.moving, job.inputs.fixed):
                if path not in read:
                    read[path] = headers.read(path)
        except HsynError as error:
            problems.append(f"{job.id}: {error.message}")
            continue
        grids = [read[path].grid for path in (job.inputs.moving, job.inputs.fixed)]
        shapes = tuple((g.size, tuple(round(s, 2) for s in g.spacing)) for g in grids)
        options = tuple(job.options.get(name) for name in DECIDE)
        moving, fixed = (math.prod(grid.size) for grid in grids)
        voxels = (grids[0].voxel, grids[1].voxel)
        inputs = job.inputs
        key = (
            shapes, options, len(inputs.others), inputs.moving_labels is None, inputs.masked,
            inputs.initial_transform is None,
        )  # fmt: skip
        kinds.setdefault(key, Kind([], moving, fixed, voxels)).jobs.append(job)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1].jobs))), problems


def look_into(kinds: Mapping[Any, Kind], problems: list[str]) -> dict[Any, Content]:
    """What the most frequent kinds hold, and the largest one; one pair of each is read."""
    largest = max(kinds, key=lambda key: kinds[key].size, default=None)
    keys = list(kinds)
    chosen = keys[:MOST_LOOKS]
    if largest is not None and largest not in chosen:
        chosen[-1] = largest
    found = {}
    for key in chosen:
        job = kinds[key].jobs[0]
        try:
            found[key] = costs.look(job.inputs, job.options)
        except HsynError as error:
            problems.append(f"{job.id}: {error.message}")
    return found


def content_of(key: Any, kind: Kind, known: Mapping[Any, Content]) -> Content:
    """What a kind of pairs holds, by itself or by the most similar one that is known."""

    def unlike(other: Any) -> tuple[bool, float]:
        voxels = known[other].moving + known[other].fixed
        return other[1] != key[1], abs(math.log(voxels / (kind.moving + kind.fixed)))

    if key in known:
        return known[key]
    return known[min(known, key=unlike)].scaled(kind.moving, kind.fixed)
