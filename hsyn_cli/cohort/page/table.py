"""cohort.csv: a line for each pair, with all measures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from hsyn_cli.cohort.measures import MEASURES
from hsyn_cli.cohort.outliers import deviations, find
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.page.words import state
from hsyn_cli.cohort.rows import Row

ROLES = ("moving", "fixed")


def to_csv(rows: Sequence[Row], abouts: Mapping[str, About]) -> str:
    """Make the table (RFC 4180). All text is quoted; what is not known is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
    lesions = [f"lesion_{role}_volume_factor" for role in ROLES]
    writer.writerow(
        (
            "id", "moving", "fixed", "folder", "state", "exit_code", "problem", "attempts",
            "similarity_measure", *(measure.key for measure in MEASURES), *lesions,
            "largest_deviation", "rank", "why", "warnings",
            "in_last_list",
        )
    )  # fmt: skip
    order = {finding.row.id: (k, finding) for k, finding in enumerate(find(rows), 1)}
    for row, reasons in zip(rows, deviations(rows), strict=True):
        rank, finding = order.get(row.id, (None, None))
        about = abouts[row.id]
        writer.writerow(
            (
                row.id, row.moving, row.fixed, row.folder, state(row), row.exit_code,
                row.trouble, row.attempts, row.measure,
                *(row.values.get(measure.key) for measure in MEASURES),
                *(row.lesions.get(role) for role in ROLES),
                round(reasons[0].deviations, 2) if reasons else None, rank,
                "; ".join(finding.texts) if finding else "",
                "; ".join(about.warnings), "yes" if about.listed else "no",
            )
        )  # fmt: skip
    return stream.getvalue()
