"""The result of an inversion."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import SimpleITK as sitk

from hsyn_cli.fields.folding import Folding
from hsyn_cli.fields.grids import ErrorStats


@dataclass(frozen=True)
class Inversion:
    """An inverse field e and its residual |q + e(q) + d(q + e(q)) - q| at every voxel q.

    Attributes:
        inverse: float32 vector image, mm LPS.
        residual: over all voxels without a mark.
        residual_map: mm; -1 marks a q to which no point of the field's grid leads, -2 one whose
            inverse lies in a fold.
        folding: of the inverted field.
        outside, folded: numbers of voxels with these marks, of `voxels`.
        unsolved: number of the other voxels with a residual above ten times the tolerance, usually
            next to folds.
        reversed: |e(p + d(p)) + d(p)| over all voxels p of d that stay inside, after a fit.
    """

    inverse: sitk.Image
    residual: ErrorStats
    residual_map: sitk.Image
    folding: Folding
    outside: int
    folded: int
    unsolved: int
    voxels: int
    reversed: ErrorStats | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the images."""
        plain = {
            "residual": dataclasses.asdict(self.residual),
            "folding": dataclasses.asdict(self.folding),
            **{name: getattr(self, name) for name in ("outside", "folded", "unsolved", "voxels")},
        }
        return plain | ({"reversed": dataclasses.asdict(self.reversed)} if self.reversed else {})
