"""The repair of a displacement field: smooth it where it folds, and only there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hsyn_cli.fields.folding import (
    Spacing,
    corner_determinant,
    corner_determinant_at,
    determinant,
    determinants,
)
from hsyn_cli.fields.grids import along_axes
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.fields.smoothing import box_operator, separable
from hsyn_cli.space import Grid

NARROW = 4  # rounds in which means are over neighbours; a brain's fields take two


def repair(u: Tensor, spacing: Spacing, least: float, rounds: int = 50) -> tuple[Tensor, int]:
    """Smooth fields where they fold until no one-sided determinant is below `least`.

    Args:
        u: (B, 3, Z, Y, X) in mm; each of the B fields is repaired on its own.

    Returns:
        the fields, and the number of voxels with a one-sided determinant <= 0 before the repair.
    """
    det = corner_determinant(u, spacing)
    out = u.detach().clone(memory_format=torch.contiguous_format)
    for field, low in zip(out, det < least, strict=True):
        mend(field, low, spacing, least, rounds)
    return out, int((~(det > 0)).sum())


def mend(field: Tensor, low: Tensor, spacing: Spacing, least: float, rounds: int = 50) -> None:
    """Smooth a field in place until no one-sided determinant is below `least`.

    Each round marks the voxels below `least`, widens that set by a voxel with a soft edge, and
    blends the field there with its own 3^3 mean. Averaging brings the determinant closer to 1, so
    the rounds come to an end. A mean of so few voxels takes many rounds where a field folds over a
    wide part: see `_reach`. After the first round, only voxels next to a change are checked.

    Args:
        field: (3, Z, Y, X) in mm, contiguous. low: (Z, Y, X), True where it is below `least`.
    """
    size, device = low.shape, field.device
    flat, todo = field.view(3, -1), low.flatten().nonzero()[:, 0]
    place = torch.empty(size.numel(), dtype=torch.int32, device=device)  # scratch for `_distinct`
    marks = torch.zeros(1, size.numel(), device=device)
    for count in range(rounds):
        if not len(todo):
            break
        reach = _reach(count)
        changed = _softened(flat, todo, size, place, marks, reach)
        sides = [changed + step for axis in range(3) for step in _steps(changed, size, axis)]
        beside = _distinct(torch.cat(sides), place)
        todo = beside[corner_determinant_at(field, beside, spacing) < least]


def soften(flat: Tensor, voxels: Tensor, size: torch.Size, counts: Tensor) -> Tensor:
    """Blend a field with its own 3^3 mean around some voxels, in place; one round of `mend`.

    Returns the flat indices of the voxels that changed.

    Args:
        flat: (3, Z * Y * X), contiguous. voxels: flat indices. size: (Z, Y, X).
        counts: (Z * Y * X,), of bool; False keeps a voxel as it is.
    """
    place = torch.empty(size.numel(), dtype=torch.int32, device=flat.device)
    marks = torch.zeros(1, size.numel(), device=flat.device)
    return _softened(flat, voxels, size, place, marks, 1, counts)


def _softened(
    flat: Tensor,
    voxels: Tensor,
    size: torch.Size,
    place: Tensor,
    marks: Tensor,
    reach: int,
    counts: Tensor | None = None,
) -> Tensor:
    """As `soften`; counts: None counts all. place, marks (zeros): scratch."""
    near = _widened(voxels, size, place, reach)
    changed = _widened(near, size, place, reach)
    changed = changed if counts is None else changed[counts[changed]]
    marks[0, near] = 1
    weight, mean = (_means(v, changed, size, reach) for v in (marks, flat))
    marks[0, near] = 0
    flat[:, changed] = torch.lerp(flat[:, changed], mean, weight)
    return changed


def _reach(count: int) -> int:
    """How far apart the voxels of a mean lie, in the round after `count` rounds.

    Every second round takes voxels farther apart, once a few rounds were not enough; the rounds
    between even out what lies between these voxels.
    """
    return 1 if count < NARROW or count % 2 == 0 else 2 + min(count // 8, 2)


def _steps(voxels: Tensor, size: torch.Size, axis: int, reach: int = 1) -> list[Tensor]:
    """Steps from N flat indices to `reach` voxels before, at and after each along z, y or x.

    They end at the border.
    """
    stride = size[axis + 1 :].numel()
    index = voxels // stride % size[axis]
    back, ahead = index.clamp_max(reach), (size[axis] - 1 - index).clamp_max_(reach)
    return [back.mul_(-stride), torch.zeros_like(index), ahead.mul_(stride)]


def _widened(voxels: Tensor, size: torch.Size, place: Tensor, reach: int) -> Tensor:
    """(M,) flat indices of N voxels and of all voxels within `reach` along each axis, each once."""
    for axis in (0, 1, 2) * reach:
        voxels = _distinct(torch.cat([voxels + step for step in _steps(voxels, size, axis)]), place)
    return voxels


def _distinct(voxels: Tensor, place: Tensor) -> Tensor:
    """(M,) flat indices, each once. place: scratch, a number per voxel of any value."""
    order = torch.arange(len(voxels), dtype=place.dtype, device=voxels.device)
    place[voxels] = order  # of equal indices, one wins
    return voxels[place[voxels] == order]


def _means(values: Tensor, voxels: Tensor, size: torch.Size, reach: int) -> Tensor:
    """(C, N) means of (C, Z * Y * X) values over 3^3 voxels, `reach` apart, around N voxels.

    Beyond the border, border values hold.
    """
    total = torch.zeros(len(values), len(voxels), device=values.device)
    z, y, x = (_steps(voxels, size, axis, reach) for axis in range(3))
    for of_z, of_y in itertools.product(z, y):
        line = voxels + of_z + of_y
        for of_x in x:
            total += values.index_select(1, line + of_x)
    return total.div_(27)


UNFOLDINGS = 10  # rounds
WRITTEN_FLOOR = 1e-3  # least determinant of a field on the grid that it is written on
CORNER_FLOOR = 0.1  # the same by the corner rule
MOST_FOLDS = 0.1  # of all voxels
OUTWARD = 0.6  # of the depth; content eight voxels inside may move so far and more


def unfolded(u: Tensor, grid: Grid, reach: float) -> Tensor:
    """u (1, 3, Z, Y, X; mm LPS), with its folds replaced by local means of u.

    A field that does not fold on its own grid can fold on another, which samples it between its
    voxels. What folds by central differences is replaced first, with a soft edge. `repair` then
    mends what still folds by the corner rule. The floors allow for rounding on disk and for the
    affine that goes on top. A field that folds at more than a tenth of its voxels is turned inside
    out, and stays as it is.

    Args:
        reach: mm that the local means cover on each side, at least a voxel. They do not cross
            slices that are more than twice as thick.
    """
    along = along_axes(u, grid)
    central, corner = determinants(along, grid.spacing)
    share = float((~(central > WRITTEN_FLOOR)).float().mean())
    if share >= MOST_FOLDS:
        return u
    if share > 0:
        along = along_axes(_evened(u, grid, reach), grid)
        corner = corner_determinant(along, grid.spacing)
    low = corner < CORNER_FLOOR
    if share == 0 and not low.any():
        return u
    del central, corner
    mend(along[0], low[0], grid.spacing, CORNER_FLOOR)
    return rotate(grid.axes, along)


def _evened(u: Tensor, grid: Grid, reach: float) -> Tensor:
    """u with local means where it folds by central differences."""
    folds = _folds(u, grid)
    fine = 2 * max(reach, min(grid.spacing))
    # Voxels along z, y, x.
    reaches = [max(1, round(reach / s)) if s <= fine else 0 for s in grid.spacing[::-1]]
    box = (slice(None), slice(None), *_around(folds[0, 0], [12 * n + 2 for n in reaches]))
    part, u = u[box], u.clone()
    mean, far, soft = (box_operator(part, [2 * k * n + 1 for n in reaches]) for k in (1, 3, 2))
    folds = folds[box]
    near = separable(folds.float(), box_operator(part, [12 * n + 3 for n in reaches])) > 0
    for _ in range(UNFOLDINGS):
        if not folds.any():
            break
        weight = separable((separable(folds.float(), far) > 0).float(), soft)
        part = torch.lerp(part, separable(part, mean), weight)
        folds = _folds(part, grid) & near  # the box's sides have one-sided differences
    u[box] = part
    return u


def _folds(u: Tensor, grid: Grid) -> Tensor:
    """(1, 1, Z, Y, X): True where u folds or nearly folds.

    The margin allows for rounding on disk and for the affine that goes on top.
    """
    return ~(determinant(along_axes(u, grid), grid.spacing) > WRITTEN_FLOOR)[:, None]


def _around(mask: Tensor, beyond: Sequence[int]) -> list[slice]:
    """Slices of the smallest box (Z, Y, X) around `mask`, `beyond` voxels wider on each side."""
    ends = [(int(index.min()), int(index.max())) for index in mask.nonzero(as_tuple=True)]
    return [
        slice(max(low - n, 0), high + n + 1) for (low, high), n in zip(ends, beyond, strict=True)
    ]


def faded(u: Tensor, wide: int) -> Tensor:
    """u (B, 3, Z, Y, X) times a raised cosine that falls to 0 over the outermost `wide` voxels."""
    u = u.clone()
    for axis, before, behind in _sides(u):
        depth = torch.minimum(before, behind)
        u *= _along(axis, 0.5 - 0.5 * torch.cos(torch.pi * (depth / wide).clamp_max(1.0)))
    return u


def taper(u: Tensor, voxel: float, wide: int) -> Tensor:
    """u (B, 3, Z, Y, X) in mm, `faded`, so that it joins the identity outside its grid.

    What then still moves out by more than OUTWARD of its depth moves so far alone: a field that
    ends more steeply folds.
    """
    u = faded(u, wide)
    for axis, before, behind in _sides(u):
        most = OUTWARD * voxel
        along = u[:, 4 - axis : 5 - axis]
        torch.clamp(along, _along(axis, -most * before), _along(axis, most * behind), out=along)
    return u


def _sides(u: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each wide axis of u (B, C, Z, Y, X), and the (N,) voxels before and behind each voxel."""
    for axis in (2, 3, 4):
        before = torch.arange(u.shape[axis], device=u.device)
        if len(before) > 1:
            yield axis, before, before.flip(0)


def _along(axis: int, values: Tensor) -> Tensor:
    """(N,) values as (1, 1, Z, Y, X), along one axis."""
    return values.view([-1 if k == axis else 1 for k in range(5)])
