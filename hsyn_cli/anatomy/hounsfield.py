"""Hounsfield units are told from all grey values, not from a low minimum alone."""

from __future__ import annotations

import numpy as np

from hsyn_cli.anatomy.background import Values, faces, find, sample

LOW = -500.0  # HU; every CT with air, lungs or padding holds values as low
RANGE, LEAST_INSIDE = (-1100.0, 3100.0), 0.95  # HU of all scanned voxels but noise and metal
AIR_PADDING = -900.0  # HU; padding of a CT is as dark

# HU: up to AIR is air and lung, from there to SOFT its edges. Fat and soft tissue lie in NARROW.
AIR, SOFT, NARROW, FAT, BONE = -650.0, -200.0, (-150.0, 100.0), (-200.0, -20.0), 300.0
LEAST_AIR = 0.005  # of the content
LEAST_NARROW = 0.5  # of what is denser than air; MR that was shifted has less
OVER_EDGES = 3.0  # voxels of soft tissue to one of an edge
LEAST_FAT, LEAST_BONE = 0.02, 0.003  # of what is denser than air
LEAST_VESSELS, VESSEL_EDGES = 0.0015, -450.0  # share of lungs cut out by a mask; HU
# Share of air in what a mask has cut out, and of vessels and chest wall in what is no lung.
CUT_OUT = ((0.5, 0.055), (0.3, 0.5))
LEAST_CUT = 0.5  # share of tissue at the border of a crop, relative to that of the whole


def in_hounsfield(values: Values) -> bool:
    """Whether (Z, Y, X) `values` are a CT in Hounsfield units.

    Its flat background does not count, so a mask may have cut out the body or the lungs. The rest
    is air or lung, and tissue, most of it fat or soft. Instead of the air, a dark padding with fat
    and bone will do. Lungs alone are mostly air, with some vessels.
    """
    if values.min() > LOW:
        return False
    ground, some = find(values), sample(values)
    content = some.ravel() if ground is None else some[~ground.holds(some)]
    padded = ground is not None and min(ground.main, *ground.padding, 0.0) <= AIR_PADDING
    if ground is not None and ground.main < RANGE[0]:
        content = content[content >= RANGE[0]]  # edges of the padding
    return _share(content, *RANGE) >= LEAST_INSIDE and (
        _body(content, padded) or (_lungs(content) and (ground is not None or _cropped(values)))
    )


def _share(values: Values, low: float, high: float = np.inf, above: float = -np.inf) -> float:
    """The share of the values from `low` to `high` in all those from `above` on."""
    inside = (values >= low) & (values < high)
    return float(inside.sum() / max(1, (values >= above).sum()))


def _body(content: Values, padded: bool) -> bool:
    fat, bone = _share(content, *FAT, above=AIR), _share(content, BONE, above=AIR)
    air = _share(content, -np.inf, AIR) >= LEAST_AIR
    return (
        _share(content, *NARROW, above=AIR) >= LEAST_NARROW
        and _share(content, SOFT, BONE) >= OVER_EDGES * _share(content, AIR, SOFT)
        and (air or (padded and fat >= LEAST_FAT and bone >= LEAST_BONE))
    )


def _lungs(content: Values) -> bool:
    air, vessels = _share(content, -np.inf, AIR), _share(content, SOFT)
    dense = _share(content, VESSEL_EDGES)
    return vessels >= LEAST_VESSELS and any(
        air >= least and vessels >= part * dense for least, part in CUT_OUT
    )


def _cropped(values: Values) -> bool:
    """Whether the border shows about as much tissue as the whole, as inside a lung."""
    border = np.concatenate([face.ravel() for face in faces(values)])
    return _share(border, AIR) >= LEAST_CUT * _share(sample(values), AIR)
