"""Imports go strictly down the layers; only a folder's own modules may import one another."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hsyn_cli"
LAYERS = [
    {"__init__", "errors", "plugins"},
    {"config", "devices", "space"},
    {"anatomy", "fields", "io"},
    {"method"},
    {"tools", "training"},
    {"results"},
    {"cohort"},
    {"checks", "template"},
    {"api"},
    {"cli"},
    {"__main__"},
]
ALLOWED = {
    "__init__", "api", "checks", "cli", "cohort", "config", "devices", "errors", "plugins",
    "results", "template",
}  # fmt: skip
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST) -> set[str]:
    """First names under hsyn_cli that a module imports anywhere.

    Its imports for typing left out.
    """
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        and isinstance(block.test, ast.Name)
        and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "hsyn_cli":
            names |= {alias.name if alias.name in LAYER else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hsyn_cli."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            starts = (alias.name for alias in node.names if alias.name.startswith("hsyn_cli."))
            names |= {name.split(".")[1] for name in starts}
    return names


def test_imports_go_strictly_down() -> None:
    met = set()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        met.add(own)
        assert own in LAYER, f"{path.name} stands in no layer: add it to LAYERS"
        if own == "__init__":  # loads the verbs only when asked for
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong = {name for name in imported(tree) if name != own and LAYER[name] >= LAYER[own]}
        assert not wrong, (
            f"{path.relative_to(PACKAGE)} (layer {LAYER[own]}) imports {sorted(wrong)}"
        )
    assert set(LAYER) == met


def test_the_command_line_calls_the_verbs_and_nothing_below() -> None:
    """What it shows comes from `results`; of the tools it knows the settings that it passes on."""
    for path in (PACKAGE / "cli").rglob("*.py"):
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        below = names - ALLOWED
        assert not below, f"{path.relative_to(PACKAGE)} imports {sorted(below)}"


def test_the_check_sees_every_way_of_importing() -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport hsyn_cli.io.files\n"
        "from hsyn_cli import __version__, io\n"
        "if TYPE_CHECKING:\n    from hsyn_cli import cli\n"
        "def f():\n    from hsyn_cli.training.loop import train\n"
    )
    assert imported(ast.parse(text)) == {"io", "__init__", "training"}
