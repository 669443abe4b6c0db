"""Hounsfield units are told from all grey values, not from a low minimum alone."""

from __future__ import annotations

import numpy as np

from hsyn_cli.anatomy.background import Values, find, sample

LOW = -500.0  # HU; every CT with air, lungs or padding holds values as low
RANGE, LEAST_INSIDE = (-1100.0, 3100.0), 0.95  # HU of all scanned voxels but noise and metal
AIR_PADDING = -900.0  # HU; padding of a CT is as dark

# HU: up to AIR is air and lung, from there to SOFT its edges. Fat and soft tissue lie in NARROW.
AIR, SOFT, NARROW, FAT, BONE = -650.0, -200.0, (-150.0, 100.0), (-200.0, -20.0), 300.0
LEAST_AIR = 0.005  # of the content
LEAST_NARROW = 0.58  # of what is denser than air; MR that was shifted has half as much
OVER_EDGES = 3.0  # voxels of soft tissue to one of an edge
LEAST_FAT, LEAST_BONE = 0.02, 0.003  # of what is denser than air
LEAST_VESSELS, VESSEL_EDGES = 0.0015, -450.0  # share of lungs cut out by a mask; HU
# Share of air in what a mask has cut out, and of vessels and chest wall in what is no lung.
CUT_OUT = ((0.5, 0.055), (0.3, 0.5))


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

    def share(low: float, high: float = np.inf, above: float = -np.inf) -> float:
        inside = (content >= low) & (content < high)
        return float(inside.sum() / max(1, (content >= above).sum()))

    air, vessels, dense = share(-np.inf, AIR), share(SOFT), share(VESSEL_EDGES)
    lungs = (
        ground is not None
        and vessels >= LEAST_VESSELS
        and any(air >= least and vessels >= part * dense for least, part in CUT_OUT)
    )
    tissue = (
        share(*NARROW, above=AIR) >= LEAST_NARROW
        and share(SOFT, BONE) >= OVER_EDGES * share(AIR, SOFT)
    )  # fmt: skip
    bony = share(*FAT, above=AIR) >= LEAST_FAT and share(BONE, above=AIR) >= LEAST_BONE
    body = tissue and (air >= LEAST_AIR or (padded and bony))
    return share(*RANGE) >= LEAST_INSIDE and (lungs or body)
