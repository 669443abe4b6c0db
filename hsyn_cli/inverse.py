"""The exact inverse of a displacement field, and its residual.

A field is inverted as the trilinear function that every other program takes it for: v with v(x) + u(x + v(x)) = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsyn_cli.fields import warp


def sample_points(u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """u and its exact derivative at N points, trilinear, border values held.

    Args:
        u: (3, Z, Y, X). index: (N, 3), continuous, x, y, z.

    Returns:
        values (N, 3) and jacobian (N, 3, 3) with jacobian[n, i, k] = d u_i / d index_k.
    """
    size = torch.tensor(list(u.shape[:0:-1]), device=u.device)
    given = index
    index = torch.minimum(index.clamp_min(0), (size - 1).to(index.dtype))
    low = torch.minimum(index.floor().long(), size - 2)
    t = index - low
    nx, ny = int(size[0]), int(size[1])
    flat = u.reshape(3, -1)
    base = (low[:, 2] * ny + low[:, 1]) * nx + low[:, 0]
    c = [
        flat.index_select(1, base + (dz * ny + dy) * nx + dx)
        for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)
    ]  # fmt: skip
    tx, ty, tz = t.unbind(1)
    ex = [(c[k + 1] - c[k]) for k in (0, 2, 4, 6)]  # along x, per (z, y)
    lx = [c[k] + tx * e for k, e in zip((0, 2, 4, 6), ex, strict=True)]
    ey = [lx[1] - lx[0], lx[3] - lx[2]]
    ly = [lx[0] + ty * ey[0], lx[2] + ty * ey[1]]
    dz = ly[1] - ly[0]
    mix = (1 - ty) * (1 - tz), ty * (1 - tz), (1 - ty) * tz, ty * tz
    dx = mix[0] * ex[0] + mix[1] * ex[1] + mix[2] * ex[2] + mix[3] * ex[3]
    dy = ey[0] + tz * (ey[1] - ey[0])
    slope = (
        torch.stack((dx, dy, dz), dim=-1).movedim(0, 1) * (given == index)[:, None]
    )  # flat beyond the border
    return (ly[0] + tz * dz).T, slope


def invert(u: Tensor, spacing: float, seed: Tensor, tolerance: float, sweeps: int = 3) -> Tensor:
    """v with |compose(v, u)| at most about `tolerance` mm at every voxel where u does not fold.

    A few fixed-point sweeps v <- -u(x + v) over all voxels from `seed`, then damped Newton steps on the voxels that
    the last sweep still moved. Voxels whose point leaves the grid use the border value of u, as `warp` does.

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
        v[0][:, z, y, x] = solve(u[0] / spacing, todo.flip(1).float(), start, tolerance / spacing).T * spacing
    return v


def closer(v: Tensor, rest: Tensor, index: Tensor) -> Tensor:
    """v - (1 + grad v) rest, with rest = v + u(x + v): a Newton step that takes 1 + grad v, which the inverse has for its
    derivative, for the inverse of 1 + grad u.

    Args:
        v, rest: (B, 3, Z, Y, X). index: `rest` in voxels along the axes of v.
    """
    out = v - rest
    for k, axis in enumerate((4, 3, 2)):
        if v.shape[axis] > 1:
            out.addcmul_(torch.gradient(v, dim=axis)[0], index[:, k : k + 1], value=-1)
    return out


def solve(u: Tensor, x: Tensor, d: Tensor, tolerance: float, steps: int = 30) -> Tensor:
    """Damped Newton: d (N, 3) with |d + u(x + d)| at most `tolerance` at N points, as far as it gets.

    Args:
        u: (3, Z, Y, X). x: (N, 3), continuous indices x, y, z. d: (N, 3), where to start. All in voxels.
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
        step = step * (1.0 / step.norm(dim=1, keepdim=True).clamp_min(1.0))  # at most a voxel at once
        trial = d[active] - damp[active] * step
        value, trial_slope = sample_points(u, x[active] + trial)
        r_trial = trial + value
        better = r_trial.norm(dim=1) < r[active].norm(dim=1)
        won = active[better]
        d[won], r[won], slope[won] = trial[better], r_trial[better], trial_slope[better]
        damp[won] = (2 * damp[won]).clamp_max(1.0)
        damp[active[~better]] *= 0.5
    return d


def taper(u: Tensor, voxels: int) -> Tensor:
    """u (B, 3, Z, Y, X) times a raised cosine that falls to 0 over the outermost `voxels`: the identity outside."""
    for axis in (2, 3, 4):
        n = u.shape[axis]
        depth = torch.minimum(torch.arange(n), torch.arange(n - 1, -1, -1)).to(u.device)
        weight = 0.5 - 0.5 * torch.cos(torch.pi * (depth / voxels).clamp_max(1.0))
        u = u * weight.view([n if k == axis else 1 for k in range(5)])
    return u
