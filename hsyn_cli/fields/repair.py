"""The repair of a displacement field: smooth it where it folds, and only there."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hsyn_cli.fields.folding import Spacing, corner_determinant, corner_determinant_at
from hsyn_cli.fields.grids import along_axes
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.space import Grid


def repair(u: Tensor, spacing: Spacing, least: float, rounds: int = 50) -> tuple[Tensor, int]:
    """Smooth a field where it folds until no one-sided determinant is below `least`.

    Each round marks the voxels below `least`, widens that set by a voxel with a soft edge, and
    blends the field there with its own 3^3 mean. Averaging brings the determinant closer to 1, so
    the rounds come to an end. After the first round, only voxels next to a change are checked.

    Args:
        u: (B, 3, Z, Y, X) in mm; each of the B fields is repaired on its own.

    Returns:
        the field, and the number of voxels with a one-sided determinant <= 0 before the repair.
    """
    det = corner_determinant(u, spacing)
    out = u.detach().clone(memory_format=torch.contiguous_format)
    size = out.shape[2:]
    place = torch.empty(size.numel(), dtype=torch.int32, device=u.device)  # scratch for `_distinct`
    for field, low in zip(out, (det < least).flatten(1), strict=True):  # views
        flat, todo = field.view(3, -1), low.nonzero()[:, 0]
        for _ in range(rounds):
            if not len(todo):
                break
            near = _widened(todo, size, place)
            changed = _widened(near, size, place)
            weight = torch.zeros(1, size.numel(), device=u.device)
            weight[0, near] = 1
            weight, mean = (_means(v, changed, size) for v in (weight, flat))
            flat[:, changed] = torch.lerp(flat[:, changed], mean, weight)
            sides = [changed + step for axis in range(3) for step in _steps(changed, size, axis)]
            beside = _distinct(torch.cat(sides), place)
            todo = beside[corner_determinant_at(field, beside, spacing) < least]
    return out, int((~(det > 0)).sum())


def _steps(voxels: Tensor, size: torch.Size, axis: int) -> list[Tensor]:
    """Steps from N flat indices to the voxels before, at and after each along an axis (z, y, x).

    A step beyond the border is 0.
    """
    stride = size[axis + 1 :].numel()
    index = voxels // stride % size[axis]
    return [-stride * (index > 0), torch.zeros_like(index), stride * (index < size[axis] - 1)]


def _widened(voxels: Tensor, size: torch.Size, place: Tensor) -> Tensor:
    """(M,) flat indices of N voxels and of all voxels that touch them, each once."""
    for axis in range(3):
        voxels = _distinct(torch.cat([voxels + step for step in _steps(voxels, size, axis)]), place)
    return voxels


def _distinct(voxels: Tensor, place: Tensor) -> Tensor:
    """(M,) flat indices, each once. place: scratch, a number per voxel of any value."""
    order = torch.arange(len(voxels), dtype=place.dtype, device=voxels.device)
    place[voxels] = order  # of equal indices, one wins
    return voxels[place[voxels] == order]


def _means(values: Tensor, voxels: Tensor, size: torch.Size) -> Tensor:
    """(C, N) means of (C, Z * Y * X) values over the 3^3 voxels around N voxels.

    Beyond the border, border values hold.
    """
    total = torch.zeros(len(values), len(voxels), device=values.device)
    z, y, x = (_steps(voxels, size, axis) for axis in range(3))
    for of_z, of_y in itertools.product(z, y):
        line = voxels + of_z + of_y
        for of_x in x:
            total += values.index_select(1, line + of_x)
    return total.div_(27)


WRITTEN_FLOOR = 0.02  # least one-sided determinant on the grid that a field is written on


def unfolded(u: Tensor, grid: Grid) -> Tensor:
    """u (1, 3, Z, Y, X; mm LPS) on `grid` without folds, by the corner rule.

    A field that does not fold on its own grid can fold on another, which samples it between its
    voxels. The floor allows for rounding on disk and for the affine that goes on top.
    """
    along = along_axes(u, grid)
    mended, _ = repair(along, grid.spacing, WRITTEN_FLOOR)
    return rotate(grid.axes, mended)


def taper(u: Tensor, voxels: int) -> Tensor:
    """u (B, 3, Z, Y, X) times a raised cosine that falls to 0 over the outermost `voxels`.

    The field then joins the identity outside its grid.
    """
    for axis in (2, 3, 4):
        n = u.shape[axis]
        depth = torch.minimum(torch.arange(n), torch.arange(n - 1, -1, -1)).to(u.device)
        weight = 0.5 - 0.5 * torch.cos(torch.pi * (depth / voxels).clamp_max(1.0))
        u = u * weight.view([n if k == axis else 1 for k in range(5)])
    return u
