"""Pairs from a table, or a fixed image and many scans."""

from __future__ import annotations

import csv
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hsyn_cli import plugins
from hsyn_cli.cohort.jobs import PAIRS, Job
from hsyn_cli.cohort.names import WHAT_IS_SAFE, is_safe, usual_ids
from hsyn_cli.config import presets
from hsyn_cli.config.channels import weights_of
from hsyn_cli.errors import HsynError, InputError, UsageError
from hsyn_cli.io import files
from hsyn_cli.io.endings import TABLES, ends
from hsyn_cli.results.register_files import Inputs, check_model

Row = Mapping[str, str]

MOST_FAULTS = 10  # told at once
FILES = (
    "moving", "fixed", "moving_labels", "moving_mask", "fixed_mask", "moving_lesion",
    "fixed_lesion", "initial_transform",
)  # fmt: skip
ALSO = {"initial": "initial_transform"}  # the name in tables; the other one is taken, too
CHANNEL = re.compile(r"(moving|fixed)_([2-9]|[1-9]\d)")
WHATS = {"moving": "moving image", "fixed": "fixed image"}


def from_table(path: Path, options: Mapping[str, Any]) -> list[Job]:
    """One job per row of a CSV or TSV; its paths are relative to its folder.

    `options`: of the command line, for cells that are empty. The columns are moving and fixed, and
    as needed id, the other `FILES`, moving_2, fixed_2 and so on, and those of `METHOD`. Raises
    InputError that tells all faults of the table.
    """
    _check_head(path)
    rows = [
        (line, {name.casefold(): cell for name, cell in row.items()})
        for line, row in files.read_rows(path, "table")
    ]
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    _check_columns(path, columns, bool(rows))
    inputs: list[Inputs] = []
    chosen: list[dict[str, Any]] = []
    faults = list(wrong_ids(rows))
    for line, row in rows:
        read, wrong = _files_of(row, path.parent)
        own, strange = _options_of(row, path.parent)
        chosen.append({**options, **own})
        strange += _contradictions(chosen[-1], 1 + len(read.others))
        faults += [(line, text) for text in (*wrong, *strange)]
        inputs.append(read)
    given = [row.get("id", "") for _, row in rows]
    faults.sort(key=lambda fault: fault[0])
    told = [f"{path} line {line}: {text}" for line, text in faults]
    refuse(told, f"{path} has", "correct the table; no pair was started")
    return [
        Job(name, its, f"{PAIRS}/{name}", its_options)
        for name, its, its_options in zip(all_ids(inputs, given), inputs, chosen, strict=True)
    ]


def from_scans(fixed: Path, scans: Sequence[Path], options: Mapping[str, Any]) -> list[Job]:
    """One job per scan, each to the same fixed image.

    Raises UsageError for a table among the scans, and InputError that tells all faults.
    """
    for scan in scans:
        if ends(scan, TABLES):
            hint = "leave out --fixed and name the fixed image in the table; or give the scans"
            raise UsageError(f"{scan} is a table of pairs, and --fixed is for scans", hint)
    faults = list(missing({"fixed": fixed}))
    seen: dict[str, Path] = {}
    for scan in scans:
        faults += missing({"moving": scan})
        twin = seen.setdefault(os.path.realpath(scan), scan)
        if twin is not scan:
            other = "" if str(twin) == str(scan) else f", first as {twin}"
            faults.append(f"moving image {scan} is given twice{other}; leave one out")
    if not scans:
        faults.append("no moving image is given; name the scans")
    refuse(faults, "the scans have", "no pair was started")
    inputs = [Inputs(scan, fixed) for scan in scans]
    ids = all_ids(inputs, [""] * len(inputs))
    return [
        Job(name, its, f"{PAIRS}/{name}", dict(options))
        for name, its in zip(ids, inputs, strict=True)
    ]


def all_ids(inputs: Sequence[Inputs], given: Sequence[str]) -> list[str]:
    """The id of each pair, as given or else the usual one."""
    taken = [name for name in given if name]
    pairs = [(its.moving, its.fixed) for its, name in zip(inputs, given, strict=True) if not name]
    usual = iter(usual_ids(pairs, taken))
    return [name or next(usual) for name in given]


def refuse(faults: Sequence[str], whose: str, hint: str) -> None:
    """Raise InputError if there are faults; it tells up to `MOST_FAULTS`, a line each."""
    if len(faults) == 1:
        raise InputError(faults[0], hint)
    if faults:
        rest = len(faults) - MOST_FAULTS
        more = [*faults[:MOST_FAULTS], *([f"and {rest} more"] if rest > 0 else [])]
        raise InputError(f"{whose} {len(faults)} faults", hint, more)


def _check_head(path: Path) -> None:
    """Raise InputError for a table that is not UTF-8, or whose first line names no columns."""
    try:
        raw = path.read_bytes()
        head = next(iter(raw.decode("utf-8-sig").splitlines()), "")
        cells = next(csv.reader([head], delimiter=max(",;\t", key=head.count)))
    except (OSError, csv.Error):  # its reader will tell
        return
    except UnicodeDecodeError as error:
        line = len(raw[: error.start + 1].splitlines())
        raise InputError(f"{path} line {line} is not in UTF-8", "save it as UTF-8") from None
    names = [cell.strip().casefold() for cell in cells if cell.strip()]
    paths = (path.parent / cell.strip() for cell in cells)
    if not any(map(_known, names)) and any(map(Path.is_file, paths)):
        hint = "the first line must name the columns, as in: moving,fixed"
        raise InputError(f"{path} line 1 is a pair", hint)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name}", "remove one")


def _check_columns(path: Path, columns: Sequence[str], any_row: bool) -> None:
    """Raise InputError for a table without rows, with an unknown column or without a known one."""
    shown = {real: name for name, real in ALSO.items()}
    names = (*(shown.get(name, name) for name in FILES), "moving_2, fixed_2, ...", *METHOD)
    known = f"the columns are id, {', '.join(names)}"
    if not any_row:
        raise InputError(f"{path} lists no pair: it has no rows", known)
    unknown = [name for name in columns if name and not _known(name)]
    if unknown:
        many = "s" if len(unknown) > 1 else ""
        raise InputError(f"{path} has the unknown column{many} {', '.join(unknown)}", known)
    missing = [name for name in ("moving", "fixed") if name not in columns]
    if missing:
        raise InputError(f"{path} lacks the column {' and '.join(missing)}", known)


def _files_of(row: Row, folder: Path) -> tuple[Inputs, list[str]]:
    """The files of a row, and what is wrong with them."""
    given = {ALSO.get(key, key): folder / cell for key, cell in row.items() if cell and _file(key)}
    faults = [f"no {WHATS[role]} is given" for role in ("moving", "fixed") if role not in given]
    if "" in row:
        faults.append(f"cells without a column ({row['']}); quote what holds the separator")
    if row.get("initial") and row.get("initial_transform"):
        faults.append("initial and initial_transform are one column; fill in one of them")
    numbers = sorted({int(key.split("_")[1]) for key in given if CHANNEL.fullmatch(key)})
    others = []
    for k in numbers:
        sides = [given.get(f"{role}_{k}") for role in ("moving", "fixed")]
        if None in sides:
            faults.append(f"channel {k} is given of one image alone; give moving_{k} and fixed_{k}")
        others.append((sides[0] or Path(), sides[1] or Path()))
    faults += missing(given)
    named = {name: path for name, path in given.items() if name in FILES}
    return Inputs(**{"moving": Path(), "fixed": Path(), **named}, others=tuple(others)), faults


def _known(column: str) -> bool:
    return column == "id" or column in METHOD or _file(column)


def _file(column: str) -> bool:
    return column in FILES or column in ALSO or bool(CHANNEL.fullmatch(column))


def missing(given: Mapping[str, Path]) -> Iterable[str]:
    """What is wrong with the paths, which need to be files."""
    for role, path in given.items():
        first, _, number = role.partition("_") if CHANNEL.fullmatch(role) else (role, "", "")
        what = " ".join(filter(None, (WHATS.get(first, first.replace("_", " ")), number)))
        if not os.path.lexists(path):
            yield f"{what} {path} does not exist; correct the path"
        else:
            try:
                files.check_file(path, what)
            except InputError as error:
                yield f"{error.message}; {error.hint}"


def wrong_ids(rows: Sequence[tuple[int, Row]]) -> Iterable[tuple[int, str]]:
    """Lines and what is wrong with the ids given there."""
    first: dict[str, int] = {}
    for line, row in rows:
        name = row.get("id", "")
        if not name:
            continue
        if not is_safe(name):
            yield line, f"id {name!r} is no file name on every system; use {WHAT_IS_SAFE}"
        other = first.setdefault(name.casefold(), line)
        if other != line:
            yield line, f"id {name} is that of line {other}, too; give each pair its own"


def _options_of(row: Row, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The options of a row, and what is wrong with them."""
    found: dict[str, Any] = {}
    faults = []
    for name, convert in METHOD.items():
        cell = row.get(name, "")
        if not cell:
            continue
        if name == "model" and (folder / cell).is_file():
            cell = str(folder / cell)
        try:
            found[name] = convert(cell)
        except ValueError as error:
            faults.append(f"{name} {cell!r} is not known; {error}")
        except HsynError as error:
            faults.append(f"{error.message}; {error.hint}")
    return found, faults


def _contradictions(options: Mapping[str, Any], channels: int) -> list[str]:
    """What in the options of a pair cannot be together."""
    faults = []
    transform, affine = (options.get(k, d) for k, d in (("transform", ""), ("affine", "affine")))
    if transform in ("translation", "rigid", "affine") and affine not in ("affine", transform):
        faults.append(f"transform {transform} and affine {affine} contradict each other; give one")
    try:
        weights_of(options.get("channel_weights"), channels)
    except UsageError as error:
        faults.append(f"{error.message}; {error.hint}")
    return faults


def _one_of(*names: str) -> Callable[[str], str]:
    def convert(cell: str) -> str:
        if cell not in names:
            raise ValueError(f"give {', '.join(names[:-1])} or {names[-1]}")
        return cell

    return convert


def _seed(cell: str) -> int:
    if not re.fullmatch(r"\d{1,18}", cell):
        raise ValueError("give a whole number from 0 on")
    return int(cell)


def _smoothness(cell: str) -> float:
    try:
        factor = float(cell)
    except ValueError:
        raise ValueError("give a number with a decimal point") from None
    presets.check_smoothness(factor)
    return factor


def _weights(cell: str) -> list[float]:
    try:
        weights = [float(word) for word in cell.split()]
    except ValueError:
        raise ValueError("give numbers with blanks between them") from None
    if not all(0 <= weight < math.inf for weight in weights):
        raise ValueError("give numbers from 0 on")
    return weights


@functools.lru_cache(maxsize=32)
def _model(cell: str) -> str:
    check_model(cell)
    return cell


METHOD: dict[str, Callable[[str], Any]] = {  # {column: from the text of a cell to the option}
    "preset": _one_of(*presets.names()),
    "model": _model,
    "affine": _one_of("affine", "rigid", "none"),
    "transform": _one_of("deformable", "affine", "rigid", "translation"),
    "similarity": _one_of("auto", *plugins.names("hsyn_cli.method.similarity")),
    "search": _one_of("near", "full"),
    "head": _one_of("auto", "all", "brain"),
    "smoothness": _smoothness,
    "seed": _seed,
    "channel_weights": _weights,
}
