"""hsyn: symmetric, invertible medical image registration.

>>> from hsyn_cli import apply_field, compose, evaluate  # doctest: +SKIP
>>> from hsyn_cli import invert, jacobian, register  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsyn_cli.method.register import register as register
    from hsyn_cli.tools.apply import apply_field as apply_field
    from hsyn_cli.tools.compose import compose as compose
    from hsyn_cli.tools.evaluate import evaluate as evaluate
    from hsyn_cli.tools.invert import invert as invert
    from hsyn_cli.tools.jacobian import jacobian as jacobian

# OpenMP's threads soon sleep where they wait for one another. By default they spin far longer and
# starve other programs on the same cores. No spin at all makes one run alone slower.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
if "torch" not in sys.modules and not os.environ.keys() & {*PASSIVE, "KMP_BLOCKTIME"}:
    os.environ.update(PASSIVE)  # OpenMP reads them when torch's library loads

__version__ = "0.1.0"
__all__ = ["__version__", "apply_field", "compose", "evaluate", "invert", "jacobian", "register"]


def __getattr__(name: str) -> Any:
    """Import a verb, and torch and SimpleITK with it, on first use."""
    if name in __all__:
        from hsyn_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
