"""Signals that end a process become errors, so that `finally` clauses clean up after them."""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType

from hsyn_cli.errors import Interrupted, interruption

# They end no process, or no program can catch them, or a faulty instruction raises them and would
# raise them again as soon as the handler returns.
LEFT_ALONE = {
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
    *("SIGKILL", "SIGSTOP"),
    *("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"),
}
VERBS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Watch:
    """The signals of one run. `caught`: the error of the last one that came, or None.

    A signal ignored when the run starts stays ignored, as nohup wants it.
    """

    def __init__(self) -> None:
        self.caught: Interrupted | None = None
        self._over = False
        self._watched = [n for n in sorted(signal.valid_signals()) if _ends_a_process(n)]

    def start(self) -> None:
        """From now on a signal raises an error of the family of Interrupted."""
        for number in self._watched:
            with contextlib.suppress(OSError):  # a signal that the C library keeps to itself
                signal.signal(number, self._raise)

    def stop(self) -> None:
        """Ignore them from now on.

        Python would give them back their default at its end, and they could end the process.
        """
        self._over = True
        for number in self._watched:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_IGN)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        """Raise the error, unless an earlier one unwinds the stack: its clean-ups shall end."""
        if not self._over and not self._unwinding():
            self.caught = interruption(number)(VERBS.get(number) or f"stopped by {_name(number)}")
            raise self.caught

    def _unwinding(self) -> bool:
        error = sys.exc_info()[1]
        while error is not None and error is not self.caught:
            error = error.__context__
        return error is not None


def _ends_a_process(number: int) -> bool:
    standard = (signal.SIG_DFL, signal.default_int_handler)
    return _name(number) not in LEFT_ALONE and signal.getsignal(number) in standard


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
