"""Pairs of files to evaluate, and their results as a table, as CSV and as JSON."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli import files, images
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.evaluation import Evaluation, Progress, evaluate
from hsyn_cli.outputs import FOLDER_FILES, read_report
from hsyn_cli.overlap import LabelScore
from hsyn_cli.report import least_determinant, record, verdict
from hsyn_cli.space import Array

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LANDMARKS = ("fx", "fy", "fz", "mx", "my", "mz")  # columns, mm, LPS
LABEL_COLUMNS = 3  # labels side by side on a terminal of 80 columns


@dataclass(frozen=True)
class Pair:
    """The files of one pair, `forward` on the fixed grid, `inverse` on the moving one."""

    name: str
    forward: Path
    fixed: Path
    moving: Path | None = None
    inverse: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    landmarks: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Of all its files."""
        return [getattr(self, name) for name in FILES if getattr(self, name) is not None]


FILES = tuple(field.name for field in dataclasses.fields(Pair) if field.name != "name")


def pair_of(given: Mapping[str, Path], folder: Path | None = None, name: str = "") -> Pair:
    """A pair from its files by the names in `FILES`; what is not given is taken from an output folder of `hsyn register`.

    Raises UsageError if a file is missing, InputError if the folder has no report.json to read.
    """
    paths = {**(_of_folder(folder, "fixed_labels" in given) if folder else {}), **given}
    if "forward" not in paths or "fixed" not in paths:
        raise UsageError(
            f"{name + ': ' if name else ''}nothing to evaluate without a forward field and its fixed image",
            "give --forward and --fixed, the output folder of hsyn register, or --pairs",
        )
    if ("fixed_labels" in paths) != ("moving_labels" in paths):
        raise UsageError(
            f"{name + ': ' if name else ''}labels of one image alone have nothing to be compared with",
            "give both --fixed-labels and --moving-labels",
        )
    return Pair(name=name or str(folder or paths["forward"]), **paths)


def pairs_of(table: Path) -> list[Pair]:
    """One pair per row of a CSV; columns as `FILES`, empty ones left out, and name; paths are relative to it.

    Raises InputError, UsageError.
    """
    rows = files.read_table(table, "pairs")
    if not rows:
        raise InputError(f"pairs {table}: no rows", f"columns: name, {', '.join(FILES)}")
    unknown = [name for name in rows[0] if name not in (*FILES, "name")]
    if unknown:
        raise InputError(
            f"pairs {table}: unknown column {', '.join(unknown)}", f"columns: name, {', '.join(FILES)}"
        )
    names = [row.get("name") or f"row {k + 1}" for k, row in enumerate(rows)]
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise InputError(f"pairs {table}: two rows are named {twice[0]}", "give each a name of its own")
    return [
        pair_of({key: table.parent / row[key] for key in FILES if row.get(key)}, name=name)
        for name, row in zip(names, rows, strict=True)
    ]


def evaluate_pair(
    pair: Pair, ignore: Collection[int] = (), progress: Progress = lambda step, fraction: None
) -> Evaluation:
    """Read the files of a pair and `evaluate` them. Raises InputError, GeometryError."""
    progress("reading", 0.0)
    fixed = images.read_image(pair.fixed, "fixed image").image
    moving = images.read_image(pair.moving, "moving image").image if pair.moving else None
    labels: tuple[sitk.Image | None, sitk.Image | None] = (None, None)
    if pair.fixed_labels and pair.moving_labels:
        labels = (
            images.read_labels(pair.fixed_labels, fixed, "fixed labels").image,
            images.read_labels(pair.moving_labels, moving, "moving labels").image,
        )
    return evaluate(
        images.read_field(pair.forward, "forward field").image,
        fixed,
        inverse=images.read_field(pair.inverse, "inverse field").image if pair.inverse else None,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        landmarks=read_landmarks(pair.landmarks) if pair.landmarks else None,
        fixed_mask=images.read_mask(pair.fixed_mask, fixed, "fixed mask").image if pair.fixed_mask else None,
        ignore=ignore,
        progress=lambda step, part: progress(step, 0.1 + 0.9 * part),
    )


def header_warnings(pair: Pair) -> tuple[str, ...]:
    """What the headers of its images and fields say that should be known. Raises as `images.read_grid`."""
    names = [name for name in FILES if name != "landmarks" and getattr(pair, name) is not None]
    return tuple(
        line for name in names for line in images.header_warnings(getattr(pair, name), name.replace("_", " "))
    )


def read_landmarks(path: Path) -> Array:
    """(N, 6) from the columns fx, fy, fz, mx, my, mz of a CSV, mm, LPS. Raises InputError."""
    rows = files.read_table(path, "landmarks")
    hint = f"the columns {', '.join(LANDMARKS)} are needed, in mm, LPS"
    if not rows:
        raise InputError(f"landmarks {path}: no rows", hint)
    missing = [name for name in LANDMARKS if name not in rows[0]]
    if missing:
        raise InputError(f"landmarks {path}: no column {', '.join(missing)}", hint)
    values = np.full((len(rows), 6), np.nan)
    for k, row in enumerate(rows):
        for column, name in enumerate(LANDMARKS):
            with contextlib.suppress(ValueError):
                values[k, column] = float(row[name])
            if not np.isfinite(values[k, column]):
                raise InputError(f"landmarks {path}, row {k + 1}: {name} is {row[name]!r}, no number", hint)
    return values


def to_json(results: Mapping[str, Evaluation], warnings: Sequence[str] = ()) -> str:
    """Pair by pair, under its name."""
    return record(
        {"pairs": [{"name": name, **result.to_dict()} for name, result in results.items()]}, warnings
    )


def to_csv(results: Mapping[str, Evaluation]) -> str:
    """One row per pair and label, one for a pair without labels; what concerns the whole pair stands in each of its rows."""
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
    """One pair: its figures, then its labels side by side. Several: a row each, and their mean."""
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
        table.add_row("Dice, mean", f"{result.dice:.4f}; least {worst.dice:.3f}, label {worst.label}")
        if result.hd95_mm is not None:
            table.add_row("HD95, mean", f"{result.hd95_mm:.2f} mm")
    if result.landmarks is not None:
        for name in ("before", "after"):
            error = getattr(result.landmarks, name)
            numbers = f"mean {error.mean_mm:.2f}, median {error.median_mm:.2f}, max {error.max_mm:.2f} mm"
            table.add_row(f"landmarks, {name}", numbers)
        if result.landmarks.outside:
            lost = f"{result.landmarks.outside} of {result.landmarks.count} lie off the field's grid"
            table.add_row("", Text(lost, "yellow"))
    table.add_row("folding, forward", verdict(result.folding))
    if result.inverse_folding is not None:
        table.add_row("folding, inverse", verdict(result.inverse_folding))
    table.add_row("smallest determinant", least_determinant(result.folding, "forward"))
    table.add_row("SDlogJ", f"{result.sdlogj:.4f}")
    if result.inverse_error is not None:
        e = result.inverse_error
        numbers = f"mean {e.mean_mm:.4f}, 99 % below {e.p99_mm:.3f}, max {e.max_mm:.3f} mm"
        table.add_row("inverse error, fixed", numbers)
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

    columns = {"mean_dice": "Dice", "mean_hd95_mm": "HD95", "tre_after_mean_mm": "TRE", "folded_voxels": "folds",
               "sdlogj": "SDlogJ", "inverse_error_mean_mm": "inverse"}  # fmt: skip
    rows = {name: _whole(result) for name, result in results.items()}
    shown = [key for key in columns if any(row[key] is not None for row in rows.values())]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("pair", overflow="fold")
    for key in shown:
        table.add_column(columns[key], justify="right")
    found = {key: [row[key] for row in rows.values() if row[key] is not None] for key in shown}
    rows["mean"] = {key: float(np.mean(values)) for key, values in found.items()}
    for name, row in rows.items():
        table.add_row(name, *(_short(row[key]) for key in shown))
    table.caption = "HD95, TRE (landmarks, after) and inverse error are means in mm"
    return table


def _whole(result: Evaluation) -> dict[str, Any]:
    """What concerns a whole pair, flat; None where it was not measured."""
    points, error, back = result.landmarks, result.inverse_error, result.inverse_folding
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
    for name in ("mean_mm", "p99_mm", "max_mm"):
        flat[f"inverse_error_{name}"] = error and getattr(error, name)
    for when in ("before", "after"):
        for name in ("mean_mm", "median_mm", "max_mm"):
            flat[f"tre_{when}_{name}"] = points and getattr(getattr(points, when), name)
    return flat | {"landmarks_outside": points and points.outside}


def _cell(value: Any) -> Any:
    return "" if value is None or value != value else value  # NaN differs from itself


def _short(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _of_folder(folder: Path, with_labels: bool) -> dict[str, Path]:
    """What an output folder of `hsyn register` knows of its pair."""
    inputs = read_report(folder)["inputs"]
    wanted = ("fixed", "moving", "moving_labels") if with_labels else ("fixed", "moving")
    paths = {name: Path(inputs[name]["path"]) for name in wanted if name in inputs}
    return {**paths, **{name: folder / FOLDER_FILES[f"{name}_field"] for name in ("forward", "inverse")}}
