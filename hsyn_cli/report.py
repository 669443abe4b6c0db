"""The facts of a run as plain data (`assemble`), as JSON (`to_json`) and as a short table (`render`)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli import __version__
from hsyn_cli.errors import FoldingError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Folding:
    """Where a total field folds: determinant of p -> p + d(p) <= 0.

    `voxels` and `percent` by central differences; `corner_voxels` by the stricter rule that any of the eight
    corner determinants of a voxel is <= 0. `min_det` is the smallest central one, at `min_det_at_mm` (LPS).
    """

    voxels: int
    percent: float
    corner_voxels: int
    min_det: float
    min_det_at_mm: tuple[float, float, float]


@dataclass(frozen=True)
class ErrorStats:
    """Distances in mm."""

    mean_mm: float
    p99_mm: float
    max_mm: float


@dataclass(frozen=True)
class Similarity:
    """How alike moving and fixed are by one `measure`: `before` anything, after the `affine`, at the end."""

    measure: str
    before: float
    affine: float
    after: float


@dataclass(frozen=True)
class Weights:
    """The checkpoint used; `verified`: its hash is the one of a manifest."""

    name: str
    sha256: str
    verified: bool


@dataclass(frozen=True)
class Facts:
    """What the pipeline measured. `seconds` are per step, in the order they ran.

    Inverse errors: |inverse(forward(p)) - p| over the fixed image's foreground, and |forward(inverse(q)) - q|
    over the moving image's.
    """

    folding: Folding
    inverse_folding: Folding
    inverse_error_fixed: ErrorStats
    inverse_error_moving: ErrorStats
    similarity: Similarity
    preset: str
    affine: str
    checkpoint: Weights
    device: str
    threads: int
    seed: int
    seconds: Mapping[str, float]
    shown: Mapping[str, str] = field(
        default_factory=dict
    )  # what each image was taken for, where the weights are ours
    folded_before_repair_percent: float = 0.0  # of the half-way fields' voxels, by the stricter corner rule
    warnings: tuple[str, ...] = ()

    @property
    def folded_percent(self) -> float:
        """The larger of the percentages of the two fields; what --max-folding limits."""
        return max(self.folding.percent, self.inverse_folding.percent)


@dataclass(frozen=True)
class Source:
    """An input file."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """Everything report.json holds. `apply`: lines to paste that apply the result elsewhere."""

    facts: Facts
    inputs: Mapping[str, Source]
    outputs: Mapping[str, str]
    warnings: tuple[str, ...]
    apply: Mapping[str, str]
    seconds_total: float
    peak_memory_mb: float | None
    versions: Mapping[str, str]
    schema_version: int = field(default=SCHEMA_VERSION)


def assemble(
    facts: Facts,
    *,
    inputs: Mapping[str, Source],
    outputs: Mapping[str, Path],
    warnings: tuple[str, ...] = (),
    seconds_total: float,
    peak_memory_mb: float | None = None,
) -> Report:
    """Put a run's facts together. `inputs` needs "moving" and "fixed", `outputs` is `outputs.targets`."""
    return Report(
        facts=facts,
        inputs=inputs,
        outputs={name: str(path) for name, path in outputs.items()},
        warnings=(*warnings, *facts.warnings),
        apply=apply_lines(inputs["moving"].path, inputs["fixed"].path, outputs),
        seconds_total=seconds_total,
        peak_memory_mb=peak_memory_mb,
        versions=versions(),
    )


def apply_lines(moving: str, fixed: str, outputs: Mapping[str, Path]) -> dict[str, str]:
    """Lines that warp the moving image onto the fixed one: ANTs, SimpleITK (shell), Slicer (its console).

    Absolute paths, so that they can be pasted anywhere.
    """
    m, f, d = (str(Path(p).absolute()) for p in (moving, fixed, outputs["forward_field"]))
    chain = f"-t {shlex.quote(d)}"
    if "ants_warp" in outputs:
        ants = (str(outputs[name].absolute()) for name in ("ants_warp", "ants_affine"))
        chain = " ".join(f"-t {shlex.quote(path)}" for path in ants)
    program = (
        "import SimpleITK as s; "
        f"t = s.DisplacementFieldTransform(s.ReadImage({d!r}, s.sitkVectorFloat64)); "
        f"s.WriteImage(s.Resample(s.ReadImage({m!r}), s.ReadImage({f!r}), t), 'moved.nii.gz')"
    )
    return {
        "antsApplyTransforms": (
            f"antsApplyTransforms -d 3 -i {shlex.quote(m)} -r {shlex.quote(f)} {chain} -o moved.nii.gz"
        ),
        "SimpleITK": f"python -c {shlex.quote(program)}",
        "Slicer": (
            f"slicer.util.loadVolume({m!r}).SetAndObserveTransformNodeID("
            f"slicer.util.loadTransform({d!r}).GetID())"
        ),
    }


def versions() -> dict[str, str]:
    """Of hsyn, Python and the two libraries that decide the numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "SimpleITK", "numpy")}
    return {"hsyn": __version__, "python": platform.python_version(), **libraries}


def peak_memory_mb() -> float | None:
    """The most memory this process held so far, in MB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def to_dict(report: Report) -> dict[str, Any]:
    """JSON-ready; NaN and infinity become None, which JSON has and they have not."""
    plain = dataclasses.asdict(report)
    facts = plain.pop("facts")
    facts.pop("warnings")
    plain = {"schema_version": plain.pop("schema_version"), **facts, **plain}
    result: dict[str, Any] = finite(plain)
    return result


def keys() -> set[str]:
    """The names at the top of report.json."""
    names = {f.name for kind in (Facts, Report) for f in dataclasses.fields(kind)}
    return names - {"facts"}


def to_json(report: Report) -> str:
    return dump(to_dict(report))


def record(plain: Mapping[str, Any], warnings: Sequence[str] = ()) -> str:
    """What a command did, as its --json prints it: between the schema's version, warnings and versions."""
    head = {"schema_version": SCHEMA_VERSION}
    return dump({**head, **plain, "warnings": list(warnings), "versions": versions()})


def dump(plain: Any) -> str:
    """Plain data as JSON text."""
    return json.dumps(finite(plain), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def verdict(fold: Folding, *, max_folding: float | None = None) -> Text:
    """How much folds, green where nothing does and red beyond `max_folding` percent."""
    from rich.text import Text

    amount = "none" if fold.voxels == 0 else f"{fold.voxels} voxels ({fold.percent:.2g} %)"
    style = "green" if fold.voxels == 0 else "yellow" if fold.percent <= (max_folding or 0.0) else "red"
    return Text(f"{amount}; by the stricter corner rule {fold.corner_voxels}", style)


def least_determinant(fold: Folding, of: str = "") -> str:
    """The smallest determinant and where it is; `of`: the field's name."""
    at = ", ".join(f"{v:.1f}" for v in fold.min_det_at_mm)
    return f"{fold.min_det:.3f}, {of + ', ' if of else ''}at ({at}) mm LPS"


def check_folding(percent: float, limit: float | None, hint: str) -> None:
    """Raise FoldingError if more than `limit` percent of the voxels fold."""
    if limit is not None and percent > limit:
        text = f"{percent:.3g} % of the voxels fold, more than the {limit:g} % allowed"
        raise FoldingError(text, hint)


def render(report: Report, *, max_folding: float | None = None) -> RenderableType:
    """A table of about a dozen lines, right at 80 columns. `max_folding`: percent allowed, else red."""
    from rich.table import Table
    from rich.text import Text

    facts = report.facts
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fold in (("forward", facts.folding), ("inverse", facts.inverse_folding)):
        table.add_row(f"folding, {name}", verdict(fold, max_folding=max_folding))
    table.add_row("smallest determinant", Text(least_determinant(facts.folding, "forward")))
    for name, error in (("fixed", facts.inverse_error_fixed), ("moving", facts.inverse_error_moving)):
        numbers = f"mean {error.mean_mm:.4f}, 99 % below {error.p99_mm:.3f}, max {error.max_mm:.3f} mm"
        table.add_row(f"inverse error, {name}", Text(numbers))
    alike = facts.similarity
    steps = f"before {alike.before:.3f}, affine {alike.affine:.3f}, after {alike.after:.3f}"
    table.add_row(f"similarity, {alike.measure}", Text(steps))
    table.add_row("time", Text(f"{report.seconds_total:.1f} s; longest: {_longest(facts.seconds)}"))
    memory = "" if report.peak_memory_mb is None else f", peak memory {report.peak_memory_mb / 1000:.1f} GB"
    threads = "1 thread" if facts.threads == 1 else f"{facts.threads} threads"
    table.add_row("machine", Text(f"{facts.device}, {threads}, seed {facts.seed}{memory}"))
    if facts.shown:
        kinds = ", ".join(f"{role} {kind}" for role, kind in facts.shown.items())
        table.add_row("taken for", Text(kinds))
    unverified = "" if facts.checkpoint.verified else ", not in a manifest"
    weights = f"{facts.checkpoint.name} ({facts.checkpoint.sha256[:12]}{unverified})"
    table.add_row("preset, weights", Text(f"{facts.preset}, {weights}"))
    for warning in report.warnings:
        table.add_row(Text("warning", "yellow"), Text(warning, "yellow"))
    if "report" in report.outputs:
        table.add_row("written to", Text(str(Path(report.outputs["report"]).parent)))
        if "page" in report.outputs:
            table.add_row("look at it", Text(report.outputs["page"]))
        if "ants_warped" in report.outputs:
            prefix = report.outputs["ants_warped"].removesuffix("Warped.nii.gz")
            table.add_row("files for ANTs", Text(f"{prefix}*"))
        table.add_row("apply it elsewhere", Text('lines for ANTs, SimpleITK, Slicer: report.json, "apply"'))
    return table


def _longest(seconds: Mapping[str, float], shown: int = 2) -> str:
    """The steps that took longest, the longest first."""
    steps = sorted(seconds, key=lambda step: -seconds[step])[:shown]
    return ", ".join(f"{step} {seconds[step]:.1f}" for step in steps)


def finite(value: Any) -> Any:
    """Plain data with None where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
