"""`hsyn invert`: any field, any grid; against known inverses, its own residual, SimpleITK."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from samples import DIRECTIONS, GRIDS, field_image, smooth_field, turned, voxel_points

from hsyn_cli import cli
from hsyn_cli.errors import GeometryError
from hsyn_cli.fields.inverse import restart_elsewhere
from hsyn_cli.fields.sampling import sample_points
from hsyn_cli.space import Grid
from hsyn_cli.tools.invert import MARK_FOLDED, MARK_OUTSIDE, invert
from hsyn_cli.tools.invert_start import SEED, best_affine, cubic

SIZE = (26, 22, 24)  # x, y, z


def grid_with(direction: str, spacing: tuple[float, float, float] = (1.2, 1.5, 2.0)) -> Grid:
    return Grid(SIZE, spacing, (-20.0, 12.0, 5.0), DIRECTIONS[direction])


def smooth(grid: Grid, strain: float, seed: int) -> np.ndarray:
    """(Z, Y, X, 3) mm LPS."""
    u = smooth_field(grid.size[::-1], strain, seed)[0].numpy()
    return np.moveaxis(u, 0, -1) @ grid.index_to_point.T


def through(field: sitk.Image, points: np.ndarray) -> np.ndarray:
    """points + field, as SimpleITK interpolates it."""
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return np.array([transform.TransformPoint(p) for p in points.reshape(-1, 3).tolist()]).reshape(
        points.shape
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_smooth_field_is_inverted_on_its_own_grid(direction: str) -> None:
    grid = grid_with(direction)
    field = field_image(grid, smooth(grid, 0.6, 3))
    found = invert(field, tolerance=0.002)
    assert Grid.of(found.inverse) == grid
    assert found.folding.voxels == found.folded == 0
    assert found.residual.max_mm < 0.003
    inner = (slice(3, -3),) * 3
    points = voxel_points(grid)[inner]
    step = sitk.GetArrayFromImage(found.inverse)[inner]
    np.testing.assert_allclose(through(field, points + step), points, atol=0.003)
    assert np.abs(step).max() > 1


@pytest.mark.parametrize("direction", ["RAS", "oblique mirror"])
def test_a_fit_brings_both_orders_to_about_the_same_error(direction: str) -> None:
    """What SimpleITK finds in the other order, before and after, and what the fit tells of it."""
    grid = grid_with(direction)
    turn = np.reshape(turned(0.3, -0.2, 0.4), (3, 3))
    points = voxel_points(grid)
    middle = grid.points((np.array(SIZE) - 1) / 2)
    affine = (points - middle) @ (turn - np.eye(3)).T
    field = field_image(grid, affine + smooth(grid, 0.7, 4) @ turn.T)
    plain, fitted = (invert(field, tolerance=0.002, fit=fit) for fit in (False, True))
    inner = (slice(6, -6),) * 3
    there = through(field, points[inner])
    errors = [
        np.linalg.norm(through(found.inverse, there) - points[inner], axis=-1)
        for found in (plain, fitted)
    ]
    assert errors[1].mean() < 0.8 * errors[0].mean()
    assert fitted.residual.mean_mm < errors[0].mean()
    assert plain.reversed is None
    assert fitted.reversed is not None
    assert fitted.reversed.max_mm >= errors[1].max() - 1e-4
    assert "reversed" in fitted.to_dict()


@pytest.mark.parametrize("direction", ["RAS", "oblique mirror"])
def test_an_affine_part_however_large_is_no_obstacle_nor_is_another_grid(direction: str) -> None:
    grid = grid_with(direction)
    matrix = 1.15 * np.reshape(turned(0.9, -0.4, 0.5), (3, 3))
    shift = np.array([35.0, -20.0, 8.0])
    points = voxel_points(grid)
    middle = points.reshape(-1, 3).mean(0)
    bent = points + smooth(grid, 0.4, 1)
    field = field_image(grid, (bent - middle) @ matrix.T + middle + shift - points)
    other = Grid(
        (20, 24, 18), (1.5, 1.1, 1.9), tuple(middle + shift - [14, 13, 17]), DIRECTIONS["LPS"]
    )
    found = invert(field, other.empty_image(sitk.sitkUInt8))
    assert Grid.of(found.inverse) == other
    q = voxel_points(other)
    inside = sitk.GetArrayFromImage(found.residual_map) >= 0
    assert 0.3 < inside.mean() < 1
    assert found.outside == (~inside).sum()
    back = q + sitk.GetArrayFromImage(found.inverse)
    np.testing.assert_allclose(through(field, back[inside]), q[inside], atol=0.006)
    a, t = best_affine(field)
    np.testing.assert_allclose(a, matrix, atol=0.1)
    np.testing.assert_allclose(a @ middle + t, middle + shift, atol=1.5)


def test_one_slice_of_the_inverse_is_that_of_the_whole() -> None:
    grid = grid_with("oblique")
    field = field_image(grid, smooth(grid, 0.5, 4))
    whole = invert(field, tolerance=0.001).inverse
    found = invert(field, grid.slab(11, 12).empty_image(sitk.sitkUInt8), tolerance=0.001)
    assert found.unsolved == 0
    one, all_ = (sitk.GetArrayFromImage(image) for image in (found.inverse, whole))
    inside = sitk.GetArrayFromImage(found.residual_map)[0] >= 0
    np.testing.assert_allclose(one[0][inside], all_[11][inside], atol=0.005)


def test_a_translation_is_exact_and_what_it_leaves_uncovered_is_marked() -> None:
    grid = GRIDS["LPS"]
    field = field_image(grid, np.tile([3.0, 0.0, 0.0], (*grid.size[::-1], 1)))
    found = invert(field)
    values = sitk.GetArrayFromImage(found.inverse)
    np.testing.assert_allclose(values, np.broadcast_to([-3.0, 0, 0], values.shape), atol=1e-4)
    marks = sitk.GetArrayFromImage(found.residual_map)
    assert (marks[:, :, :2] == MARK_OUTSIDE).all()  # 3 mm are two of these voxels
    assert (marks[:, :, 2:] >= 0).all()
    assert found.outside == marks[:, :, :2].size


def test_folds_are_told_and_marked_and_the_rest_is_inverted() -> None:
    grid = grid_with("LPS", (1.0, 1.0, 1.0))
    values = smooth(grid, 0.3, 2)
    x = np.linspace(-3, 3, SIZE[0])
    values[..., 0] -= 8 * x * np.exp(-(x**2)) * np.exp(-(np.linspace(-3, 3, SIZE[1]) ** 2))[:, None]
    field = field_image(grid, values)
    found = invert(field)
    marks = sitk.GetArrayFromImage(found.residual_map)
    assert found.folding.voxels > 0
    assert found.folded == (marks == MARK_FOLDED).sum() > 0
    away = marks[..., [0, 1, 2, -3, -2, -1]]
    assert away[away != MARK_OUTSIDE].max() < 0.006
    assert away.min() >= MARK_OUTSIDE


def test_what_is_next_to_a_fold_is_counted_if_it_stays_unsolved() -> None:
    grid = Grid((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), DIRECTIONS["LPS"])
    found = invert(field_image(grid, smooth(grid, 1.9, 7)))
    marks = sitk.GetArrayFromImage(found.residual_map)
    assert found.folding.voxels > 0
    assert found.unsolved == (marks > 0.05).sum()
    assert found.residual.max_mm == pytest.approx(marks.max(), abs=1e-6)


@pytest.mark.parametrize("fine", [1, 2, 5, 24])
def test_the_cubic_keeps_constants_everywhere_and_parabolas_inside(fine: int) -> None:
    coarse = -(-fine // SEED)
    matrix = cubic(coarse, fine, torch.device("cpu"))
    torch.testing.assert_close(matrix.sum(1), torch.ones(fine))
    nodes = SEED * torch.arange(coarse) + (SEED - 1) / 2
    got, wanted = matrix @ nodes.square(), torch.arange(fine).square().float()
    inner = slice(2 * SEED, -2 * SEED)
    torch.testing.assert_close(got[inner], wanted[inner], rtol=0, atol=1e-3)


def test_threads_change_nothing() -> None:
    grid = grid_with("oblique")
    field = field_image(grid, smooth(grid, 0.5, 6))
    threads = torch.get_num_threads()
    try:
        one, two = (sitk.GetArrayFromImage(invert(field, threads=n).inverse) for n in (1, 2))
    finally:
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    np.testing.assert_allclose(one, two, atol=0.01)


def test_a_reference_that_the_field_does_not_reach_is_refused() -> None:
    grid = grid_with("LPS")
    far = Grid(grid.size, grid.spacing, (900.0, 0.0, 0.0), grid.direction)
    with pytest.raises(GeometryError):
        invert(field_image(grid, smooth(grid, 0.3, 1)), far.empty_image(sitk.sitkUInt8))


def test_it_agrees_with_simpleitk_where_that_converges() -> None:
    grid = grid_with("oblique", (2.0, 2.0, 2.0))
    field = field_image(grid, smooth(grid, 0.3, 5))
    theirs = sitk.InvertDisplacementField(
        field,
        maximumNumberOfIterations=200,
        maxErrorToleranceThreshold=1e-4,
        meanErrorToleranceThreshold=1e-5,
    )
    ours = invert(field, tolerance=0.001).inverse
    inner = (slice(4, -4),) * 3
    apart = sitk.GetArrayFromImage(ours)[inner] - sitk.GetArrayFromImage(theirs)[inner]
    assert np.abs(apart).max() < 0.02


def test_the_command_writes_beside_the_field_and_tells(tmp_path: Path) -> None:
    grid = grid_with("RAS")
    path = tmp_path / "bent.field.nii.gz"
    sitk.WriteImage(
        sitk.Cast(field_image(grid, smooth(grid, 0.5, 1)), sitk.sitkVectorFloat32), str(path)
    )
    words = ["invert", str(path), "--residual-map", str(tmp_path / "r.nii.gz"), "--threads", "1"]
    result = CliRunner().invoke(cli.cli, words)
    assert result.exit_code == 0, result.output
    assert "residual  mean 0.00" in result.output
    assert "folding   none" in result.output
    inverse = sitk.ReadImage(str(tmp_path / "bent.field_inverse.nii.gz"))
    assert inverse.GetNumberOfComponentsPerPixel() == 3
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "r.nii.gz"))).max() < 0.006
    assert cli.run(words) == 5
    told = json.loads(CliRunner().invoke(cli.cli, [*words, "--force", "--json"]).output)
    assert told["residual"]["max_mm"] < 0.006
    assert told["voxels"] == np.prod(SIZE)


@pytest.mark.parametrize("kind", ["scalar", "nan", "missing"])
def test_bad_fields_are_told_in_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_with("LPS")
    path = tmp_path / "x.nii.gz"
    values = smooth(grid, 0.2, 1)
    if kind == "nan":
        values[3, 4, 5] = np.nan
    image = field_image(grid, values)
    if kind != "missing":
        sitk.WriteImage(
            sitk.VectorIndexSelectionCast(image, 0) if kind == "scalar" else image, str(path)
        )
    assert cli.run(["invert", str(path)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert str(path) in lines[0]
    assert len(lines) == 2
    assert not list(tmp_path.glob("*inverse*"))


def test_points_where_newtons_method_got_stuck_are_tried_from_elsewhere() -> None:
    """In the flat part of a fold no slope leads on; a voxel away it does."""
    x = torch.arange(24.0)
    ramp = torch.where(
        x < 10, 0.0, torch.where(x < 12, -(x - 10), torch.where(x < 18, -2 + 2 * (x - 12) / 6, 0.0))
    )
    u = torch.zeros(3, 24, 24, 24)
    u[0] = ramp  # x + u is 10 from x = 10 to 12
    at = torch.tensor([[10.5, 12.0, 12.0]])
    found = torch.tensor([[0.5, 0.0, 0.0]])  # at 11, in the middle of the plateau: 10
    left = found + sample_points(u, at + found)[0]
    assert left.norm() > 0.4
    restart_elsewhere(u, at, found, left, 0.005)
    assert left.norm() < 0.005
    torch.testing.assert_close(left, found + sample_points(u, at + found)[0])
