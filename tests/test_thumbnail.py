"""Thumbnails: a small PNG of a pair that shows where the warped image's edges lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, EXAMPLES, voxel_points

from hsyn_cli.cohort.thumbnail import (
    EDGE,
    MOST_BYTES,
    SHADES,
    drawn,
    palette,
    png,
    thumbnail,
)
from hsyn_cli.space import Grid

SIDE = 48


def ball(at: tuple[float, ...], direction: str = "LPS", radius: float = 14) -> sitk.Image:
    """A bright ball at a place in mm, dim around, on a grid of that direction."""
    grid = Grid((24, 28, 20), (2.0, 1.5, 2.5), (0.0, 0.0, 0.0), DIRECTIONS[direction])
    middle = grid.points((np.array(grid.size) - 1) / 2)
    far = np.linalg.norm(voxel_points(grid) - middle - np.array(at), axis=-1)
    return grid.stamp(sitk.GetImageFromArray((100.0 * (far < radius) + 1).astype(np.float32)))


def read(data: bytes, folder: Path) -> np.ndarray:
    """The pixels (Y, X, 3) of a PNG, by another program's reader."""
    (folder / "read.png").write_bytes(data)
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "read.png"))))


def test_the_png_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, SHADES + 1, (13, 17)).astype(np.uint8)
    pixels = read(png(codes, palette()), tmp_path)
    np.testing.assert_array_equal(pixels, np.array(palette(), np.uint8)[codes])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_edges_lie_around_the_ball_in_every_plane(direction: str) -> None:
    codes = drawn(ball((0, 0, 0), direction), ball((0, 0, 0), direction), SIDE)
    edges = codes == SHADES
    bright = (codes > SHADES * 0.8) & ~edges
    for columns in np.array_split(np.arange(codes.shape[1]), 3):
        y, x = np.nonzero(edges[:, columns])
        inner = np.argwhere(bright[:, columns])
        assert len(x) > 20
        assert np.abs(inner.mean(0) - (y.mean(), x.mean())).max() < 1.5
        assert np.abs(np.ptp(inner, axis=0) - (np.ptp(y), np.ptp(x))).max() <= 6


def test_what_is_shifted_is_seen_shifted_to_the_same_side() -> None:
    left = 6.0  # mm, LPS: to the right end of an axial plane
    codes = drawn(ball((0, 0, 0)), ball((left, 0, 0)), SIDE)
    axial = codes[:, : codes.shape[1] // 3]
    row = axial[len(axial) // 2]
    edge = np.flatnonzero(row == SHADES)[0]
    border = np.flatnonzero((row > SHADES * 0.5) & (row < SHADES))[0]
    assert (edge - border) * 28 / SIDE == pytest.approx(left, abs=1.5)


def test_a_brain_fits_into_its_bytes(tmp_path: Path) -> None:
    fixed = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    data = thumbnail(fixed, fixed)
    assert 2000 < len(data) <= MOST_BYTES
    pixels = read(data, tmp_path)
    assert pixels.shape[1] > 2.3 * pixels.shape[0]
    assert (pixels == EDGE).all(-1).any()


def test_noise_fits_too() -> None:
    noise = np.random.default_rng(0).normal(500, 200, (40, 40, 40)).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    data = thumbnail(image, image)
    assert len(data) <= MOST_BYTES


def test_a_slice_has_one_plane(tmp_path: Path) -> None:
    flat = ball((0, 0, 0))[:, :, 10]
    pixels = read(thumbnail(flat, flat), tmp_path)
    assert 0.7 < pixels.shape[0] / pixels.shape[1] < 1.3
    assert (pixels == EDGE).all(-1).sum() > 40
