"""What hsyn does on a device, as checks. Each takes "cpu" or "cuda" and returns what it computed.

tests/test_device.py runs each on the CPU and on the pretend device (see `pretend`).
"""

from __future__ import annotations

from collections.abc import Callable

from on_device import chains, parts, training
from on_device.parts import Results

Check = Callable[[str], Results]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        parts.networks, parts.forces, parts.refinement, parts.repair, parts.inverse,
        parts.composition, parts.resampling,
        chains.fast, chains.default, chains.channels, chains.masks, chains.cut,
        chains.slices, chains.contrast, chains.affine,
        training.training, training.further, training.bfloat16, training.breaths, training.session,
    )
}  # fmt: skip
