"""Leave out each device that hsyn names, one after the other, and tell which check finds it.

    PYTHONPATH=tests python -m on_device.mutants

It takes some minutes. What survives raises nothing on CUDA either, or needs another check.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

from pretend import pretending

import hsyn_cli
from on_device import CHECKS
from on_device.plants import compiled, plain, text_of

WITHIN = ("fields", "method", "training", "tools.invert", "anatomy.scene")
DEVICE = re.compile(r", device=[\w.]+(?=[,)])|\.to\([\w.]*device\)")


def functions() -> Iterator[FunctionType]:
    """The functions and methods of the modules in WITHIN."""
    for found in pkgutil.walk_packages(hsyn_cli.__path__, "hsyn_cli."):
        if found.name.startswith(tuple(f"hsyn_cli.{name}" for name in WITHIN)):
            module = importlib.import_module(found.name)
            yield from _of(module, module)


def _of(owner: object, module: ModuleType) -> Iterator[FunctionType]:
    for value in list(vars(owner).values()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield from _of(value, module)
        found = plain(value) if callable(value) or hasattr(value, "__func__") else None
        if isinstance(found, FunctionType) and found.__code__.co_filename == module.__file__:
            yield found


def found_by() -> str:
    """The first check that raises, or ""."""
    for name, check in CHECKS.items():
        try:
            with pretending() as record:
                check("cuda")
        except Exception as error:  # noqa: BLE001 - any ends the mutant
            return f"{name}: {type(error).__name__}"
        if record.mixups:
            return name
    return ""


if __name__ == "__main__":
    counts = [0, 0]
    for function in functions():
        text, right = text_of(function), function.__code__
        for match in DEVICE.finditer(text):
            function.__code__ = compiled(function, text[: match.start()] + text[match.end() :])
            found = found_by()
            function.__code__ = right
            counts[bool(found)] += 1
            where = f"{function.__module__}.{function.__qualname__}"
            sys.stdout.write(f"{where} without {match[0]}: {found or 'SURVIVED'}\n")
    sys.stdout.write(f"{counts[1]} of {sum(counts)} found\n")
