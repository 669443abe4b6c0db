"""Lesions: what an image shows that the other one cannot have does not count."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hsyn_cli.anatomy.intensity import resample_mask, widened
from hsyn_cli.anatomy.organs import Chains, Masks
from hsyn_cli.space import Grid


def beside(lesions: Masks, grid: Grid, chains: Chains, edge: int) -> Tensor | None:
    """(2, 1, Z, Y, X): 0 within `edge` voxels of each image's lesion; None: there is none."""
    if lesions == (None, None):
        return None
    rows = []
    for lesion, chain in zip(lesions, chains, strict=True):
        own = resample_mask(None, grid)
        if lesion is not None:
            own = own - widened(resample_mask(lesion, grid, chain, touched=True), edge)
        rows.append(own)
    return torch.cat(rows)


def product(*parts: Tensor | None) -> Tensor | None:
    """Of those that are there."""
    there = [part for part in parts if part is not None]
    return math.prod(there[1:], start=there[0]) if there else None
