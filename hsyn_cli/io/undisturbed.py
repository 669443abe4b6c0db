"""Let a piece of work end before a signal is heeded."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread


def undisturbed(action: Callable[[], None]) -> None:
    """Run `action` to its end whatever signal comes; what the signal's handler raises comes after.

    It runs in a thread, because handlers run in the main thread alone. Blocking the signals would
    not do: the system would hand them to a thread of torch or ITK, and Python to this one.
    """
    once, raised = _Once(action), None
    wait: Callable[[], object] = once.told.get
    try:
        Thread(target=once.run).start()
    except RuntimeError:  # the system has no thread left
        wait = once.run
    except BaseException as error:  # noqa: BLE001 (raised below)
        raised, wait = error, once.run  # the thread may run or not
    while not once.done:
        try:
            wait()
        except BaseException as error:  # noqa: BLE001 (raised below)
            raised = error
    raised, once.error = raised or once.error, None
    try:
        if raised is not None:
            raise raised
    finally:
        del raised  # its traceback holds this frame, and so what `action` holds


class _Once:
    """An action that happens once, in whichever thread comes first. `error`: what it raised.

    `told` gets None when it is `done`. A handler may raise in the midst of a SimpleQueue's `get`,
    which an Event's `wait` does not survive.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action, self._turn = action, Lock()
        self.done = False
        self.told: SimpleQueue[None] = SimpleQueue()
        self.error: BaseException | None = None

    def run(self) -> None:
        with self._turn:
            if not self.done:
                try:
                    self._action()
                except BaseException as error:  # noqa: BLE001 (the thread that waits raises it)
                    self.error = error
                self.done = True
                self.told.put(None)
