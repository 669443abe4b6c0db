"""The subjects of a template: scans or a list, checked, in an order of their own."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsyn_cli.cohort.keys import Hashes
from hsyn_cli.cohort.lists import missing, refuse, wrong_ids
from hsyn_cli.cohort.names import usual_ids
from hsyn_cli.errors import HsynError, InputError, UsageError
from hsyn_cli.io import files
from hsyn_cli.io.endings import TABLES, ends
from hsyn_cli.space import Grid

CHANNEL = re.compile(r"scan_([2-9]|[1-9]\d)")
COLUMNS = "the columns are scan, id, mask, scan_2, scan_3 and so on"
LEAST = 2  # scans

Row = Mapping[str, str]


@dataclass(frozen=True)
class Subject:
    """One scan of a template.

    Attributes:
        id: unique, and a safe file name on every system.
        scans: its channels. mask: not 0 where the first one counts.
        sha256: of all files of the scans.
    """

    id: str
    scans: tuple[Path, ...]
    mask: Path | None = None
    sha256: tuple[str, ...] = ()


def read(given: Sequence[Path]) -> list[Subject]:
    """The subjects of a list, if that alone is given, or one for each scan; see `_checked`.

    A list is a table with the column scan, or a text file with a path on each line. Paths are
    relative to its folder. Raises UsageError, InputError, GeometryError.
    """
    lists = [path for path in given if ends(path, TABLES)]
    if lists and len(given) > 1:
        raise UsageError(f"{lists[0]} is a list, and other files are given", "give the list alone")
    if lists:
        return _checked(_of_list(given[0]), f"{given[0]} has")
    return _checked([Subject("", (path,)) for path in given], "the scans have")


def _of_list(path: Path) -> list[Subject]:
    """The subjects in a table or a plain list. Raises InputError that tells all faults."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"list {path}: no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        text = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise InputError(f"list {path}: {text}", "save it as UTF-8") from error
    head = [cell.strip(" \"'").casefold() for cell in re.split("[,;\t]", lines[0] if lines else "")]
    if "scan" in head:
        return _of_table(path)
    if ends(path, (".txt",)):
        plain = [line.strip() for line in lines if line.strip()]
        return [Subject("", (path.parent / line,)) for line in plain]
    raise InputError(f"list {path}: its first line names no column scan", COLUMNS)


def _of_table(path: Path) -> list[Subject]:
    rows, faults = rows_of(path, ("scan",), ("id",), COLUMNS)
    faults += wrong_ids(rows)
    refuse([f"{path} line {line}: {text}" for line, text in sorted(faults)], f"{path} has", COLUMNS)
    return [of_row(row, path.parent) for _, row in rows]


def rows_of(
    path: Path, needed: Sequence[str], more: Sequence[str], columns: str
) -> tuple[list[tuple[int, Row]], list[tuple[int, str]]]:
    """The rows of a table of scans, each with its line, and what is wrong with their cells.

    `needed`: columns of which no cell may be empty. `more`: others; mask and further channels are
    always known. `columns`: tells all of them. Raises InputError for missing and unknown columns.
    """
    rows: list[tuple[int, Row]] = [
        (line, {name.casefold(): cell for name, cell in row.items()})
        for line, row in files.read_rows(path, "list")
    ]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    known = (*needed, *more, "mask", "")
    unknown = [n for n in names if n not in known and not CHANNEL.fullmatch(n)]
    if unknown:
        many = "s" if len(unknown) > 1 else ""
        raise InputError(f"{path} has the unknown column{many} {', '.join(unknown)}", columns)
    lacks = [name for name in needed if rows and name not in names]
    if lacks:
        raise InputError(f"{path} lacks the column {' and '.join(lacks)}", columns)
    faults = []
    for line, row in rows:
        faults += [(line, f"no {name} is given") for name in needed if not row.get(name)]
        if row.get(""):
            faults.append((line, f"cells without a column ({row['']}); quote what holds a comma"))
    return rows, faults


def of_row(row: Row, folder: Path) -> Subject:
    """The scan of a row; its id is the one given, or empty."""
    numbers = sorted(int(name[5:]) for name in row if CHANNEL.fullmatch(name) and row[name])
    scans = (row["scan"], *(row[f"scan_{k}"] for k in numbers))
    mask = folder / row["mask"] if row.get("mask") else None
    return Subject(row.get("id", ""), tuple(folder / scan for scan in scans), mask)


def _checked(subjects: Sequence[Subject], whose: str) -> list[Subject]:
    """The subjects, `named`. Raises UsageError for too few, InputError that tells other faults."""
    refuse(list(faults_of(subjects)), whose, "no registration was started")
    if len(subjects) < LEAST:
        count = "one scan is" if subjects else "no scans are"
        raise UsageError(f"{count} given, and a template needs two", "give more scans")
    return named(subjects)


def named(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with ids and hashes, sorted by what their scans hold, then by id.

    Nothing then depends on the order in which they were given. Raises InputError.
    """
    taken = [subject.id for subject in subjects if subject.id]
    usual = iter(usual_ids([(s.scans[0],) for s in subjects if not s.id], taken))
    hashes, found = Hashes(), []
    for subject in subjects:
        name = subject.id or next(usual)
        sha256 = tuple(
            h for scan in subject.scans for h in hashes.of_image(scan, f"scan of {name}")
        )
        found.append(Subject(name, subject.scans, subject.mask, sha256))
    return sorted(found, key=lambda subject: (subject.sha256, subject.id))


def faults_of(subjects: Sequence[Subject]) -> Iterable[str]:
    """What is wrong with the files."""
    seen: dict[str, Path] = {}
    count = len(subjects[0].scans) if subjects else 0
    masked = [subject for subject in subjects if subject.mask is not None]
    if masked and len(masked) < len(subjects):
        lacks = next(subject for subject in subjects if subject.mask is None)
        yield f"scan {lacks.scans[0]} has no mask, and others have; give a mask of each, or none"
    grids: list[tuple[Path, Grid]] = []
    for subject in subjects:
        given = {f"scan_{k}": path for k, path in enumerate(subject.scans, 1)}
        given = {"scan": given.pop("scan_1"), **given}
        wrong = list(missing(given | ({"mask": subject.mask} if subject.mask else {})))
        yield from wrong
        scan = subject.scans[0]
        twin = seen.setdefault(os.path.realpath(scan), scan)
        if twin is not scan:
            other = "" if str(twin) == str(scan) else f", first as {twin}"
            yield f"scan {scan} is given twice{other}; leave one out"
        if len(subject.scans) != count:
            yield f"scan {scan} has {len(subject.scans)} channels, and the first one {count}"
        if not wrong:
            try:
                grids.append((scan, _grid(scan)))
            except HsynError as error:
                yield f"{error.message}; {error.hint}"
    for path, grid in grids:
        first, like = grids[0]
        if grid.dimension != like.dimension:
            dimensions = f"{grid.dimension}-D, and {first} is {like.dimension}-D"
            yield f"scan {path} is {dimensions}; give images of one kind"


def _grid(scan: Path) -> Grid:
    """Raises InputError, GeometryError."""
    from hsyn_cli.io.images import read_grid

    grid = read_grid(scan, "scan")
    if grid.dimension == 3 and grid.normal is not None:
        text = f"scan {scan} is a single slice in space"
        raise InputError(text, "save it as a 2-D image, or give volumes")
    return grid


def refuse_inside(subjects: Sequence[Subject], out: Path) -> None:
    """Raise UsageError if an input lies in the folder of the template."""
    place = os.path.realpath(out)
    for subject in subjects:
        for path in (*subject.scans, *([subject.mask] if subject.mask else [])):
            if os.path.realpath(path).startswith(place + os.sep):
                text = f"{path} lies in the output folder {out}"
                raise UsageError(text, "give a folder of its own, e.g. -o template/")


def twins(subjects: Sequence[Subject]) -> list[str]:
    """A line for each subject whose scans hold the same bytes as those of another one."""
    pairs = itertools.pairwise(subjects)
    return [
        f"the scans of {one.id} and {other.id} are the same; the template counts both"
        for one, other in pairs
        if one.sha256 == other.sha256
    ]
