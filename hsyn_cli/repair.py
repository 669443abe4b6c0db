"""The repair of a displacement field that folds: smoothed where it does, and only there."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hsyn_cli.fields import corner_determinant, corner_determinant_at


def repair(u: Tensor, spacing: float, least: float, rounds: int = 50) -> tuple[Tensor, int]:
    """Smooth a field where it folds, and only there, until no one-sided determinant lies below `least`.

    Each round finds the voxels below `least`, widens that set by a voxel with a soft edge and blends the field there with its
    own 3^3 mean. The mean of a field has a determinant nearer to 1, so it ends. After the first look only voxels next to what
    changed are looked at.

    Args:
        u: (B, 3, Z, Y, X) in mm, B fields apart.

    Returns:
        the field and how many voxels folded at first: had a one-sided determinant of 0 or less.
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
            seen = _distinct(torch.cat(sides), place)
            todo = seen[corner_determinant_at(field, seen, spacing) < least]
    return out, int((~(det > 0)).sum())


def _steps(voxels: Tensor, size: torch.Size, axis: int) -> list[Tensor]:
    """From N flat indices to those before, at and after each along an axis (z, y, x), 0 where there is none."""
    stride = size[axis + 1 :].numel()
    index = voxels // stride % size[axis]
    return [-stride * (index > 0), torch.zeros_like(index), stride * (index < size[axis] - 1)]


def _widened(voxels: Tensor, size: torch.Size, place: Tensor) -> Tensor:
    """(M,) flat indices of N voxels and of all that touch them, each once."""
    for axis in range(3):
        voxels = _distinct(torch.cat([voxels + step for step in _steps(voxels, size, axis)]), place)
    return voxels


def _distinct(voxels: Tensor, place: Tensor) -> Tensor:
    """(M,) flat indices, each once. place: a number for every voxel, whatever they are."""
    order = torch.arange(len(voxels), dtype=place.dtype, device=voxels.device)
    place[voxels] = order  # of equal ones one wins
    return voxels[place[voxels] == order]


def _means(values: Tensor, voxels: Tensor, size: torch.Size) -> Tensor:
    """(C, N) means of (C, Z * Y * X) values over the 3^3 voxels around N of them; beyond the border the border's hold."""
    total = torch.zeros(len(values), len(voxels), device=values.device)
    z, y, x = (_steps(voxels, size, axis) for axis in range(3))
    for of_z, of_y in itertools.product(z, y):
        line = voxels + of_z + of_y
        for of_x in x:
            total += values.index_select(1, line + of_x)
    return total.div_(27)
