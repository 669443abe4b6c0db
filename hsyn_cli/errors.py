"""The errors that a user can meet.

The command line prints the message and the hint of an error, and exits with its code.

HsynError             1    never raised itself; any other exception is a bug and exits with 1, too
  UsageError          2    options that contradict each other, unknown preset
  InputError          3    a file is missing, unreadable, too thin, constant, or holds NaN
  GeometryError       4    no overlap in space, sheared or singular direction, mask of another grid
  OutputError         5    folder not writable, disk full, or an output exists without --force
  WeightsError        6    unknown checkpoint, wrong hash, missing tensors
  DeviceError         7    CUDA or MPS is chosen but absent
  MemoryLimitError    8    out of memory
  FoldingError        9    more folding than --max-folding allows; hsyn still writes the outputs
  FailedError           10   the result is not to be trusted; hsyn still writes the outputs
  BatchError            11   pairs of a cohort failed, others are done; its scheduler is gone
  InstallationError    12   `hsyn doctor` found something wrong with this installation or machine
  Interrupted         130  ctrl-C
    Terminated        143  SIGTERM
    another class   128+n  signal number n, of any other that ends a process; see `interruption`
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import ClassVar


class HsynError(Exception):
    """An error with a `message` (one line: what went wrong, in which file) and a `hint` (or "").

    The hint says what to do. `more`: lines between both, one for each of several faults.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", more: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.more = tuple(more)


class UsageError(HsynError):
    exit_code = 2


class InputError(HsynError):
    exit_code = 3


class GeometryError(HsynError):
    exit_code = 4


class OutputError(HsynError):
    exit_code = 5


class WeightsError(HsynError):
    exit_code = 6


class DeviceError(HsynError):
    exit_code = 7


class MemoryLimitError(HsynError):
    exit_code = 8


class FoldingError(HsynError):
    exit_code = 9


class FailedError(HsynError):
    exit_code = 10


class BatchError(HsynError):
    exit_code = 11


class InstallationError(HsynError):
    exit_code = 12


class Interrupted(HsynError):
    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM."""

    exit_code = 143


def interruption(number: int) -> type[Interrupted]:
    """The class of the error for a signal; its exit code is 128 + `number`."""
    known: dict[int, type[Interrupted]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}

    class Signalled(Interrupted):
        exit_code = 128 + number

    return known.get(number, Signalled)
