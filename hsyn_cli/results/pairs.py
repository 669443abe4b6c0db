"""Evaluate pairs of files, given by options, an output folder or a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, files, images
from hsyn_cli.results import scores
from hsyn_cli.results.run_folder import FOLDER_FILES, read_report
from hsyn_cli.space import Grid
from hsyn_cli.tools.evaluate import Evaluation, Progress, evaluate_images, read_landmarks


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair: `forward` on the fixed grid, `inverse` on the moving grid."""

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
        """The paths of all its files."""
        return [getattr(self, name) for name in FILES if getattr(self, name) is not None]


FILES = tuple(field.name for field in dataclasses.fields(PairFiles) if field.name != "name")


def pair_of(given: Mapping[str, Path], folder: Path | None = None, name: str = "") -> PairFiles:
    """Make a pair of files with the names in `FILES`.

    `folder`: an output folder of `hsyn register` that provides the other files. Raises UsageError
    if a necessary file is missing, InputError if the report.json of the folder cannot be read.
    """
    prefix = f"{name}: " if name else ""
    paths = {**(_of_folder(folder, "fixed_labels" in given) if folder else {}), **given}
    if "forward" not in paths or "fixed" not in paths:
        raise UsageError(
            f"{prefix}nothing to evaluate without a forward field and its fixed image",
            "give --forward and --fixed, an output folder of `hsyn register`, or --pairs",
        )
    if ("fixed_labels" in paths) != ("moving_labels" in paths):
        raise UsageError(
            f"{prefix}labels of one image alone cannot be compared",
            "give both --fixed-labels and --moving-labels",
        )
    return PairFiles(name=name or str(folder or paths["forward"]), **paths)


def pairs_of(table: Path) -> list[PairFiles]:
    """Read one pair per row of a CSV.

    The columns are name and those of `FILES`; cells may be empty, and paths are relative to the
    CSV. Raises InputError, UsageError.
    """
    rows = files.read_table(table, "pairs")
    if not rows:
        raise InputError(f"pairs {table}: no rows", f"columns: name, {', '.join(FILES)}")
    unknown = [name for name in rows[0] if name not in (*FILES, "name")]
    if unknown:
        raise InputError(
            f"pairs {table}: unknown column {', '.join(unknown)}",
            f"columns: name, {', '.join(FILES)}",
        )
    names = [row.get("name") or f"row {k + 1}" for k, row in enumerate(rows)]
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise InputError(
            f"pairs {table}: two rows are named {twice[0]}", "give each row its own name"
        )
    return [
        pair_of({key: table.parent / row[key] for key in FILES if row.get(key)}, name=name)
        for name, row in zip(names, rows, strict=True)
    ]


def evaluate_pair(
    pair: PairFiles, ignore: Collection[int] = (), progress: Progress = lambda step, fraction: None
) -> Evaluation:
    """Read the files of a pair and evaluate them. Raises InputError, GeometryError."""
    progress("reading", 0.0)
    fixed = images.read_image(pair.fixed, "fixed image").image
    moving = images.read_image(pair.moving, "moving image").image if pair.moving else None
    labels: tuple[sitk.Image | None, sitk.Image | None] = (None, None)
    if pair.fixed_labels and pair.moving_labels:
        labels = (
            images.read_labels(pair.fixed_labels, fixed, "fixed labels").image,
            images.read_labels(pair.moving_labels, moving, "moving labels").image,
        )
    mask = None
    if pair.fixed_mask:
        mask = images.read_mask(pair.fixed_mask, fixed, "fixed mask").image
    forward = images.read_field(pair.forward, "forward field").image
    dimension = Grid.of(forward).dimension
    return evaluate_images(
        forward,
        fixed,
        inverse=images.read_field(pair.inverse, "inverse field").image if pair.inverse else None,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        landmarks=read_landmarks(pair.landmarks, dimension) if pair.landmarks else None,
        fixed_mask=mask,
        ignore=ignore,
        progress=lambda step, part: progress(step, 0.1 + 0.9 * part),
    )


def header_warnings(pair: PairFiles) -> tuple[str, ...]:
    """Warnings about the headers of its images and fields. Raises the errors of `read_grid`."""
    names = [name for name in FILES if name != "landmarks" and getattr(pair, name) is not None]
    return tuple(
        line
        for name in names
        for line in images.header_warnings(getattr(pair, name), name.replace("_", " "))
    )


def _of_folder(folder: Path, with_labels: bool) -> dict[str, Path]:
    """The files of the pair that an output folder of `hsyn register` names."""
    report = read_report(folder)
    inputs, outputs = report["inputs"], report["outputs"]
    wanted = ("fixed", "moving", "moving_labels") if with_labels else ("fixed", "moving")
    paths = {name: Path(inputs[name]["path"]) for name in wanted if name in inputs}
    return {
        **paths,
        **{
            name: folder / FOLDER_FILES[f"{name}_field"]
            for name in ("forward", "inverse")
            if f"{name}_field" in outputs
        },
    }


@dataclass(frozen=True)
class Scored:
    """The evaluation of each pair by name, and warnings about the headers."""

    results: dict[str, Evaluation]
    warnings: tuple[str, ...]


def evaluate_files(
    work: Sequence[PairFiles],
    *,
    table: Path | None = None,
    ignore: Collection[int] = (),
    csv_file: Path | None = None,
    json_file: Path | None = None,
    force: bool = False,
    progress: Progress = lambda step, fraction: None,
) -> Scored:
    """Evaluate pairs of files, and write the scores to the files given.

    `table`: the file that lists the pairs; no output may replace it. Raises InputError,
    GeometryError, OutputError.
    """
    targets = [path for path in (csv_file, json_file) if path is not None]
    inputs = [path for pair in work for path in pair.paths] + ([table] if table else [])
    with atomic.claim(targets, force=force, inputs=inputs) as staging:
        results = {}
        lines = (line for pair in work for line in header_warnings(pair))
        warnings = tuple(dict.fromkeys(lines))
        for k, pair in enumerate(work):
            results[pair.name] = evaluate_pair(pair, ignore, _share(progress, k, len(work)))
        if csv_file is not None:
            atomic.write_text(staging.path(csv_file), scores.to_csv(results))
        if json_file is not None:
            atomic.write_text(staging.path(json_file), scores.to_json(results, warnings))
        staging.commit()
    return Scored(results, warnings)


def _share(progress: Progress, done: int, count: int) -> Progress:
    """Progress of pair number `done` as a part of the whole."""
    head = f"{done + 1}/{count} " if count > 1 else ""
    return lambda step, part: progress(head + step, (done + part) / count)
