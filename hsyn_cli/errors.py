"""The errors a user can meet. The command line prints one as a line and a hint, and exits with its code.

HsynError             1    never raised itself; any other exception is a bug and exits with 1 too
  UsageError          2    options that contradict each other, unknown preset
  InputError          3    a file is missing, unreadable, no 3-D image, too thin, constant, or holds NaN
  GeometryError       4    no overlap in space, sheared or singular direction, mask of another grid
  OutputError         5    folder unwritable or disk full; an output exists and --force was not given
  WeightsError        6    checkpoint unknown, its hash is wrong, tensors are missing
  DeviceError         7    CUDA or MPS was asked for and is absent
  MemoryLimitError    8    out of memory
  FoldingError        9    more folding than --max-folding allows; the outputs are written all the same
  Interrupted         130  ctrl-C
    Terminated        143  SIGTERM
"""

from __future__ import annotations

from typing import ClassVar


class HsynError(Exception):
    """What went wrong and in which file (`message`, one line); what to do (`hint`, or "")."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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


class Interrupted(HsynError):
    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM."""

    exit_code = 143
