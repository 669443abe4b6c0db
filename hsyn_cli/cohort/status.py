"""The status file of a pair: written by rename, read by every driver and by the page."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hsyn_cli.cohort.measures import number
from hsyn_cli.io.atomic import output_error
from hsyn_cli.io.plain import dump

State = Literal["running", "done", "failed"]
SCHEMA_VERSION = 1
OR_NULL = ("peak_memory_mb", "limit")  # what may be unknown


@dataclass(frozen=True)
class Status:
    """What became of a pair.

    Attributes:
        key: hash of its inputs, options, threads, version and checkpoint; what changed is redone.
        attempts: how often it ran. search: "near", or "full" in the second attempt.
        exit_code: as of `hsyn register`, or see `Outcome`; 0 when done. error: one line, or empty.
        problems: why the result is not to be trusted (exit code 10), files written.
        started, finished: seconds since 1970; finished is 0 while it runs.
        files: all that was written, relative to the study folder, with "/"; before the end, by
            an earlier attempt.
        limit, left: as of `Outcome`; None and "" in older files.
    """

    id: str
    key: str
    state: State
    folder: str
    attempts: int = 1
    search: str = "near"
    exit_code: int = 0
    error: str = ""
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    host: str = ""
    pid: int = 0
    started: float = 0.0
    finished: float = 0.0
    files: tuple[str, ...] = ()
    limit: float | None = None
    left: str = ""


def write(path: Path, status: Status) -> None:
    """Write the status file whole, by rename. A pair has one writer. Raises OutputError."""
    text = dump({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(status)})
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        raise output_error(path, error) from error


def read(path: Path) -> Status | None:
    """The status in a file; None if it is missing, damaged or of another version."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return _from_plain(plain) if plain["schema_version"] == SCHEMA_VERSION else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def _from_plain(plain: dict[str, Any]) -> Status:
    """Raises TypeError, ValueError or KeyError for what is no status."""
    values: dict[str, Any] = {}
    plain = {"limit": None, "left": "", **plain}
    for field in dataclasses.fields(Status):
        value = plain[field.name]
        if isinstance(field.default, tuple):
            value = tuple(map(str, value))
        elif field.name in OR_NULL:
            value = number(value)
        elif isinstance(field.default, float):
            value = float(value)
        elif isinstance(field.default, int):
            value = int(value)
        elif not isinstance(value, str | float | int):
            raise TypeError(field.name)
        values[field.name] = value
    if values["state"] not in get_args(State):
        raise ValueError(values["state"])
    return Status(**values)
