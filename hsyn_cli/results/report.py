"""The report of a run: put together by `assemble`, as plain data and as JSON."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.errors import FailedError, FoldingError
from hsyn_cli.io.plain import dump, finite
from hsyn_cli.results.record import SCHEMA_VERSION, versions

if TYPE_CHECKING:
    from hsyn_cli.fields.grids import ErrorStats
    from hsyn_cli.method.result import Facts

LATER = {
    "transform",
    "contrast",
    "information",
    "overlap",
    "problems",
    "lesions",
    "dimension",
    "channels",
    "stored",
    "linear",
    "change",
    "device_memory",
    "head",
}  # new in a schema


@dataclass(frozen=True)
class Source:
    """An input file. `inverse`: of the transform in it, the inverse was taken."""

    path: str
    sha256: str
    inverse: bool = False


@dataclass(frozen=True)
class Stored:
    """How fields and images were written: see `run_folder.Wanted`.

    Attributes:
        field_errors: {output: how far a field is off by that, at all voxels of its image}.
        largest_error_percent: {output: how far an image is off by it at most, in % of its range}.
    """

    field_spacing_mm: float | None = None
    rounded: bool = False
    field_errors: Mapping[str, ErrorStats] = field(default_factory=dict)
    largest_error_percent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The content of report.json. `apply`: commands to paste that apply the result elsewhere."""

    facts: Facts
    inputs: Mapping[str, Source]
    outputs: Mapping[str, str]
    warnings: tuple[str, ...]
    apply: Mapping[str, str]
    seconds_total: float
    peak_memory_mb: float | None
    versions: Mapping[str, str]
    schema_version: int = field(default=SCHEMA_VERSION)
    stored: Stored = field(default=Stored())


def assemble(
    facts: Facts,
    *,
    inputs: Mapping[str, Source],
    outputs: Mapping[str, Path],
    warnings: tuple[str, ...] = (),
    seconds_total: float,
    peak_memory_mb: float | None = None,
) -> Report:
    """Make the report. `inputs` needs "moving" and "fixed"; `outputs`: see `run_folder.targets`."""
    return Report(
        facts=facts,
        inputs=inputs,
        outputs={name: str(path) for name, path in outputs.items()},
        warnings=(*warnings, *facts.warnings),
        apply=apply_lines(inputs["moving"].path, inputs["fixed"].path, outputs, facts.dimension),
        seconds_total=seconds_total,
        peak_memory_mb=peak_memory_mb,
        versions=versions(),
    )


def apply_lines(
    moving: str, fixed: str, outputs: Mapping[str, Path], dimension: int = 3
) -> dict[str, str]:
    """Commands that warp the moving image onto the fixed one; `dimension`: of both.

    The commands for ANTs and SimpleITK go into a shell, that for Slicer into its console. Absolute
    paths make them work in any folder. There are none without a forward field.
    """
    m, f = (str(Path(p).absolute()) for p in (moving, fixed))
    of_ants = [name for name in ("ants_warp", "ants_affine") if name in outputs]
    names = of_ants or [n for n in ("forward_field", "ants_composite") if n in outputs][:1]
    if not names:
        return {}
    chain = " ".join(f"-t {shlex.quote(str(outputs[name].absolute()))}" for name in names)
    ants = (
        f"antsApplyTransforms -d {dimension} -i {shlex.quote(m)} -r {shlex.quote(f)} {chain} "
        "-o moved.nii.gz"
    )
    if "forward_field" not in outputs:
        return {"antsApplyTransforms": ants}
    d = str(outputs["forward_field"].absolute())
    program = (
        "import SimpleITK as s; "
        f"t = s.DisplacementFieldTransform(s.ReadImage({d!r}, s.sitkVectorFloat64)); "
        f"s.WriteImage(s.Resample(s.ReadImage({m!r}), s.ReadImage({f!r}), t), 'moved.nii.gz')"
    )
    return {
        "antsApplyTransforms": ants,
        "SimpleITK": f"python -c {shlex.quote(program)}",
        "Slicer": (
            f"slicer.util.loadVolume({m!r}).SetAndObserveTransformNodeID("
            f"slicer.util.loadTransform({d!r}).GetID())"
        ),
    }


def to_dict(report: Report) -> dict[str, Any]:
    """Convert to JSON-ready data. NaN and infinity, which JSON lacks, become None."""
    plain = dataclasses.asdict(report)
    facts = plain.pop("facts")
    facts.pop("warnings")
    for source in plain["inputs"].values():
        if not source["inverse"]:
            del source["inverse"]
    plain = {"schema_version": plain.pop("schema_version"), **facts, **plain}
    result: dict[str, Any] = finite(plain)
    return result


def keys() -> set[str]:
    """The top-level keys that report.json always had."""
    from hsyn_cli.method.result import Facts

    rows = [f for kind in (Facts, Report) for f in dataclasses.fields(kind)]
    return {f.name for f in rows if f.name not in LATER} - {"facts"}


def to_json(report: Report) -> str:
    """Convert to the text of report.json."""
    return dump(to_dict(report))


def check_folding(percent: float, limit: float | None, hint: str) -> None:
    """Raise FoldingError if more than `limit` percent of the voxels fold."""
    if limit is not None and percent > limit:
        text = f"{percent:.3g} % of the voxels fold, more than the {limit:g} % allowed"
        raise FoldingError(text, hint)


def check_problems(problems: Sequence[str], hint: str) -> None:
    """Raise FailedError if there are reasons not to trust the result."""
    if problems:
        raise FailedError(f"do not trust this result: {'; '.join(problems)}", hint)
