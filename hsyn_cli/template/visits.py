"""The visits of a longitudinal template: a table of scans, several of each subject."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hsyn_cli.cohort.lists import refuse
from hsyn_cli.cohort.names import safe
from hsyn_cli.errors import UsageError
from hsyn_cli.template.subjects import Row, Subject, faults_of, named, of_row, rows_of

COLUMNS = "the columns are subject, visit, scan, mask, scan_2, scan_3 and so on"
LEAST = 2  # subjects


@dataclass(frozen=True)
class Person:
    """A subject with all visits.

    Attributes:
        id: unique, and a safe file name. visits: their ids are safe file names, too, unique among
            those of the subject. names: {id of a visit: its text in the table, or its id}.
    """

    id: str
    subject: str
    visits: tuple[Subject, ...]
    names: dict[str, str]


def read(path: Path) -> list[Person]:
    """The subjects of a table, in the order of their ids; their visits by what their scans hold.

    Nothing depends on the order of the rows. Raises UsageError for fewer than two subjects, and
    InputError that tells all other faults.
    """
    rows, faults = rows_of(path, ("subject", "scan"), ("visit",), COLUMNS)
    faults += [*_doubled(rows), *_alike(rows)]
    refuse([f"{path} line {n}: {text}" for n, text in sorted(faults)], f"{path} has", COLUMNS)
    scans = [of_row(row, path.parent) for _, row in rows]
    refuse(list(faults_of(scans)), f"{path} has", "no registration was started")
    people: dict[str, list[tuple[Row, Subject]]] = {}
    for (_, row), scan in zip(rows, scans, strict=True):
        people.setdefault(row["subject"], []).append((row, scan))
    if len(people) < LEAST:
        count = "one subject" if people else "no subject"
        hint = "give more subjects; for the visits of one: hsyn template SCANS... --frame rigid"
        raise UsageError(f"{path} lists {count}, and the template of a group needs two", hint)
    return sorted((_person(name, own) for name, own in people.items()), key=lambda p: p.id)


def _person(name: str, own: Sequence[tuple[Row, Subject]]) -> Person:
    texts = {safe(row["visit"]): row["visit"] for row, _ in own if row.get("visit")}
    given = [replace(scan, id=safe(row["visit"]) if row.get("visit") else "") for row, scan in own]
    visits = named(sorted(given, key=lambda visit: os.fspath(visit.scans[0])))
    return Person(safe(name), name, tuple(visits), {v.id: texts.get(v.id, v.id) for v in visits})


def _doubled(rows: Sequence[tuple[int, Row]]) -> Iterable[tuple[int, str]]:
    """Lines with a visit that the subject has already, or with one of the same file name."""
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for line, row in rows:
        subject, visit = row.get("subject", ""), row.get("visit", "")
        if not subject or not visit:
            continue
        other, text = first.setdefault((subject, safe(visit).casefold()), (line, visit))
        if other != line and text == visit:
            yield line, f"visit {visit} of {subject} is that of line {other}, too; rename one"
        elif other != line:
            told = f"visits {visit!r} and {text!r} of {subject} (line {other})"
            yield line, f"{told} would get one folder; rename one"


def _alike(rows: Sequence[tuple[int, Row]]) -> Iterable[tuple[int, str]]:
    """Lines with a subject that differs from another one, but not as a file name."""
    first: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        subject = row.get("subject", "")
        other, text = first.setdefault(safe(subject).casefold(), (line, subject))
        if subject and text != subject:
            told = f"subjects {subject!r} and {text!r} (line {other})"
            yield line, f"{told} would get one folder; rename one"
