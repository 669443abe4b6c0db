"""How the rounds of a template went: small line plots as SVG, with numbers, for any browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsyn_cli.results.page.tables import escaped, number

WIDTH, HEIGHT = 320, 130  # units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 22, 22, 26, 24  # around the lines
ROOM = 0.08  # of the height, beyond the values
MOST_LABELS = 8

Series = Mapping[int, float]


@dataclass(frozen=True)
class Figure:
    """A line over the rounds.

    Attributes:
        name: what is shown. unit: of the values. good: which values are good, a sentence.
        values: {round: value}; 0 stands for the affine passes. others: thin lines beside it.
        limit: a value that is drawn as a dashed line. zero: whether the scale starts at 0.
    """

    name: str
    unit: str
    good: str
    values: Series
    others: Sequence[Series] = ()
    limit: float | None = None
    zero: bool = True


def figures(record: Mapping[str, Any]) -> str:
    """The HTML of all plots."""
    return "".join(_card(figure) for figure in of_record(record))


def of_record(record: Mapping[str, Any]) -> list[Figure]:
    """The plots of the content of template.json."""
    rounds = {entry["round"]: entry for entry in record["rounds"]}
    tolerance = 100 * record["settings"]["tolerance"]
    dashed = f" Below {number(tolerance)} % (dashed) no further round follows." if tolerance else ""
    unit = "HU per mm" if record["scale"]["hounsfield"] else "grey values per mm"
    lengths = {k: entry["displacements_mm"] for k, entry in rounds.items()}
    ids = list(dict.fromkeys(name for of in lengths.values() for name in of))
    each = [{k: of[name] for k, of in lengths.items() if name in of} for name in ids]
    return [
        Figure(
            "Change of the template", "%",
            f"Good: it falls.{dashed}",
            {k: 100 * entry["change"] for k, entry in rounds.items()}, limit=tolerance or None,
        ),
        Figure(
            "Mean displacement taken out", "mm",
            "Good: it falls, and levels off at a few tenths of a millimetre or less. "
            f"Left in the fields as written: {number(record['left_mm'])} mm; good: near 0.",
            {k: entry["mean_displacement_mm"] for k, entry in rounds.items()},
        ),
        Figure(
            "Sharpness", "",f"Mean gradient in the mask, {unit}. Good: it rises, and levels off.",
            {0: record["frame"][-1]["sharpness"]}
            | {k: entry["sharpness"] for k, entry in rounds.items()}, zero=False,
        ),
        Figure(
            "Distance of the subjects", "mm",
            "Mean displacement, of all (thick) and of each. Good: it levels off.",
            {k: sum(of.values()) / max(len(of), 1) for k, of in lengths.items()}, each,
        ),
    ]  # fmt: skip


def _card(figure: Figure) -> str:
    last = figure.values[max(figure.values)]
    return (
        f'<div class="plot"><div class="head"><h3>{escaped(figure.name)}</h3>'
        f'<span class="value">last {number(last, 3)} {escaped(figure.unit)}</span></div>'
        f'{_drawing(figure)}<p class="good">{escaped(figure.good)}</p></div>'
    )


def _drawing(figure: Figure) -> str:
    """The SVG; the highest value is on top."""
    drawn = [v for line in (figure.values, *figure.others) for v in line.values()]
    drawn += [] if figure.limit is None else [figure.limit]
    low, high = min(drawn), max(drawn)
    low = 0.0 if figure.zero else low
    spare = ROOM * ((high - low) or abs(high) or 1.0)
    low, high = (low if figure.zero else low - spare), high + spare
    first, end = min(figure.values), max(figure.values)

    def at(k: int, value: float) -> tuple[float, float]:
        share = (k - first) / (end - first) if end > first else 0.5
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        return x, TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(series: Series, name: str) -> str:
        points = " ".join("{:.1f},{:.1f}".format(*at(k, v)) for k, v in sorted(series.items()))
        return f'<polyline class="{name}" points="{points}"/>'

    floor = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>']
    if figure.limit is not None:
        y = at(first, figure.limit)[1]
        parts.append(f'<line class="limit" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += [line(other, "each") for other in figure.others]
    parts.append(line(figure.values, "line"))
    every = -(-len(figure.values) // MOST_LABELS)
    for n, (k, value) in enumerate(sorted(figure.values.items())):
        x, y = at(k, value)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        if n % every == 0 or k == end:
            text = number(value, 3)
            parts.append(f'<text class="number" x="{x:.1f}" y="{y - 8:.1f}">{text}</text>')
            name = "affine" if k == 0 else str(k)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}">{name}</text>')
    told = ", ".join(f"{k}: {number(v, 3)}" for k, v in sorted(figure.values.items()))
    label = escaped(f"{figure.name} in {figure.unit} by round, {told}")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"
