"""Where two fields lead to: the ways from the voxels of one grid into another one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.devices import to_device
from hsyn_cli.fields.marked import Mask, marked, marked_on
from hsyn_cli.fields.slabs import each_slab
from hsyn_cli.space import Grid

PART = 16_000  # points in one call; their temporaries stay in the cache
PART_ELSEWHERE = 500_000  # the same on a GPU


def points_at_once(device: torch.device) -> int:
    """How many points one call takes."""
    return PART if device.type == "cpu" else PART_ELSEWHERE


@dataclass(frozen=True)
class Ways:
    """The ways p -> p + u(p) from voxels of one grid, in voxels (x, y, z) of the other grid.

    Attributes:
        voxels: (N, 3) indices of the points p in their own grid.
        starts, ends: (N, 3), p and p + u(p) in voxels of the other grid.
        per_mm: (3, 3), from mm to voxels of the other grid; it multiplies from the right.
    """

    voxels: Tensor
    starts: Tensor
    ends: Tensor
    per_mm: Tensor

    @classmethod
    def of(cls, u: Tensor, grid: Grid, other: Grid, content: Mask) -> Ways:
        """Those from `content` (Z, Y, X) that stay inside `other`."""
        to_index = np.linalg.inv(other.index_to_point)
        shift = to_index @ (np.array(grid.origin) - np.array(other.origin))
        matrix = torch.from_numpy((to_index @ grid.index_to_point).T).float()
        per_mm = to_device(torch.from_numpy(to_index.T.copy()).float(), u.device)
        last = to_device(torch.tensor(other.size) - 1, u.device)
        # The points of a slice are off its plane by rounding.
        room = torch.where(last == 0, 0.5, 0.0)
        matrix, offset = (to_device(v, u.device) for v in (matrix, torch.from_numpy(shift).float()))
        planes = max(1, points_at_once(u.device) // content[0].size)
        parts = {}

        def work(first: int, end: int) -> None:  # the indices of a whole image are large
            slab = content[first:end]
            on_cpu = u.device.type == "cpu"
            flat, (z, y, x) = marked(slab) if on_cpu else marked_on(slab, u.device)
            voxels = torch.stack((x, y, z.add_(first)), 1)
            starts = torch.addmm(offset, voxels.float(), matrix)
            steps = u[0, :, first:end].flatten(1).gather(1, flat.expand(3, -1))
            ends = torch.addmm(starts, steps.T, per_mm)
            inside = ((ends >= -room) & (ends <= last + room)).all(1).nonzero()[:, 0]
            parts[first] = [of.index_select(0, inside) for of in (voxels.int(), starts, ends)]

        each_slab(work, len(content), planes, u.device)
        found = (parts[first] for first in sorted(parts))
        voxels, starts, ends = (torch.cat(part) for part in zip(*found, strict=True))
        return cls(voxels, starts, ends, per_mm)
