"""What the pretend device refused, and where the host waited for it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hsyn_cli

PACKAGE = str(Path(hsyn_cli.__file__).parent)


class MixUp(RuntimeError):
    """What CUDA would refuse."""


@dataclass
class Record:
    """What happened.

    Attributes:
        mixups: those that the code caught, too.
        waits: {(kind, "module.py:line function"): how often}. The kinds are "item" (also of float,
            int and bool), "nonzero" and other results whose size the host must know, "download",
            "upload" and "synchronize".
    """

    mixups: list[str] = field(default_factory=list)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def refuse(self, text: str) -> MixUp:
        """Note a mix-up, and return it to be raised."""
        self.mixups.append(text)
        return MixUp(text)

    def wait(self, kind: str) -> None:
        self.waits[kind, _call_site()] += 1

    def begin(self) -> None:
        self.mixups.clear()
        self.waits.clear()


RECORD = Record()


def _call_site() -> str:
    """The innermost line of hsyn on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            path = code.co_filename[len(PACKAGE) + 1 :]
            return f"{path}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    return "tests"
