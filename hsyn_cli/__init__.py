"""hsyn: symmetric, invertible medical image registration.

>>> from hsyn_cli import apply_field, compose, evaluate, invert, jacobian, register  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsyn_cli.api import apply_field as apply_field
    from hsyn_cli.api import compose as compose
    from hsyn_cli.api import evaluate as evaluate
    from hsyn_cli.api import invert as invert
    from hsyn_cli.api import jacobian as jacobian
    from hsyn_cli.api import register as register

__version__ = "0.1.0"
__all__ = ["__version__", "apply_field", "compose", "evaluate", "invert", "jacobian", "register"]


def __getattr__(name: str) -> Any:
    """Load torch and SimpleITK only when one of the verbs is first asked for."""
    if name in __all__:
        from hsyn_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
