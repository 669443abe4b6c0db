"""The status file of a pair: written by rename, read by every driver and by the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class Status:
    """What became of a pair.

    Attributes:
        key: hash of its inputs, options, threads, version and checkpoint; what changed is redone.
        attempts: how often it ran. search: "near", or "full" in the second attempt.
        exit_code: as of `hsyn register`; 0 when done. error: one line, empty when done.
        problems: why the result is not to be trusted (exit code 10), files written.
        started, finished: seconds since 1970; finished is 0 while it runs.
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
