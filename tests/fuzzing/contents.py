"""Strategies for what the files hold: values of every type on grids of every orientation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fuzzing.model import Array, Kind, Volume

Draw = Callable[[st.SearchStrategy[Any]], Any]
INTEGERS = ("i2", "u1", "i1", "u2", "i4", "u4", "i8", "u8")
FLOATS = ("f4", "f8")
SPACINGS = (1.0, 0.06, 0.45, 0.9375, 2.0, 3.3, 7.5)
SLOPES = (1.0, 0.5, 0.01, 2.5, -1.0, 100.0, 0.0)  # 0: not scaled
INTERCEPTS = (0.0, 1.5, -1024.0, 32768.0)


def turn(a: float, b: float, c: float) -> Array:
    """(3, 3) rotation about x, then y, then z; radians."""
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


@st.composite
def affines(draw: Draw, upright: bool = False) -> Array:
    """(4, 4), index -> RAS, mm; axes permuted, flipped, oblique and anisotropic, no shear.

    `upright`: right-handed axes alone.
    """
    axes = np.eye(3)[:, draw(st.permutations(range(3)))]
    axes = axes * draw(st.tuples(*[st.sampled_from((1.0, -1.0))] * 3))
    if draw(st.booleans()):
        axes = turn(*draw(st.tuples(*[st.floats(-0.75, 0.75, width=16)] * 3))) @ axes
    if upright and np.linalg.det(axes) < 0:
        axes = axes * (-1.0, 1.0, 1.0)
    out = np.eye(4)
    out[:3, :3] = axes * draw(st.tuples(*[st.sampled_from(SPACINGS)] * 3))
    out[:3, 3] = draw(st.tuples(*[st.floats(-250, 250, width=16)] * 3))
    return out


def shape_of(draw: Draw, least: int = 4) -> tuple[int, ...]:
    """Three sizes from `least` to `least` + 8."""
    sizes: tuple[int, ...] = draw(st.tuples(*[st.integers(least, least + 8)] * 3))
    return sizes


def noise(kind: Kind, shape: Sequence[int], dtype: Any, rng: np.random.Generator) -> NDArray[Any]:
    """Random numbers that fit `kind` and `dtype`; a third of label maps is background."""
    dtype = np.dtype(dtype)
    if kind == "labels":
        ids = rng.integers(0, 4, shape)
        ids.flat[:2] = 0, 3
        return ids.astype(dtype)
    if kind == "field":
        mm = rng.normal(0, 2, shape)
        return (mm if dtype.kind == "f" else np.round(np.clip(mm * 20, -100, 100))).astype(dtype)
    if dtype.kind == "f":
        return np.asarray(rng.normal(50, 100, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    most = min(int(limits.max), 2**40)
    if rng.random() < 0.7:
        most = min(most, 1000)
    low = 0 if limits.min == 0 else -min(most, -int(limits.min))
    return rng.integers(low, most, shape, endpoint=True).astype(dtype)


@st.composite
def volumes(draw: Draw, kinds: Sequence[Kind], types: Sequence[str], scaled: bool) -> Volume:
    """A volume of one of `kinds`, in one of `types`. `scaled`: the format knows a slope."""
    kind = draw(st.sampled_from(kinds))
    shape = shape_of(draw)
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    slope, inter = 1.0, 0.0
    if kind == "rgb":
        dtype, shape = "u1", (*shape, 3)
    elif kind == "field":
        dtype, shape = (
            draw(st.sampled_from([t for t in ("f4", "f8", "i2") if t in types])),
            (
                *shape,
                3,
            ),
        )
        if dtype == "i2" and scaled:
            slope = 0.0625
    else:
        dtype = draw(st.sampled_from(list(types)))
        shape = (*shape, draw(st.integers(2, 4))) if kind == "series" else shape
    if scaled and kind in ("scalar", "series", "field") and draw(st.booleans()):
        slope, inter = draw(st.sampled_from(SLOPES)), draw(st.sampled_from(INTERCEPTS))
        slope, inter = (1.0, 0.0) if slope == 0 else (slope, inter)
    return Volume(
        kind,
        noise(kind, shape, dtype, rng),
        float(np.float32(slope)),
        inter,
        draw(affines()),
    )
