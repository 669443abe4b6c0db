"""The files of a finished template: each subject's fields and maps, and the mean through them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.fields.change import measure_change
from hsyn_cli.fields.compact import compact_field, compact_image
from hsyn_cli.fields.images import as_transform, from_image, total_images
from hsyn_cli.fields.totals import Settled, Totals
from hsyn_cli.io import atomic
from hsyn_cli.io.images import read_field
from hsyn_cli.io.plain import dump
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.io.writing import write_image
from hsyn_cli.space import affine_from
from hsyn_cli.space.planes import raised
from hsyn_cli.template import averages, shape
from hsyn_cli.template.averages import Average, Means
from hsyn_cli.template.making import Loader
from hsyn_cli.template.rounds import field_of
from hsyn_cli.template.run import Progress, Run
from hsyn_cli.template.stages import SHIFT, Stage
from hsyn_cli.template.subjects import Subject
from hsyn_cli.tools.jacobian import jacobian

SUBJECTS, ENTRY = "subjects", "subject.json"
FILES = {
    "forward_field": "forward_field.nii.gz",
    "inverse_field": "inverse_field.nii.gz",
    "affine": "affine.mat",
    "warped": "warped.nii.gz",
    "log_jacobian": "log_jacobian.nii.gz",
}
FIT = 4  # steps that fit both fields to each other, as in the presets


@dataclass(frozen=True)
class Finished:
    """The template, and the entry of each subject.

    Attributes:
        left_mm: norm of the mean displacement in the fields as written, averaged over the mask.
    """

    means: Means
    entries: list[dict[str, Any]]
    left_mm: float


def finish(run: Run, last: Stage, before: Stage, key: str, step: Progress) -> Finished:
    """Write the files of all subjects that have not been, and average through their fields.

    `last`: the last round, with its pairs. `before`: the stage that they were registered to.
    """
    count, loaded = len(run.subjects), Loader()
    shift = None
    for k, subject in enumerate(run.subjects):
        step("fields", 0.7 * k / count)
        if _entry(run, subject, key) is None:
            if shift is None:
                shift = shape.Shift.of(read_field(last.folder / SHIFT, "shift").image)
            _write(run, subject, last, shift, key, loaded)
    sums, after = Average(last.grid), shape.MeanShape(last.grid, last.mask)
    fields: list[dict[str, Any]] = []
    for k, subject in enumerate(run.subjects):
        step("averaging", 0.7 + 0.3 * k / count)
        field = read_field(_place(run, subject) / FILES["forward_field"], "forward field").image
        lengths = after.add(from_image(field))
        sums.add(loaded(subject), as_transform(field))
        entry = dict(_entry(run, subject, key) or {})
        entry["displacement_mm"] = {"mean": float(lengths.mean()), "max": float(lengths.max())}
        fields.append(entry)
    means = sums.means()
    return Finished(means, fields, float(shape.within(after.mean(), means.mask).mean()))


def _place(run: Run, subject: Subject) -> Path:
    return run.out / SUBJECTS / subject.id


def _entry(run: Run, subject: Subject, key: str) -> Mapping[str, Any] | None:
    """The entry of a subject whose files are there and have the key."""
    return entry_of(_place(run, subject), ENTRY, FILES, key)


def entry_of(
    place: Path, name: str, wanted: Mapping[str, str], key: str
) -> Mapping[str, Any] | None:
    """The JSON file `name` in a folder if it has this key and all wanted files are there."""
    try:
        entry: dict[str, Any] = json.loads((place / name).read_text(encoding="utf-8"))
        stands = entry["key"] == key and all((place / file).is_file() for file in wanted.values())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return entry if stands else None


def _write(
    run: Run, subject: Subject, last: Stage, shift: shape.Shift, key: str, loaded: Loader
) -> None:
    """Write the files of a subject together. Raises OutputError."""
    place, grid, own = _place(run, subject), last.grid, loaded(subject)
    affine = last.map(subject.id)
    back = from_image(field_of(last.folder, subject, "inverse_field"))
    totals = Totals(
        shift.forward(from_image(field_of(last.folder, subject, "forward_field"))),
        shift.inverse(back, own.grid),
        grid, own.grid, grid, affine,
    )  # fmt: skip
    del back
    settled = totals.settle((last.mask, own.content), FIT)
    linear, change = measure_change(totals, last.mask)
    forward, inverse = (
        raised(compact_field(field, None, rounded=True)[0]) for field in total_images(totals)
    )
    moved = averages.warped(own.channels[0], as_transform(forward), grid)
    alike = averages.correlation(moved, last.values(), last.mask)
    moved[~np.isfinite(moved)] = own.channels[0].outside
    entry = {
        "id": subject.id,
        "key": key,
        "linear": asdict(linear),
        "log_det_mean": change.log_det_mean,
        "log_det_sd": change.log_det_sd,
        "correlation": alike,
        **_told(settled),
    }
    paths = {name: place / file for name, file in FILES.items()}
    with atomic.claim([*paths.values(), place / ENTRY], force=True) as staging:
        write_image(forward, staging.path(paths["forward_field"]))
        write_image(inverse, staging.path(paths["inverse_field"]))
        write_transform(affine_from(*affine), staging.path(paths["affine"]), grid.dimension)
        image, _ = compact_image(averages.to_image(moved, grid))
        write_image(image, staging.path(paths["warped"]))
        write_image(jacobian(forward, log=True).image, staging.path(paths["log_jacobian"]))
        atomic.write_text(staging.path(place / ENTRY), dump(entry))
        staging.commit()


def _told(settled: Settled) -> dict[str, Any]:
    (folding, inverse_folding), (there, back) = settled
    return {
        "folding": asdict(folding),
        "inverse_folding": asdict(inverse_folding),
        "inverse_error_template": asdict(there),
        "inverse_error_subject": asdict(back),
    }
