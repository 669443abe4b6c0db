"""The exact inverse of a displacement field, and its residual.

A field u stands for the trilinear function that every other program takes it for. Its inverse is v
with v(x) + u(x + v(x)) = 0.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from hsyn_cli.fields.sampling import length, rotate, sample_index, sample_points, warp
from hsyn_cli.space import Array


def fixed_point_inverse(
    u: Tensor, spacing: float, seed: Tensor, tolerance: float, sweeps: int = 3
) -> Tensor:
    """v with |compose(v, u)| at most about `tolerance` mm at every voxel where u does not fold.

    A few fixed-point iterations v <- -u(x + v) start from `seed` and run over all voxels. Damped
    Newton steps follow on the voxels that the last iteration still moved. Points outside the grid
    get the border value of u, as in `warp`.

    Args:
        u, seed: (1, 3, Z, Y, X) in mm. spacing: voxel in mm.
    """
    v = seed
    for _ in range(sweeps):
        before, v = v, warp(u, v, spacing).neg_()
    todo = ((before - v).abs_().amax(1)[0] > tolerance).nonzero()  # z, y, x
    if len(todo):
        z, y, x = todo.unbind(1)
        start = v[0, :, z, y, x].T / spacing
        solved = newton(u[0] / spacing, todo.flip(1).float(), start, tolerance / spacing)
        v[0][:, z, y, x] = solved.T * spacing
    return v


def newton_step(v: Tensor, rest: Tensor, index: Tensor) -> Tensor:
    """v - (1 + grad v) rest, with rest = v + u(x + v): an approximate Newton step.

    1 + grad v, the derivative of the inverse map, stands in for the inverse of 1 + grad u.

    Args:
        v, rest: (B, 3, Z, Y, X). index: `rest` in voxels along the axes of v.
    """
    out = v - rest
    for k, axis in enumerate((4, 3, 2)):
        if v.shape[axis] > 1:
            out.addcmul_(torch.gradient(v, dim=axis)[0], index[:, k : k + 1], value=-1)
    return out


def newton(u: Tensor, x: Tensor, d: Tensor, tolerance: float, steps: int = 30) -> Tensor:
    """Damped Newton's method: d (N, 3) with |d + u(x + d)| at most `tolerance` at N points.

    Points that do not reach the tolerance keep their best d.

    Args:
        u: (3, Z, Y, X). x: (N, 3), continuous indices x, y, z. d: (N, 3), the start. All in voxels.
    """
    d = d.clone()
    value, slope = sample_points(u, x + d)
    r = d + value
    damp = torch.ones(len(x), 1, device=u.device)
    active = torch.arange(len(x), device=u.device)
    eye = torch.eye(3, device=u.device)
    for _ in range(steps):
        active = active[r[active].norm(dim=1) > tolerance]
        if not len(active):
            break
        jac = eye + slope[active]
        jac = jac + 1e-3 * eye * (torch.linalg.det(jac).abs() < 1e-3)[:, None, None]
        step = torch.linalg.solve(jac, r[active])
        # A step is one voxel long at most.
        step = step * (1.0 / step.norm(dim=1, keepdim=True).clamp_min(1.0))
        trial = d[active] - damp[active] * step
        value, trial_slope = sample_points(u, x[active] + trial)
        r_trial = trial + value
        better = r_trial.norm(dim=1) < r[active].norm(dim=1)
        won = active[better]
        d[won], r[won], slope[won] = trial[better], r_trial[better], trial_slope[better]
        damp[won] = (2 * damp[won]).clamp_max(1.0)
        damp[active[~better]] *= 0.5
    return d


def newton_sweeps(
    u: Tensor, r: Tensor, v: Tensor, tolerance: float, to_axes: Array
) -> tuple[Tensor, Tensor]:
    """v with |v + u(r + v)| at most `tolerance`, and the residual v + u(r + v).

    Args:
        r, v: (1, 3, z, y, x). All lengths are in voxels of u.
        to_axes: (3, 3) from voxels of u to those of the axes along which r is laid out.
    """
    rest = v + sample_index(u, r + v)
    for sweep in range(SWEEPS + 1):
        off = length(rest).flatten()
        # NaN counts as far, too. torch's nonzero takes ten times as long.
        few = np.flatnonzero(~(off <= tolerance).cpu().numpy())
        far = torch.from_numpy(few).to(u.device).expand(3, -1)
        if sweep == SWEEPS or len(few) < FEW * len(off):
            break
        before = gather_voxels(v, far)
        after = gather_voxels(newton_step(v, rest, rotate(to_axes, rest)), far)
        left = after + sample_index(u, gather_voxels(r, far) + after)
        better = length(left) < off[far[0]]  # the cheap steps can diverge next to folds
        scatter_voxels(v, far, torch.where(better, after, before))
        scatter_voxels(rest, far, torch.where(better, left, gather_voxels(rest, far)))
    if len(few):
        x = gather_voxels(r, far).view(3, -1).T
        d = newton(u[0], x, gather_voxels(v, far).view(3, -1).T, tolerance)
        left = d + sample_points(u[0], x + d)[0]
        restart_elsewhere(u[0], x, d, left, tolerance)
        scatter_voxels(v, far, d.T)
        scatter_voxels(rest, far, left.T)
    return v, rest


def restart_elsewhere(u: Tensor, x: Tensor, d: Tensor, left: Tensor, tolerance: float) -> None:
    """Restart Newton's method a voxel away, in all directions, at points where it is stuck.

    It gets stuck next to folds. Changes `d` and its residual `left`, both (N, 3), in place.
    """
    for shift in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        (stuck,) = (left.norm(dim=1) > tolerance).nonzero(as_tuple=True)
        if not 0 < len(stuck) <= FEW_STUCK:
            return
        trial = newton(u, x[stuck], d[stuck] + d.new_tensor(shift), tolerance)
        rest = trial + sample_points(u, x[stuck] + trial)[0]
        better = rest.norm(dim=1) < left[stuck].norm(dim=1)
        d[stuck[better]], left[stuck[better]] = trial[better], rest[better]


def gather_voxels(u: Tensor, which: Tensor) -> Tensor:
    """u (1, 3, z, y, x) at the flat voxel indices `which` (3, N) -> (1, 3, 1, 1, N)."""
    return u.view(3, -1).gather(1, which).view(1, 3, 1, 1, -1)


def scatter_voxels(u: Tensor, which: Tensor, values: Tensor) -> None:
    """Write `values` (1, 3, 1, 1, N or 3, N) to the voxels that `gather_voxels` reads."""
    u.view(3, -1).scatter_(1, which, values.reshape(3, -1))


SWEEPS = 3  # of cheap Newton steps over the voxels above the tolerance
FEW = 0.1  # share of the voxels that goes to Newton's method proper
FEW_STUCK = 500  # voxels of a slab that are worth more than one start
