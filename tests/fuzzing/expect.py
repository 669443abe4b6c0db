"""What each function of hsyn may read from a valid file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from fuzzing.fields import to_lps
from fuzzing.model import LPS, Array, Expected, Kind, Volume

Make = Callable[..., st.SearchStrategy[Volume]]
Uses = dict[Kind, tuple[str, ...]]
USES: Uses = {
    "scalar": ("image", "image", "any", "mask", "grid", "labels"),
    "labels": ("labels", "mask", "image", "any"),
    "series": ("series", "series", "series", "grid", "image", "any"),
    "field": ("field", "field", "any", "grid", "form", "image"),
    "rgb": ("any", "any", "grid", "field", "image"),
}


def accepted_for(use: str, volume: Volume, affine: Array | None) -> tuple[Expected, ...]:
    """What `use` may read from a valid file of `volume`; () if it must refuse it."""
    values, kind = volume.values, volume.kind
    fits = {
        "image": kind in ("scalar", "labels"),
        "labels": kind in ("scalar", "labels") and bool((values == np.rint(values)).all()),
        "mask": kind in ("scalar", "labels"),
        "any": kind != "series",
        "field": kind == "field",
        "form": kind == "field",
        "series": kind == "series",
        "grid": True,
    }
    if not fits[use]:
        return ()
    return (Expected((values != 0) * 1.0 if use == "mask" else values, affine),)


def turned(volume: Volume, style: str) -> Array:
    """The vectors (X, Y, Z, 3) of a field as displacements, mm LPS, on one grid for both images."""
    return to_lps(volume.values, LPS @ volume.affine, style)
