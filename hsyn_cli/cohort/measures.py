"""The measures of a pair that its cohort is compared by: where they stand, and what is too far."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Bad = Literal["low", "high", "both", "none"]


@dataclass(frozen=True)
class Measure:
    """A number of each pair.

    Attributes:
        key: its column in cohort.csv, with the unit.
        name: in words. unit: of the values, as the page shows it.
        at: where it stands in report.json; the last step may be an index.
        bad: which side speaks against a pair; "none" is shown and not judged.
        least: differences below this are noise of the measure itself, whatever the cohort;
            of the logarithm where `start` is given.
        start: for values of many sizes: log(start + value) is compared.
        shown: whether the page has a column for it.
    """

    key: str
    name: str
    unit: str
    at: tuple[str | int, ...]
    bad: Bad = "none"
    least: float = 0.0
    start: float | None = None
    shown: bool = True

    def compared(self, value: float) -> float:
        """The value on the scale on which pairs are compared."""
        return value if self.start is None else math.log(max(self.start + value, 1e-3))


def _errors(side: str) -> tuple[Measure, ...]:
    at, name = f"inverse_error_{side}", f"inverse error, {side} image"
    return (
        Measure(f"{at}_mean_mm", f"{name}, mean", "mm", (at, "mean_mm"), "high", 0.1, 0.01),
        Measure(f"{at}_max_mm", f"{name}, largest", "mm", (at, "max_mm"), "high", 0.1, 0.1),
    )


def _scale(axis: int, way: str) -> Measure:
    at = ("linear", "scales", axis)
    return Measure(f"affine_scale_{'xyz'[axis]}", f"affine scale, {way}", "", at, "both", 0.01, 0.0)


LOG_DET, LEAST_LOG = ("change", "log_det_mean"), 0.02
MEASURES = (
    Measure("similarity_before", "similarity before", "", ("similarity", "before"), shown=False),
    Measure("similarity", "similarity", "", ("similarity", "after"), "low", 0.01),
    Measure(
        "information_before", "mutual information before", "", ("information", "before"),
        shown=False,
    ),
    Measure("information", "mutual information", "", ("information", "after"), "low", 0.01),
    Measure("overlap", "overlap", "", ("overlap", "after"), "low", 0.005),
    Measure(
        "folding_forward_percent", "folding, forward field", "%", ("folding", "percent"), "high",
        0.01,
    ),
    Measure(
        "folding_inverse_percent", "folding, inverse field", "%", ("inverse_folding", "percent"),
        "high", 0.01,
    ),
    *_errors("fixed"),
    *_errors("moving"),
    _scale(0, "left to right"),
    _scale(1, "front to back"),
    _scale(2, "feet to head"),
    Measure("rotation_degrees", "rotation", "°", ("linear", "rotation_degrees"), "both", 0.1, 3.0),
    Measure("shear", "shear", "", ("linear", "shear"), "high", 0.1, 0.02),
    Measure("translation_mm", "translation", "mm", ("linear", "translation_mm")),
    Measure("log_det_mean", "volume change, mean log", "", LOG_DET, "both", LEAST_LOG),
    Measure(
        "log_det_sd", "volume change, SD of log", "", ("change", "log_det_sd"), "both", 0.1, 0.01
    ),
    Measure(
        "displacement_mean_mm", "mean displacement", "mm", ("change", "mean_mm"), shown=False
    ),
    Measure(
        "displacement_max_mm", "largest displacement", "mm", ("change", "max_mm"), "high", 0.1, 1.0
    ),
    Measure("seconds", "time", "s", ("seconds_total",)),
    Measure("peak_memory_mb", "peak memory", "MB", ("peak_memory_mb",)),
)  # fmt: skip


def values_of(
    report: Mapping[str, Any], measures: Sequence[Measure] = MEASURES
) -> dict[str, float]:
    """{key: value} of the measures in the content of report.json; what it lacks is missing."""
    found = {measure.key: number(_at(report, measure.at)) for measure in measures}
    return {key: value for key, value in found.items() if value is not None}


def _at(report: Any, way: Sequence[str | int]) -> Any:
    for step in way:
        try:
            report = report[step]
        except (KeyError, IndexError, TypeError):
            return None
    return report


def number(value: Any) -> float | None:
    """A finite number, or the length of a vector; None for all else."""
    if isinstance(value, list):
        parts = [part for v in value if (part := number(v)) is not None]
        return number(math.hypot(*parts)) if parts and len(parts) == len(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None
