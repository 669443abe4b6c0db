"""The sentences of the page, and the list of the pairs to look at first. HTML is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hsyn_cli.cohort.outliers import LEAST_PAIRS, Finding
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.rows import Row
from hsyn_cli.results.page.tables import escaped

AT_ONCE = 12  # findings; more of them fold away
DOUBTFUL = "doubtful"
LEFT = ("running", "waiting")


def state(row: Row) -> str:
    """Waiting, running, done, doubtful or failed."""
    return DOUBTFUL if row.doubtful else row.state


def headline(rows: Sequence[Row], findings: Sequence[Finding], abouts: Mapping[str, About]) -> str:
    """How many pairs are done, failed, doubtful, apart from the others, and of earlier lists."""
    count = Counter(map(state, rows))
    total = "1 pair" if len(rows) == 1 else f"{len(rows)} pairs"
    parts = [f"{count['done']} of {total} done"]
    parts += [f"{count[name]} {name}" for name in ("failed", DOUBTFUL) if count[name]]
    apart = sum(bool(finding.reasons) for finding in findings)
    if apart:
        parts.append(f"{apart} {'stands' if apart == 1 else 'stand'} out")
    parts += [f"{count[name]} {name}" for name in LEFT if count[name]]
    left = sum(abouts[row.id].left for row in rows)
    parts += [f"{left} on the CPU for lack of memory on the device"] if left else []
    earlier = sum(not abouts[row.id].listed for row in rows)
    parts += [f"{earlier} not in the last list"] if earlier else []
    return ", ".join(parts) + "."


def first(
    rows: Sequence[Row], findings: Sequence[Finding], place: Mapping[str, int], one: str = "pair"
) -> str:
    """What to look at first; `place`: {id: number of its row}; `one`: what a row is."""
    measured = sum(bool(row.page or row.measure) for row in rows)
    note = ""
    if not measured:
        note = f"No {one} has a result{' yet' if not findings else ''}."
    elif measured < LEAST_PAIRS:
        note = (
            f"With fewer than {LEAST_PAIRS} results, hsyn does not say which of them stand out "
            "from the others."
        )
    elif not findings:
        note = f"No {one} stands out from the others."
    text = f"<p>{note}</p>" if note else ""
    items = [_item(finding, place[finding.row.id]) for finding in findings]
    text += f"<ol>{''.join(items[:AT_ONCE])}</ol>" if items else ""
    if len(items) > AT_ONCE:
        rest = "".join(items[AT_ONCE:])
        start = AT_ONCE + 1
        text += (
            f"<details><summary>{len(items) - AT_ONCE} more</summary>"
            f'<ol start="{start}">{rest}</ol></details>'
        )
    return text


def _item(finding: Finding, number: int) -> str:
    row = finding.row
    why = "".join(f"<li>{escaped(line)}</li>" for line in finding.texts)
    return (
        f'<li class="finding {state(row)}"><button type="button" data-row="{number}">'
        f"{escaped(row.id)}</button><ul>{why}</ul></li>"
    )
