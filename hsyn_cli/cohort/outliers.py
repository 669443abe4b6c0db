"""Which pairs to look at first, and why, in words.

A pair is as far out as its most deviating measure. The deviation is from the cohort's median, in
units of its spread: 1.4826 MAD, which is the standard deviation of a normal distribution and which
half of the pairs may spoil. The spread is at least the measure's own resolution. Where the tails
are heavier than the MAD tells, as with two scanners or with few pairs, the 85th percentile of the
deviations widens it, to at most twice. A higher percentile would hide failures that are alike.

NAMED is 6. Of 100 made-up ordinary pairs with 17 independent measures, it names on average none if
these are normal, 0.7 if they are Laplace's, and 1.2 if they are Student's t with 5 degrees of
freedom; 5 names two to three times as many. Of 55 phantoms that were registered, the farthest out
is at 3.5, and of five failures among them the nearest at 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsyn_cli.cohort.measures import MEASURES, Measure
from hsyn_cli.cohort.rows import Row

LEAST_PAIRS = 10  # with this measure; among fewer, the spread is not known
NAMED = 6.0  # deviations
MAD = 1.4826  # of a normal distribution's standard deviation
TAIL, NORMAL_TAIL = 0.85, 1.44  # share of the |deviations|, and where a normal one ends
MOST_WIDENED = 2.0
FEW = 4.0  # pairs; the spread of n pairs is taken 1 + FEW / n times as large
MOST_REASONS = 3
DISTRUST = "do not trust this result: "

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Reason:
    """A measure in which a pair deviates. `usual`: the median of the pairs it is compared with."""

    measure: Measure
    value: float
    deviations: float
    usual: float

    @property
    def text(self) -> str:
        """In words, with the unit."""
        value, usual = (short(v, self.measure.unit) for v in (self.value, self.usual))
        far = f"{self.deviations:.0f}" if self.deviations < 1000 else "over 1000"
        return f"{self.measure.name} {value}, {far} deviations from the others (median {usual})"


@dataclass(frozen=True)
class Finding:
    """A pair to look at. `reasons`: most deviating first."""

    row: Row
    reasons: tuple[Reason, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Why, a line each."""
        row = self.row
        told = []
        if row.failed:
            told.append(f"failed (exit code {row.exit_code}): {row.trouble or 'no message'}")
        elif row.doubtful:
            told.append(DISTRUST + row.trouble.removeprefix(DISTRUST))
        return (*told, *(reason.text for reason in self.reasons[:MOST_REASONS]))


def find(rows: Sequence[Row], measures: Sequence[Measure] = MEASURES) -> list[Finding]:
    """The pairs to look at: failed ones, those that distrust themselves, then the farthest out."""
    reasons = deviations(rows, measures)
    found = [
        Finding(row, tuple(reason for reason in far if reason.deviations > NAMED))
        for row, far in zip(rows, reasons, strict=True)
    ]
    told = [f for f in found if f.row.failed or f.row.doubtful or f.reasons]
    return sorted(told, key=_order)


def _order(finding: Finding) -> tuple[bool, bool, float]:
    row, reasons = finding.row, finding.reasons
    return not row.failed, not row.doubtful, -(reasons[0].deviations if reasons else 0.0)


def deviations(rows: Sequence[Row], measures: Sequence[Measure] = MEASURES) -> list[list[Reason]]:
    """For each row its deviations to the bad side in every judged measure, largest first."""
    found: list[list[Reason]] = [[] for _ in rows]
    for measure in measures:
        if measure.bad == "none":
            continue
        for members in _comparable(rows, measure):
            if len(members) < LEAST_PAIRS:
                continue
            values = np.array([rows[k].values[measure.key] for k in members])
            usual = float(np.median(values))
            for k, value, far in zip(members, values, _deviations(values, measure), strict=True):
                found[k].append(Reason(measure, float(value), float(far), usual))
    for reasons in found:
        reasons.sort(key=lambda reason: -reason.deviations)
    return found


def _comparable(rows: Sequence[Row], measure: Measure) -> Iterable[list[int]]:
    """Groups of rows whose values mean the same: those of one kind of similarity."""
    groups: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        if measure.key in row.values:
            kind = row.measure if measure.key == "similarity" else ""
            groups.setdefault(kind, []).append(k)
    return groups.values()


def _deviations(values: Values, measure: Measure) -> Values:
    """How many spreads each value is on the bad side of the median; below 0 on the good side."""
    x = np.array([measure.compared(v) for v in values])
    away = x - np.median(x)
    far: Values = away / spread(away, measure.least)
    return {"low": -far, "high": far}.get(measure.bad, np.abs(far))


def spread(away: Values, least: float) -> float:
    """The spread of deviations from the median; see the module."""
    sizes, n = np.sort(np.abs(away)), len(away)
    own = max(MAD * float(np.median(sizes)), least)
    tail = float(sizes[int(TAIL * (n - 1))]) / NORMAL_TAIL
    known = own > least  # else most pairs are equal, and the MAD tells nothing
    wide = max(own, min(tail, MOST_WIDENED * own) if known else tail)
    return wide * (1 + FEW / n)


def short(value: float, unit: str = "") -> str:
    """Three significant digits, without powers of ten, with the unit."""
    text = np.format_float_positional(float(f"{value:.3g}"), trim="-")
    return f"{text} {unit}".strip() if unit != "°" else f"{text}°"
