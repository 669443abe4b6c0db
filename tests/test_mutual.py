"""The fit of two fields to each other, on maps of every size and turn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import DIRECTIONS, smooth_field, turned

from hsyn_cli.fields import mutual, ways
from hsyn_cli.fields.grids import affine_displacement
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.marked import marked, marked_on
from hsyn_cli.fields.mutual import RoundTrips
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.space import Array, Grid

SIZE = (26, 24, 28)
TURNS = {
    "none": np.eye(3),
    "turned": np.reshape(turned(0.7, -0.5, 1.9), (3, 3)),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "half as large": 0.5 * np.eye(3),
}


def pair(linear: Array) -> tuple[torch.Tensor, Grid, torch.Tensor, Grid]:
    """A rough field and its inverse at its voxels, after a `linear` map, both on grids that fit."""
    fixed = Grid(SIZE, (1.0, 1.0, 1.0), (5.0, -3.0, 2.0), DIRECTIONS["LPS"])
    u = smooth_field(SIZE[::-1], 0.4, 1)
    u += 0.15 * torch.randn(u.shape, generator=torch.Generator().manual_seed(0))
    v = fixed_point_inverse(u, 1.0, -u, 1e-4)
    # Voxels of `moving` are those of `fixed` after the linear map.
    axes = linear / np.cbrt(abs(np.linalg.det(linear)))
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    ox, oy, oz = (linear @ np.array(fixed.origin)).tolist()
    moving = Grid(SIZE, (scale,) * 3, (ox, oy, oz), tuple(axes.ravel().tolist()))
    back = np.linalg.inv(linear)
    zero = np.zeros(3)
    forward = rotate(linear, u) + affine_displacement(fixed, linear, zero, u.device)
    return forward, fixed, v + affine_displacement(moving, back, zero, u.device), moving


def contents() -> tuple[np.ndarray, np.ndarray]:
    inside = np.zeros(SIZE[::-1], bool)
    inside[3:-3, 3:-3, 3:-3] = True
    return inside, inside.copy()


@pytest.mark.parametrize("name", TURNS)
def test_both_round_trips_get_shorter_whatever_the_affine(name: str) -> None:
    linear = TURNS[name]
    forward, fixed, inverse, moving = pair(linear)
    trips = RoundTrips.of(forward, fixed, inverse, moving, contents(), linear)
    before = [e.mean_mm for e in trips.errors()]
    outside = forward[..., 0, 0, 0].clone()
    trips.fit(6)
    after = [e.mean_mm for e in trips.errors()]
    assert sum(after) < 0.75 * sum(before)
    size = float(np.cbrt(abs(np.linalg.det(linear))))  # of a mm of the moving side
    assert max(after[0], after[1] / size) < 2 * min(after[0], after[1] / size)
    assert torch.equal(forward[..., 0, 0, 0], outside)  # it does not count


def test_a_field_that_stays_stays() -> None:
    forward, fixed, inverse, moving = pair(np.eye(3))
    kept, start = forward.clone(), inverse.clone()
    trips = RoundTrips.of(forward, fixed, inverse, moving, contents(), np.eye(3))
    before = trips.errors()[0].mean_mm
    trips.fit(6, moves=False)
    assert torch.equal(forward, kept)
    assert not torch.equal(inverse, start)
    assert trips.errors()[0].mean_mm < before or trips.errors()[1].mean_mm < before


def test_far_steps_lower_the_largest_errors_and_touch_nothing_else() -> None:
    forward, fixed, inverse, moving = pair(np.eye(3))
    forward[0, :, 12, 12, 12] += 0.8
    trips = RoundTrips.of(forward, fixed, inverse, moving, contents(), np.eye(3))
    worst, (first, second) = trips.errors()[0].max_mm, trips.sides()
    start, far = first.own.clone(), torch.zeros(1, 1, *first.own.shape[2:])
    far.view(-1)[first.voxels[first.measure(second) > 0.1].long()] = 1
    trips.fit_far(4)
    assert trips.errors()[0].max_mm < min(worst, 0.4)
    beside = F.max_pool3d(far, 3, stride=1, padding=1)[0, 0] > 0
    assert (~beside).any()
    assert torch.equal(first.own[0][:, ~beside], start[0][:, ~beside])


def test_where_steps_do_not_help_the_fields_become_smoother(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worst = []
    for limit in (mutual.WORST, math.inf):
        monkeypatch.setattr(mutual, "WORST", limit)
        forward, fixed, inverse, moving = pair(np.eye(3))
        for k, sign in enumerate((1, -1, 1, -1)):  # folds
            forward[0, 0, 10:14, 10:14, 11 + k] += 2 * sign
        trips = RoundTrips.of(forward, fixed, inverse, moving, contents(), np.eye(3))
        trips.fit_far(5)
        worst.append(max(error.max_mm for error in trips.errors()))
    assert worst[0] < 0.8 * worst[1]


def test_a_fit_in_small_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for part in (ways.PART, 700):
        monkeypatch.setattr(ways, "PART", part)
        forward, fixed, inverse, moving = pair(TURNS["turned"])
        RoundTrips.of(forward, fixed, inverse, moving, contents(), TURNS["turned"]).fit(3)
        found.append((forward, inverse))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_gpu_finds_the_same_voxels() -> None:
    content = np.random.default_rng(0).random((5, 6, 7)) > 0.6
    flat, along = marked(content[1:4])
    other, also = marked_on(content[1:4], torch.device("cpu"))
    assert torch.equal(flat, other)
    assert all(torch.equal(one, two) for one, two in zip(along, also, strict=True))
