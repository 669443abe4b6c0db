"""Folders of plugins, one file each: presets, organs, similarities, formats, commands.

A new plugin is one new file in its folder. Listing the names imports none of the files.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from types import ModuleType


def names(package: str) -> list[str]:
    """The modules of a package in alphabetical order; a leading underscore hides a module."""
    if package in sys.modules:
        folders = sys.modules[package].__path__
    else:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        folders = spec.submodule_search_locations or []
    modules = pkgutil.iter_modules(folders)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """One module of a package. Raises KeyError if the package has no module of that name."""
    if name not in names(package):
        raise KeyError(name)
    return importlib.import_module(f"{package}.{name}")
