"""Whole commands, in the forked child: the command line runs in a folder of its inputs."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hsyn_cli
from hsyn_cli.cli import run


def warm() -> None:
    """Import all of hsyn, also what its commands import inside functions."""
    for module in pkgutil.walk_packages(hsyn_cli.__path__, "hsyn_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def step(request: Any, work: Path, send: Callable[[Any], None]) -> None:
    """Send {"state", "code", "files": {name: its SHA-256 or "folder"}, "left": temporary names}."""
    request.write(work)
    answer: dict[str, Any] = {"state": "ran"}
    try:
        answer["code"] = run(request.arguments)
    except BaseException as error:  # noqa: BLE001
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if "hsyn_cli" in line.filename] or lines
        where = f"{Path(own[-1].filename).name}:{own[-1].name}"
        answer |= {"state": "raised", "error": type(error).__name__, "where": where}
        answer |= {"message": str(error)[:500], "traceback": traceback.format_exc()[-4000:]}
    sys.stdout.flush()
    sys.stderr.flush()
    answer["files"] = {item.name: _content(item) for item in work.iterdir()}
    answer["left"] = [item.name for item in work.rglob(".hsyn-*")]
    send(answer)


def _content(item: Path) -> str:
    return hashlib.sha256(item.read_bytes()).hexdigest() if item.is_file() else "folder"
