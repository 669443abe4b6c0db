"""Made-up cohorts: rows of ordinary pairs, and pairs that fail as real ones do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsyn_cli.cohort.jobs import STATUS, THUMBNAIL, Job
from hsyn_cli.cohort.measures import MEASURES
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.rows import Row
from hsyn_cli.cohort.status import SCHEMA_VERSION, Status
from hsyn_cli.results.register_files import Inputs

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(5, n),
    "sharp peak": lambda rng, n: rng.laplace(size=n) / 1.4,
    "two scanners": lambda rng, n: rng.normal(size=n) + 4 * (rng.random(n) < 0.3),
}
PLAIN = {  # middle and spread; what many registrations of brains give, in order of magnitude
    "similarity": (0.72, 0.03),
    "information": (0.41, 0.03),
    "overlap": (0.97, 0.006),
    "affine_scale_x": (1.0, 0.03),
    "affine_scale_y": (1.02, 0.03),
    "affine_scale_z": (1.01, 0.04),
    "log_det_mean": (0.02, 0.07),
}
SKEWED = {  # median and spread of the logarithm
    "rotation_degrees": (5.0, 0.5),
    "shear": (0.03, 0.4),
    "translation_mm": (14.0, 0.6),
    "inverse_error_fixed_mean_mm": (0.005, 0.2),
    "inverse_error_fixed_max_mm": (0.2, 0.4),
    "inverse_error_moving_mean_mm": (0.006, 0.2),
    "inverse_error_moving_max_mm": (0.25, 0.4),
    "log_det_sd": (0.22, 0.12),
    "displacement_max_mm": (9.0, 0.25),
    "seconds": (21.0, 0.1),
    "peak_memory_mb": (2900.0, 0.05),
}
PLANTED: list[Mapping[str, float]] = [
    {"affine_scale_y": 1.45},
    {"similarity": 0.35, "information": 0.12},
    {"folding_forward_percent": 1.3},
    {"rotation_degrees": 75.0, "overlap": 0.7},
    {"inverse_error_fixed_max_mm": 9.0, "inverse_error_moving_max_mm": 8.0},
]


def cohort(count: int, seed: int = 0, draw: Draw = DRAWS["normal"]) -> list[Row]:
    """Rows of done pairs of one kind."""
    rng = np.random.default_rng(seed)
    columns = {key: middle + wide * draw(rng, count) for key, (middle, wide) in PLAIN.items()}
    columns |= {key: mid * np.exp(wide * draw(rng, count)) for key, (mid, wide) in SKEWED.items()}
    for key in ("folding_forward_percent", "folding_inverse_percent"):
        columns[key] = np.where(rng.random(count) < 0.1, 0.002 * rng.random(count), 0.0)
    return [
        Row(
            f"sub-{k:04}", f"scans/sub-{k:04}.nii.gz", "template.nii.gz", f"pairs/sub-{k:04}",
            "done", 0, attempts=1, measure="local NCC",
            values={key: float(column[k]) for key, column in columns.items()},
            page=f"pairs/sub-{k:04}/report.html",
        )
        for k in range(count)
    ]  # fmt: skip


def changed(row: Row, values: Mapping[str, float]) -> Row:
    """The row with other values."""
    return dataclasses.replace(row, values={**row.values, **values})


def failed(row: Row, code: int = 3, trouble: str = "moving image: not a file") -> Row:
    """The row of a pair that came to nothing."""
    return dataclasses.replace(
        row,
        state="failed",
        exit_code=code,
        trouble=trouble,
        values={},
        page="",
        measure="",
        attempts=2,
    )


def plain(rows: Sequence[Row]) -> dict[str, About]:
    """That the last list has all of these pairs, and that none has a warning."""
    return {row.id: About() for row in rows}


def write_study(study: Path, rows: Sequence[Row], picture: bytes = b"") -> list[Job]:
    """The files of a study with these rows, and its jobs. `picture`: the thumbnail of each."""
    jobs = []
    (study / STATUS).mkdir(parents=True)
    for row in rows:
        job = Job(row.id, Inputs(Path(row.moving), Path(row.fixed)), row.folder)
        jobs.append(job)
        if row.state == "waiting":
            continue
        error, problems = ("", (row.trouble,)) if row.doubtful else (row.trouble, ())
        status = Status(
            row.id, "key", row.state, row.folder, row.attempts, exit_code=row.exit_code or 0,
            error=error, problems=problems,
        )  # fmt: skip
        plain = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(status)}
        job.status(study).write_text(json.dumps(plain), encoding="utf-8")
        if not row.values:
            continue
        folder = study / row.folder
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report_of(row)), encoding="utf-8")
        (folder / "report.html").write_text(f"<title>{row.id}</title>", encoding="utf-8")
        if picture:
            (folder / THUMBNAIL).write_bytes(picture)
    return jobs


def report_of(row: Row) -> dict[str, Any]:
    """A report.json with the values of a row."""
    report: dict[str, Any] = {"linear": {"scales": [1.0] * 3}, "lesions": dict(row.lesions)}
    for measure in MEASURES:
        if measure.key in row.values:
            *above, last = measure.at
            place: Any = report
            for step in above:
                place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
            place[last] = row.values[measure.key]
    report.setdefault("similarity", {})["measure"] = row.measure
    return report
