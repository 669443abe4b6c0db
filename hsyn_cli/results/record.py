"""The output of --json of every command: schema, result, warnings and versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.io.plain import dump

SCHEMA_VERSION = 1


def versions() -> dict[str, str]:
    """Versions of hsyn, Python and the libraries that decide the numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "SimpleITK", "numpy")}
    return {"hsyn": __version__, "python": platform.python_version(), **libraries}


def record(plain: Mapping[str, Any], warnings: Sequence[str] = ()) -> str:
    """Make the JSON text of a result: schema version, `plain`, warnings and versions."""
    head = {"schema_version": SCHEMA_VERSION}
    return dump({**head, **plain, "warnings": list(warnings), "versions": versions()})
