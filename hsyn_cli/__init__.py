"""hsyn: symmetric, invertible medical image registration.

>>> from hsyn_cli import register  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsyn_cli.pipeline import register as register

__version__ = "0.1.0"
__all__ = ["__version__", "register"]


def __getattr__(name: str) -> Any:
    """Load torch and SimpleITK only when `register` is first asked for."""
    if name == "register":
        from hsyn_cli.pipeline import register

        return register
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
