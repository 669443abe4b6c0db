"""Standard output and error that never stop a run, whatever they are and whatever it prints."""

from __future__ import annotations

import io
import os
import select
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ERRORS = "backslashreplace"
LEAST_COLUMNS = 60
INHERITED = 3  # stdin, stdout, stderr


class Drain(io.FileIO):
    """A raw stream that keeps its first `failure`, and drops what it cannot write."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        written: int | None = None
        try:
            while written is None:  # a non-blocking stream that is full
                written = super().write(data)
                if written is None:
                    select.select([], [self], [])
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes
        return written


def prepare() -> None:
    """Make stdout and stderr safe.

    Streams that were closed lead nowhere: a file that hsyn opens must not take their number, lest a
    library print into it. Characters that a stream lacks are shown as escapes. In a narrow
    terminal long lines go on in the next row.
    """
    if shutil.get_terminal_size().columns < LEAST_COLUMNS or os.environ.get("COLUMNS") == "0":
        os.environ["COLUMNS"] = str(LEAST_COLUMNS)  # rich would leave out what has no room
    if os.name == "posix":
        while (number := os.open(os.devnull, os.O_RDWR)) < INHERITED:
            os.set_inheritable(number, True)
        os.close(number)
        sys.stdout, sys.stderr = _safe(1, sys.stdout), _safe(2, sys.stderr)
    else:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=ERRORS)


def failure() -> OSError | None:
    """What kept stdout from being written, if anything did."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Drain) else None


def one_line(text: str) -> str:
    """`text` with control characters, and others that cannot be shown, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _safe(number: int, stream: TextIO | None) -> TextIO:
    buffer = io.BufferedWriter(Drain(number, "w", closefd=False))
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=ERRORS,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )
