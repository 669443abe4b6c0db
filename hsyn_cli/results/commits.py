"""How often this process has put outputs in place, for the last words of the command line."""

from __future__ import annotations

from hsyn_cli.io.atomic import commits as commits
