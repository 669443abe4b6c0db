"""The affine part of half-way fields, as the affine to start from."""

import numpy as np
import pytest
import torch
from samples import DIRECTIONS

from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.method.refit import refitted
from hsyn_cli.method.working import Halves
from hsyn_cli.space import Array, Grid, affine_from, affine_parts, strided

BEFORE = affine_from(np.diag((1.1, 0.9, 1.0)), np.array([5.0, -3.0, 8.0]))
TURN = np.array([[1.02, -0.05, 0.0], [0.05, 0.97, 0.01], [0.0, 0.0, 1.0]])
SHIFT = np.array([2.0, -1.0, 0.0])


def halves_of(grid: Grid, matrix: Array, shift: Array) -> Halves:
    """Half-way fields that lead a mid point p to matrix @ p + shift, and as far the other way."""
    coarse = strided(grid, 2)
    z, y, x = np.indices(coarse.size[::-1])
    points = coarse.points(np.stack((x, y, z), -1).astype(float))
    apart = (points @ (matrix - np.eye(3)).T + shift) @ coarse.axes
    half = torch.from_numpy(np.moveaxis(apart, -1, 0)[None]).float()
    pair = torch.zeros(2, 1, *grid.size[::-1])
    return Halves(Scene(grid, pair, pair, None, pair), torch.cat((half, -half)))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [(24, 28, 32), (64, 68, 1)])
def test_the_affine_part_of_a_field_joins_the_affine_before_it(
    direction: str, size: tuple[int, int, int]
) -> None:
    """Of a slice, the part in its plane."""
    spacing = (1.0, 1.0, 1.0)
    grid = Grid(size, spacing, (10.0, -20.0, 30.0), DIRECTIONS[direction])
    axes = grid.axes
    matrix, shift = axes @ TURN @ axes.T, axes @ SHIFT
    halves = halves_of(grid, matrix, shift)
    a, t = affine_parts(BEFORE)
    found, moved = affine_parts(refitted(BEFORE, halves, np.ones(halves.u.shape[2:], np.float32)))
    points = grid.points(np.random.default_rng(0).uniform(0, np.array(size) - 1.0, (50, 3)))
    apart = points @ (matrix - np.eye(3)).T + shift
    of_fixed, of_moving = points - apart, points + apart
    np.testing.assert_allclose(of_fixed @ found.T + moved, of_moving @ a.T + t, atol=1e-3)
    if size[2] == 1:
        np.testing.assert_allclose(found @ axes[:, 2], a @ axes[:, 2], atol=1e-3)


def test_only_what_counts_tells_the_affine_part() -> None:
    grid = Grid((24, 28, 32), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    halves = halves_of(grid, TURN, SHIFT)
    halves.u[0, :, :8] += 20
    counts = np.ones(halves.u.shape[2:], np.float32)
    counts[:8] = 0
    found, _ = affine_parts(refitted(BEFORE, halves, counts))
    whole = TURN @ np.linalg.inv(2 * np.eye(3) - TURN)
    np.testing.assert_allclose(found, affine_parts(BEFORE)[0] @ whole, atol=1e-3)
    assert refitted(BEFORE, halves, counts * 0) is BEFORE
