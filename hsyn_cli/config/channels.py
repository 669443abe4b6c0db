"""Several channels of both images, such as T1 and T2, and how much each pulls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar, cast

from hsyn_cli.errors import UsageError

T = TypeVar("T")


def listed(images: T | Sequence[T]) -> list[T]:
    """One image or several as a list."""
    return list(images) if isinstance(images, list | tuple) else [cast(T, images)]


def channels_of(moving: Sequence[T], fixed: Sequence[T]) -> list[tuple[T, T]]:
    """The channels of both images, moving first. Raises UsageError unless there are as many."""
    if len(moving) != len(fixed) or not moving:
        raise UsageError(
            f"{len(moving)} moving and {len(fixed)} fixed images are given",
            "give as many channels of both images",
        )
    return list(zip(moving, fixed, strict=True))


def weights_of(given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """The weights of so many channels, with the sum 1. Raises UsageError."""
    weights = tuple(given or (1.0,) * count)
    if len(weights) != count:
        weight, channel = ("s" if n > 1 else "" for n in (len(weights), count))
        raise UsageError(
            f"{len(weights)} weight{weight} for {count} channel{channel}",
            "give one weight for each channel, or none",
        )
    if not all(0 <= weight < math.inf for weight in weights) or not weights[0] > 0:
        raise UsageError(
            f"channels cannot have the weights {', '.join(f'{v:g}' for v in weights)}",
            "give weights of 0 and more; the first is above 0",
        )
    return tuple(weight / sum(weights) for weight in weights)
