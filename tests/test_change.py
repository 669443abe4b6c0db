"""The affine in parts, and what a field changes: closed forms, and `evaluate` as the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import field_image, turned, voxel_points

from hsyn_cli.fields.change import Change, Linear, linear_of, measure_change
from hsyn_cli.fields.images import from_image
from hsyn_cli.fields.totals import Totals
from hsyn_cli.space import Grid
from hsyn_cli.tools.evaluate import evaluate_images

MIDDLE = np.array([10.0, -20.0, 30.0])
GRID = Grid((9, 8, 7), (2.0, 3.0, 2.5), (-5.0, 4.0, 9.0), tuple(turned(0.3, 0.1, -0.2)))


def test_an_affine_comes_apart_into_what_it_was_made_of() -> None:
    upper = np.diag([1.4, 0.9, 1.1])
    upper[0, 2] = 1.4 * 0.25
    rotation = np.array(turned(0.0, 0.0, 0.5)).reshape(3, 3)
    a, shift = rotation @ upper, np.array([3.0, 4.0, -12.0])
    got = linear_of(a, MIDDLE + shift - a @ MIDDLE, MIDDLE)
    assert got.scales == pytest.approx((1.4, 0.9, 1.1))
    assert got.rotation_degrees == pytest.approx(math.degrees(0.5))
    assert got.shear == pytest.approx(0.25)
    assert got.translation_mm == pytest.approx(shift)
    assert got.scaled(2).translation_mm == pytest.approx(2 * shift)
    assert got.scaled(2).scales == got.scales


def test_a_mirror_is_told_by_a_negative_scale() -> None:
    got = linear_of(np.diag([-1.2, 1.0, 1.0]), np.zeros(3), MIDDLE)
    assert got.scales == pytest.approx((-1.2, 1.0, 1.0))
    assert got.rotation_degrees == pytest.approx(0)


def test_a_plane_has_two_scales() -> None:
    got = linear_of(np.diag([1.2, 0.8, 1.0]), np.zeros(3), MIDDLE, 2)
    assert got.scales == pytest.approx((1.2, 0.8))
    assert len(got.translation_mm) == 2


def totals(bend: np.ndarray, a: np.ndarray, t: np.ndarray) -> Totals:
    """The total field of A (p + bend(p)) + t on GRID."""
    points = voxel_points(GRID)
    forward = field_image(GRID, (points + bend) @ a.T + t - points)
    u = from_image(forward)
    return Totals(u, torch.zeros_like(u), GRID, GRID, GRID, (a, t))


def test_the_change_of_a_field_leaves_the_affine_out_of_displacements_alone() -> None:
    bend = np.zeros((*GRID.size[::-1], 3))
    bend[3, 4, 5] = (0.3, -0.4, 0.0)
    content = np.ones(bend.shape[:3], bool)
    content[0] = False
    a, t = np.diag([1.2, 1.1, 0.9]), np.array([7.0, 8.0, 9.0])
    whole = totals(bend, a, t)
    linear, change = measure_change(whole, content)
    assert linear.scales == pytest.approx((1.2, 1.1, 0.9))
    assert change.max_mm == pytest.approx(0.5, abs=1e-4)
    assert change.mean_mm == pytest.approx(0.5 / content.sum(), abs=1e-5)
    assert change.log_det_mean == pytest.approx(math.log(1.2 * 1.1 * 0.9), abs=0.01)
    mask = sitk.GetImageFromArray(content.astype(np.uint8))
    forward = field_image(GRID, np.moveaxis(whole.forward[0].numpy(), 0, -1))
    judge = evaluate_images(forward, GRID.stamp(mask), fixed_mask=GRID.stamp(mask))
    assert change.log_det_sd == pytest.approx(judge.sdlogj, rel=1e-5)
    assert change.scaled(3).max_mm == pytest.approx(1.5, abs=1e-3)


def test_without_content_nothing_is_measured() -> None:
    bend = np.zeros((*GRID.size[::-1], 3))
    linear, change = measure_change(totals(bend, np.eye(3), np.zeros(3)), bend[..., 0] > 0)
    assert isinstance(linear, Linear)
    assert linear.scales == pytest.approx((1, 1, 1))
    assert isinstance(change, Change)
    assert math.isnan(change.max_mm)
    assert math.isnan(change.log_det_sd)
