"""Plain data as JSON text."""

from __future__ import annotations

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """Replace NaN and infinity in plain data by None."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def dump(plain: Any) -> str:
    """Convert plain data to JSON text in ASCII: any stream and file takes any file name."""
    return json.dumps(finite(plain), indent=2, allow_nan=False) + "\n"
