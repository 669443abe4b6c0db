"""Pairs as files for machines without SimpleITK; the whole way is in test_gpu_day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.errors import InputError
from hsyn_cli.fields.totals import Totals
from hsyn_cli.method.carried import STEPS, TENSORS, Carried, dices, load_pair, save_pair
from hsyn_cli.space import Grid

CPU = torch.device("cpu")
GRID = Grid((7, 6, 5), (2.0, 2.0, 2.0), (-3.0, 4.0, 5.0), (-1.0, 0, 0, 0, -1, 0, 0, 0, 1))


def a_pair() -> Carried:
    """A pair of random images, with maps and borders, and a cube of label 3."""
    draw = torch.Generator().manual_seed(0)
    size = GRID.size[::-1]
    pair, maps, counts = (torch.rand(2, c, *size, generator=draw) for c in (1, 2, 1))
    blur = (1.5, 0.0, 0.25)
    fine = slice(0, 4), slice(1, 5), slice(2, 7)
    scene = Scene(GRID, pair, maps, counts, pair[:, :0], None, alike=True, blur=blur, fine=fine)
    labels = np.zeros(size, np.uint16)
    labels[1:4, 1:4, 2:5] = 300
    content = labels > 0
    affine = (np.diag([1.1, 0.9, 1.0]), np.array([1.0, 2.0, 3.0]))
    return Carried(
        "a -> b", scene, affine, GRID, GRID, (content, ~content), labels, labels, (300, 9),
        {"reading": 0.5},
    )  # fmt: skip


def test_a_pair_comes_back(tmp_path: Path) -> None:
    pair = a_pair()
    save_pair(pair, tmp_path / "pair.xz")
    back = load_pair(tmp_path / "pair.xz", CPU)
    for name in TENSORS:
        one, two = getattr(pair.scene, name), getattr(back.scene, name)
        assert (one is None) == (two is None)
        if one is not None:
            assert one.shape == two.shape
            assert not one.numel() or (one - two).abs().max() <= 0.5001 / STEPS
    assert (back.scene.grid, back.moving, back.fixed, back.scene.alike) == (GRID,) * 3 + (True,)
    for one, two in zip(
        (*pair.affine, *pair.contents, pair.moving_labels, pair.fixed_labels),
        (*back.affine, *back.contents, back.moving_labels, back.fixed_labels), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, two)
    assert (back.name, back.ids, back.scene.blur) == (pair.name, pair.ids, pair.scene.blur)
    assert back.scene.fine == pair.scene.fine
    whole = replace(pair, scene=replace(pair.scene, fine=None))
    save_pair(whole, tmp_path / "whole.xz")
    assert load_pair(tmp_path / "whole.xz", CPU).scene.fine is None
    assert dict(back.seconds) == dict(pair.seconds)


@pytest.mark.parametrize("change", ["cut", "other", "missing"])
def test_a_damaged_pair_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "pair.xz"
    save_pair(a_pair(), path)
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:900] if change == "cut" else b"something else")
    with pytest.raises(InputError, match=r"pair .*pair\.xz cannot be read"):
        load_pair(path, CPU)


def test_dice_of_a_field_that_moves_by_whole_voxels() -> None:
    """Two of three layers still meet; a label that the fixed image lacks has no Dice."""
    pair, still = a_pair(), torch.zeros(1, 3, *GRID.size[::-1])
    moved = still.clone()
    moved[:, 0] = -2.0  # one voxel, against the first axis of the grid
    for field, dice in ((still, 1.0), (moved, 2 / 3)):
        totals = Totals(field, field, GRID, GRID, GRID, pair.affine)
        assert dices(pair, totals) == pytest.approx({300: dice})
    far = Totals(still + 1000, still, GRID, GRID, GRID, pair.affine)
    assert dices(pair, far) == {300: 0.0}
    assert dices(replace(pair, ids=(9,)), far) == {}
