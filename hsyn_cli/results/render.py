"""Render the report of a run as a short table for a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from hsyn_cli.fields.change import Linear
    from hsyn_cli.fields.folding import Folding
    from hsyn_cli.method.result import Facts
    from hsyn_cli.results.report import Report, Stored

from collections.abc import Iterator, Mapping
from pathlib import Path


def verdict(fold: Folding, *, max_folding: float | None = None) -> Text:
    """Text on the amount of folding: green for none, red above `max_folding` percent."""
    from rich.text import Text

    amount = "none" if fold.voxels == 0 else f"{_voxels(fold.voxels)} ({fold.percent:.2g} %)"
    style = (
        "green" if fold.voxels == 0 else "yellow" if fold.percent <= (max_folding or 0.0) else "red"
    )
    return Text(f"{amount}; by the stricter corner rule {_voxels(fold.corner_voxels)}", style)


def _voxels(count: int) -> str:
    return f"{count} voxel{'s' if count != 1 else ''}"


def least_determinant(fold: Folding, of: str = "") -> str:
    """Text on the smallest determinant and its position; `of`: the name of the field."""
    at = ", ".join(f"{v:.1f}" for v in fold.min_det_at_mm)
    return f"{fold.min_det:.3f}, {of + ', ' if of else ''}at ({at}) mm LPS"


def render(report: Report, *, max_folding: float | None = None) -> RenderableType:
    """Make a table of about a dozen lines that fits 80 columns.

    `max_folding`: percent of folding allowed; more is red.
    """
    from rich.table import Table
    from rich.text import Text

    facts = report.facts
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    linear = None if facts.transform == "deformable" else facts.linear
    for row in _of_alignment(linear) if linear else _of_fields(facts, max_folding):
        table.add_row(*row)
    for role, factor in facts.lesions.items():
        table.add_row(
            f"lesion, {role}", Text(f"the field leads it to {factor:.3f} times its volume")
        )
    alike = facts.similarity
    steps = f"before {alike.before:.3f}, affine {alike.affine:.3f}, after {alike.after:.3f}"
    table.add_row(f"similarity, {alike.measure}", Text(steps))
    table.add_row("time", Text(f"{report.seconds_total:.1f} s; longest: {_longest(facts.seconds)}"))
    memory = (
        ""
        if report.peak_memory_mb is None
        else f", peak memory {report.peak_memory_mb / 1000:.1f} GB"
    )
    threads = "1 thread" if facts.threads == 1 else f"{facts.threads} threads"
    table.add_row("machine", Text(f"{facts.device}, {threads}, seed {facts.seed}{memory}"))
    if facts.shown:
        kinds = ", ".join(f"{role} {kind}" for role, kind in facts.shown.items())
        table.add_row("recognised as", Text(kinds))
    unverified = "" if facts.checkpoint.verified else ", not in a manifest"
    known = f" ({facts.checkpoint.sha256[:12]}{unverified})" if facts.checkpoint.sha256 else ""
    weights = f"{facts.checkpoint.name}{known or ' (forces alone)'}"
    if facts.transform != "deformable":
        weights = f"{facts.transform} transform alone"
    smooth = "" if facts.smoothness == 1 else f", smoothness {facts.smoothness:g}"
    smooth += ", brains of heads" if facts.head == "brain" else ""
    table.add_row("preset, weights", Text(f"{facts.preset}{smooth}, {weights}"))
    for problem in facts.problems:
        table.add_row(Text("do not trust it", "red"), Text(problem, "red"))
    for warning in report.warnings:
        table.add_row(Text("warning", "yellow"), Text(warning, "yellow"))
    if report.stored.field_errors:
        table.add_row("fields on disk", Text(_stored(report.stored)))
    for name, files in _written(report.outputs):
        table.add_row(name, Text(files))
    if report.apply and "report" in report.outputs:
        table.add_row(
            "apply elsewhere", Text('commands for ANTs, SimpleITK, Slicer: report.json, "apply"')
        )
    return table


def _of_fields(facts: Facts, max_folding: float | None) -> Iterator[tuple[str, Text]]:
    """What the fields do wrong."""
    from rich.text import Text

    for name, fold in (("forward", facts.folding), ("inverse", facts.inverse_folding)):
        yield f"folding, {name}", verdict(fold, max_folding=max_folding)
    yield "smallest determinant", Text(least_determinant(facts.folding, "forward"))
    errors = (("fixed", facts.inverse_error_fixed), ("moving", facts.inverse_error_moving))
    for name, error in errors:
        parts = f"mean {error.mean_mm:.4f}, 99 % below {error.p99_mm:.3f}"
        yield f"inverse error, {name}", Text(f"{parts}, max {error.max_mm:.3f} mm")


def _of_alignment(found: Linear) -> Iterator[tuple[str, Text]]:
    """What an alignment does, instead: a linear map neither folds nor lacks its inverse."""
    from rich.text import Text

    shift = ", ".join(f"{v:.2f}" for v in found.translation_mm)
    yield "shift", Text(f"({shift}) mm LPS, in the middle of the fixed image's content")
    yield "rotation", Text(f"{found.rotation_degrees:.2f} degrees")
    if max(abs(scale - 1) for scale in found.scales) > 1e-6:
        scales = ", ".join(f"{v:.3f}" for v in found.scales)
        yield "scales", Text(f"{scales}; the largest shear {found.shear:.3f}")


def _written(outputs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What was written, and where."""
    if "report" in outputs:
        yield "written to", str(Path(outputs["report"]).parent)
        if "page" in outputs:
            yield "look at it", outputs["page"]
    if "ants_warped" in outputs:
        yield "files for ANTs", outputs["ants_warped"].removesuffix("Warped.nii.gz") + "*"
    if "ants_composite" in outputs:
        both = (outputs[f"ants_{name}composite"] for name in ("", "inverse_"))
        yield "composites", ", ".join(both)


def _stored(stored: Stored) -> str:
    """What was saved at the fields, and what it costs."""
    every = f"every {stored.field_spacing_mm:g} mm, " if stored.field_spacing_mm else ""
    errors = stored.field_errors.values()
    mean, most = max(error.mean_mm for error in errors), max(error.max_mm for error in errors)
    few = "rounded, " if stored.rounded else ""
    return f"{every}{few}off by {mean:.2g} mm on average, {most:.2g} at most"


def _longest(seconds: Mapping[str, float], count: int = 2) -> str:
    """The `count` longest steps, the longest first."""
    steps = sorted(seconds, key=lambda step: -seconds[step])[:count]
    return ", ".join(f"{step} {seconds[step]:.1f}" for step in steps)
