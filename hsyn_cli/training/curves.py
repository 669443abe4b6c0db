"""Draw the curves of a run. Needs matplotlib (the extra `train`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hsyn_cli.io import atomic
from hsyn_cli.training.loop import Record

PANELS = (("loss", "loss"), ("ncc", "NCC (squared, local)"), ("dice", "soft Dice of label maps"))


def draw(records: Sequence[Record], path: Path) -> bool:
    """Draw loss, NCC and Dice over the steps: lines for training, dots for validation.

    Returns False if matplotlib is missing.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a missing home
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    ends: dict[int, int] = {}
    for record in records:
        ends[int(record["phase"])] = int(record["steps"])
    starts = {phase: sum(n for k, n in ends.items() if k < phase) for phase in ends}
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    for axis, (key, title) in zip(axes, PANELS, strict=True):
        for phase, start in starts.items():
            own = [r for r in records if r["phase"] == phase]
            for name, style in ((key, "-"), (f"val_{key}", "o")):
                points = [(start + int(r["step"]), float(r[name])) for r in own if name in r]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=f"C{phase}", markersize=4)
            axis.axvline(start, color="0.8", linewidth=0.8, zorder=0)
            if key == "loss" and own:
                axis.text(
                    start,
                    1.01,
                    f" {own[0]['name']}",
                    transform=axis.get_xaxis_transform(),
                    fontsize=8,
                )
        axis.set_ylabel(title)
    axes[-1].set_xlabel("steps")
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True
