"""A round of a template: from the mean so far to a sharper one in the mean shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from torch import Tensor

from hsyn_cli.cohort.jobs import PAIRS, Job
from hsyn_cli.fields.images import as_transform, from_image, to_image
from hsyn_cli.io.images import read_field
from hsyn_cli.io.writing import write_image
from hsyn_cli.results.run_folder import FOLDER_FILES
from hsyn_cli.space import Grid
from hsyn_cli.template import averages, shape
from hsyn_cli.template.averages import Average, Means
from hsyn_cli.template.frame import Map
from hsyn_cli.template.making import Loader, Making, stage
from hsyn_cli.template.pairs import jobs_of
from hsyn_cli.template.run import Run
from hsyn_cli.template.stages import SHIFT, WORK, Stage, put
from hsyn_cli.template.subjects import Subject

KEPT = ("affine", "fields")


def folder_of(run: Run, number: int) -> Path:
    """The folder of a round."""
    return run.out / WORK / f"round-{number}"


def jobs_of_round(run: Run, before: Stage, number: int) -> list[Job]:
    """The registrations of a round."""
    options = {"preset": run.settings.preset_of(number), "keep": sorted(KEPT)}
    return jobs_of(run, before, options, started=True)


def advance(run: Run, before: Stage, number: int) -> Stage:
    """Register each scan to the mean, move to the mean shape, and average the scans anew."""
    amount, grid = run.settings.sharpen, before.grid

    def make(making: Making) -> Stage:
        found = _moved(making, before)
        images = tuple(averages.sharpened(v, amount) for v in found.means.images)
        means = replace(found.means, images=images)
        entry = {
            **making.entry(means, grid),
            "round": number,
            "preset": run.settings.preset_of(number),
            **found.facts,
            "change": averages.change(means.images[0], before.values(), means.mask),
        }
        return put(making.folder, entry, means, found.maps, grid, run.hashes)

    told = f"round {number} of at most {run.settings.rounds}"
    jobs = jobs_of_round(run, before, number)
    return stage(run, folder_of(run, number), told, {"sharpen": amount}, jobs, make)


@dataclass(frozen=True)
class _Found:
    """The means of a round, its affine maps, and what its stage.json tells of its shape."""

    means: Means
    maps: dict[str, Map]
    facts: dict[str, Any]


def _moved(making: Making, before: Stage) -> _Found:
    """Take out the mean displacement, which is written as the round's shift, and average."""
    grid, mask, subjects = before.grid, before.mask, making.run.subjects
    taken = _mean_shape(making, subjects, before)
    image = shape.shift_image(taken, grid)
    write_image(image, making.folder / SHIFT)
    shift, loaded = shape.Shift.of(image), Loader()
    after, sums = shape.MeanShape(grid, mask), Average(grid)
    maps: dict[str, Map] = {}
    lengths: dict[str, float] = {}
    for k, subject in enumerate(subjects):
        making.step("averaging", 0.3 + 0.7 * k / len(subjects))
        u = shift.forward(from_image(field_of(making.folder, subject, "forward_field")))
        lengths[subject.id] = float(after.add(u).mean())
        maps[subject.id] = shape.affine_of(u, grid, mask)
        sums.add(loaded(subject), transform_of(u, grid))
    means = sums.means()
    facts = {
        "mean_displacement_mm": float(shape.within(taken, mask).mean()),
        "left_mm": float(shape.within(after.mean(), means.mask).mean()),
        "displacements_mm": lengths,
    }
    return _Found(means, maps, facts)


def _mean_shape(making: Making, subjects: Sequence[Subject], before: Stage) -> Tensor:
    sums = shape.MeanShape(before.grid, before.mask)
    for k, subject in enumerate(subjects):
        making.step("mean shape", 0.3 * k / len(subjects))
        sums.add(from_image(field_of(making.folder, subject, "forward_field")))
    return sums.mean()


def field_of(folder: Path, subject: Subject, name: str) -> sitk.Image:
    """A field of a subject's pair in the folder of a round. Raises InputError."""
    return read_field(folder / PAIRS / subject.id / FOLDER_FILES[name], name).image


def transform_of(u: Tensor, grid: Grid) -> sitk.Transform:
    """A field (1, 3, Z, Y, X), mm LPS, as a transform."""
    return as_transform(to_image(u, grid))
