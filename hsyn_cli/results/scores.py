"""The results of an evaluation as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hsyn_cli.results.record import record
from hsyn_cli.results.render import least_determinant, verdict
from hsyn_cli.tools.evaluate import Evaluation
from hsyn_cli.tools.overlap import LabelScore

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LABEL_COLUMNS = 3  # labels per line on a terminal of 80 columns


def to_json(results: Mapping[str, Evaluation], warnings: Sequence[str] = ()) -> str:
    """Make JSON with an entry per pair, each with its name."""
    return record(
        {"pairs": [{"name": name, **result.to_dict()} for name, result in results.items()]},
        warnings,
    )


def to_csv(results: Mapping[str, Evaluation]) -> str:
    """Make CSV with one row per pair and label, or one row for a pair without labels.

    Every row of a pair repeats the measures of the whole pair.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    label_names = tuple(field.name for field in dataclasses.fields(LabelScore))
    for k, (name, result) in enumerate(results.items()):
        whole = _whole(result)
        if k == 0:
            writer.writerow(("pair", *label_names, *whole))
        rows = [dataclasses.astuple(score) for score in result.labels or ()]
        for row in rows or [("",) * len(label_names)]:
            writer.writerow([_cell(v) for v in (name, *row, *whole.values())])
    return stream.getvalue()


def render(results: Mapping[str, Evaluation]) -> RenderableType:
    """Render one pair as figures and labels, or several as a row each with a row of means."""
    if len(results) > 1:
        return _many(results)
    from rich.console import Group

    (result,) = results.values()
    return Group(_figures(result), *([_labels(result.labels)] if result.labels else []))


def _figures(result: Evaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if result.labels:
        worst = min(result.labels, key=lambda score: score.dice)
        table.add_row(
            "Dice, mean", f"{result.dice:.4f}; least {worst.dice:.3f}, label {worst.label}"
        )
        if result.hd95_mm is not None:
            table.add_row("HD95, mean", f"{result.hd95_mm:.2f} mm")
    if result.landmarks is not None:
        for name in ("before", "after"):
            error = getattr(result.landmarks, name)
            numbers = (
                f"mean {error.mean_mm:.2f}, median {error.median_mm:.2f}, max {error.max_mm:.2f} mm"
            )
            table.add_row(f"landmarks, {name}", numbers)
        if result.landmarks.outside:
            lost = (
                f"{result.landmarks.outside} of {result.landmarks.count} lie off the field's grid"
            )
            table.add_row("", Text(lost, "yellow"))
    table.add_row("folding, forward", verdict(result.folding))
    if result.inverse_folding is not None:
        table.add_row("folding, inverse", verdict(result.inverse_folding))
    table.add_row("smallest determinant", least_determinant(result.folding, "forward"))
    table.add_row("SDlogJ", f"{result.sdlogj:.4f}")
    errors = {"fixed": result.inverse_error, "moving": result.inverse_error_back}
    for role, e in errors.items():
        if e is not None:
            numbers = f"mean {e.mean_mm:.4f}, 99 % below {e.p99_mm:.3f}, max {e.max_mm:.3f} mm"
            table.add_row(f"inverse error, {role}", numbers)
    return table


def _labels(scores: Sequence[LabelScore]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for _ in range(min(LABEL_COLUMNS, len(scores))):
        for heading in ("label", "Dice", "HD95 mm"):
            table.add_column(heading, justify="right")
    lines = -(-len(scores) // LABEL_COLUMNS)
    for k in range(lines):
        cells = [(str(s.label), f"{s.dice:.3f}", f"{s.hd95_mm:.2f}") for s in scores[k::lines]]
        table.add_row(*(text for cell in cells for text in cell))
    return table


def _many(results: Mapping[str, Evaluation]) -> Table:
    from rich.table import Table

    titles = {
        "mean_dice": "Dice",
        "mean_hd95_mm": "HD95",
        "tre_after_mean_mm": "TRE",
        "folded_voxels": "folds",
        "sdlogj": "SDlogJ",
        "inverse_error_mean_mm": "inverse",
    }
    rows = {name: _whole(result) for name, result in results.items()}
    columns = [key for key in titles if any(row[key] is not None for row in rows.values())]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("pair", overflow="fold")
    for key in columns:
        table.add_column(titles[key], justify="right")
    known = {key: [row[key] for row in rows.values() if row[key] is not None] for key in columns}
    rows["mean"] = {key: float(np.mean(values)) for key, values in known.items()}
    for name, row in rows.items():
        table.add_row(name, *(_short(row[key]) for key in columns))
    table.caption = "HD95, TRE (landmarks, after) and inverse error are means in mm"
    return table


def _whole(result: Evaluation) -> dict[str, Any]:
    """The measures of a whole pair as a flat dictionary; None for those not measured."""
    points, back = result.landmarks, result.inverse_folding
    errors = {
        "inverse_error": result.inverse_error,
        "inverse_error_back": result.inverse_error_back,
    }
    flat: dict[str, Any] = {
        "mean_dice": result.dice,
        "mean_hd95_mm": result.hd95_mm,
        "folded_voxels": result.folding.voxels,
        "folded_percent": result.folding.percent,
        "corner_voxels": result.folding.corner_voxels,
        "min_det": result.folding.min_det,
        "inverse_folded_voxels": back and back.voxels,
        "sdlogj": result.sdlogj,
    }
    for key, error in errors.items():
        for name in ("mean_mm", "p99_mm", "max_mm"):
            flat[f"{key}_{name}"] = error and getattr(error, name)
    for when in ("before", "after"):
        for name in ("mean_mm", "median_mm", "max_mm"):
            flat[f"tre_{when}_{name}"] = points and getattr(getattr(points, when), name)
    return flat | {"landmarks_outside": points and points.outside}


def _cell(value: Any) -> Any:
    return "" if value is None or value != value else value  # NaN differs from itself


def _short(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
