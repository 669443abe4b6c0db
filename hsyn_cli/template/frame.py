"""The frame of a template: its grid, and affine maps to all scans that favour none of them.

A map sends a point p of the template to A p + t in a scan, mm LPS.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import expm, logm, polar

from hsyn_cli.space import Array, Grid
from hsyn_cli.template.scans import Scans, content_points

Map = tuple[Array, Array]  # A, t

MARGIN_SHARE, MARGIN_VOXELS = 0.05, 4  # of the longest side of the mean content, and beside it
CLOSE, MOST_STEPS = 1e-10, 100  # of the iteration to the mean map
LATTICE = 2  # directions with whole components up to this one bound a content


def hull(scans: Scans) -> Array:
    """(N, 3): those points of the content that lie farthest in many directions, mm LPS."""
    points = content_points(scans)
    steps = range(-LATTICE, LATTICE + 1)
    ways = np.array([way for way in itertools.product(steps, repeat=3) if any(way)], float)
    farthest = sorted({int((points @ way).argmax()) for way in ways})
    found: Array = points[farthest]
    return found


def by_middles(middles: Mapping[str, Array]) -> dict[str, Map]:
    """Shifts that bring the middles of all contents to their mean."""
    mean = np.mean(list(middles.values()), axis=0)
    return {name: (np.eye(3), middle - mean) for name, middle in middles.items()}


def centred(maps: Mapping[str, Map], about: Array) -> dict[str, Map]:
    """The maps from a frame in which their mean is no map at all.

    A = R S parts a map in a rotation R, the pose of a scan, and a stretch S. The frame changes
    until the mean of the logarithms of the stretches is 0 and the mean of the rotations is the
    identity (log-Euclidean and chordal means). The point `about` moves to the mean of where the
    maps lead it.
    """
    linear = {name: a for name, (a, _) in maps.items()}
    whole = np.eye(3)  # from the given frame to the new one
    for _ in range(MOST_STEPS):
        mean = _mean([polar(a) for a in linear.values()])
        linear = {name: a @ np.linalg.inv(mean) for name, a in linear.items()}
        whole = mean @ whole
        if np.abs(mean - np.eye(3)).max() < CLOSE:
            break
    ends = {name: a @ about + t for name, (a, t) in maps.items()}
    place = np.mean(list(ends.values()), axis=0)
    return {name: (linear[name], ends[name] - linear[name] @ place) for name in maps}


def _mean(parts: Sequence[tuple[Array, Array]]) -> Array:
    """The mean rotation times the mean stretch of (R, S)."""
    stretch = expm(np.mean([np.real(logm(s)) for _, s in parts], axis=0))
    rotation, _ = polar(np.mean([r for r, _ in parts], axis=0))
    out: Array = rotation @ stretch
    return out


def grid_of(
    hulls: Mapping[str, Array], maps: Mapping[str, Map], voxel: float, dimension: int
) -> Grid:
    """An isotropic grid along L, P, S around the mean of all contents, with a margin.

    Each side lies where the median of the contents ends.
    """
    ends = []
    for name, points in hulls.items():
        a, t = maps[name]
        here = (points - t) @ np.linalg.inv(a).T
        ends.append((here.min(0), here.max(0)))
    low, high = np.median(ends, axis=0)
    margin = MARGIN_SHARE * float((high - low).max()) + MARGIN_VOXELS * voxel
    count = np.ceil((high - low + 2 * margin) / voxel).astype(int) + 1
    first = (low + high) / 2 - (count - 1) / 2 * voxel
    x, y, z = count.tolist()
    if dimension == 2:
        flat = (first[0].item(), first[1].item(), 0.0)
        return Grid((x, y, 1), (voxel, voxel, 1.0), flat, tuple(np.eye(3).ravel().tolist()), 2)
    origin = (first[0].item(), first[1].item(), first[2].item())
    return Grid((x, y, z), (voxel,) * 3, origin, tuple(np.eye(3).ravel().tolist()))


def voxel_of(grids: Sequence[Grid]) -> float:
    """The median voxel size of the scans, to a tenth of a percent; mm."""
    return float(f"{np.median([grid.voxel for grid in grids]):.3g}")
