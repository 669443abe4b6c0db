"""Determinants against closed forms on every kind of grid, the verdict, the map that is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import GRIDS, field_image, turned, voxel_points

from hsyn_cli.cli import run
from hsyn_cli.space import Grid
from hsyn_cli.tools.jacobian import jacobian

MATRIX = (
    1.1
    * np.reshape(turned(0.3, -0.25, 0.4), (3, 3))
    @ np.array([[1, 0.2, 0], [0, 0.8, 0.1], [0, 0, 1.3]])
)
every_grid = pytest.mark.parametrize("name", GRIDS)


def linear(grid: Grid, matrix: np.ndarray) -> sitk.Image:
    """p -> matrix p + 7."""
    points = voxel_points(grid)
    return field_image(grid, points @ matrix.T + 7.0 - points)


@every_grid
def test_linear_maps_have_their_own_determinant_everywhere(name: str) -> None:
    result = jacobian(linear(GRIDS[name], MATRIX))
    assert Grid.of(result.image) == GRIDS[name]
    assert result.image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(result.image), np.linalg.det(MATRIX), atol=1e-4
    )
    assert (result.folding.voxels, result.folding.corner_voxels, result.clipped) == (0, 0, 0)


@every_grid
def test_a_smooth_field_has_the_determinant_of_its_derivative(name: str) -> None:
    """d_i = 3 sin(w_i . p + i): the derivative is known.

    Voxels of a twentieth make differences exact enough.
    """
    coarse = GRIDS[name]
    spacing = tuple(s / 20 for s in coarse.spacing)
    grid = Grid(coarse.size, (spacing[0], spacing[1], spacing[2]), coarse.origin, coarse.direction)
    waves = np.array([[0.11, -0.07, 0.05], [0.04, 0.13, -0.06], [-0.08, 0.03, 0.1]])
    phase = voxel_points(grid) @ waves.T + np.arange(3)
    slope = 3 * np.cos(phase)[..., None] * waves  # ..., component, coordinate
    expected = np.linalg.det(np.eye(3) + slope)
    assert np.ptp(expected) > 0.01
    got = sitk.GetArrayFromImage(jacobian(field_image(grid, 3 * np.sin(phase))).image)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-4)


@every_grid
def test_the_logarithm_and_where_there_is_none(name: str) -> None:
    grid = GRIDS[name]
    result = jacobian(linear(grid, MATRIX), log=True)
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(result.image), np.log(np.linalg.det(MATRIX)), atol=1e-4
    )
    mirrored = jacobian(linear(grid, np.diag([-1.0, 1, 1])), log=True)
    voxels = int(np.prod(grid.size))
    assert mirrored.clipped == voxels
    np.testing.assert_allclose(sitk.GetArrayFromImage(mirrored.image), np.log(1e-9), rtol=1e-6)
    assert mirrored.folding.voxels == int(np.prod([n - 2 for n in grid.size]))


def test_the_verdict_names_the_point_that_folds_most() -> None:
    grid = GRIDS["oblique"]
    values = np.zeros((*grid.size[::-1], 3))
    at = np.array([4, 6, 3])  # x, y, z
    values[at[2], at[1], at[0] + 1] -= 3 * np.array(
        grid.axes[:, 0]
    )  # its neighbour along x jumps back 3 mm
    fold = jacobian(field_image(grid, values)).folding
    assert fold.min_det == pytest.approx(1 - 3 / (2 * 1.2), abs=1e-5)
    assert fold.min_det_at_mm == pytest.approx(grid.points(at.astype(float)), abs=1e-9)
    assert fold.voxels == 1
    assert fold.corner_voxels > 1


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with warp.nii.gz (linear) and fold.nii.gz (a mirror)."""
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(linear(GRIDS["RAS"], MATRIX), "warp.nii.gz")
    sitk.WriteImage(linear(GRIDS["RAS"], np.diag([1.0, -1, 1])), "fold.nii.gz")
    return tmp_path


def test_the_command_writes_beside_the_field_and_tells(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["jacobian", "warp.nii.gz"]) == 0
    out = capfd.readouterr().out
    assert "none; by the stricter corner rule 0" in out
    assert "warp_jacobian.nii.gz" in out
    written = sitk.ReadImage("warp_jacobian.nii.gz")
    np.testing.assert_allclose(sitk.GetArrayFromImage(written), np.linalg.det(MATRIX), atol=1e-4)
    assert Grid.of(written).same_as(GRIDS["RAS"])
    assert run(["jacobian", "warp.nii.gz"]) == 5
    assert "exists already" in capfd.readouterr().err
    assert run(["jacobian", "warp.nii.gz", "--force", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_json_and_the_logarithm(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["jacobian", "fold.nii.gz", "--log", "-o", "l.mha", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["field"], told["output"], told["log"]) == ("fold.nii.gz", "l.mha", True)
    assert told["clipped"] == np.prod(GRIDS["RAS"].size)
    assert told["folding"]["percent"] == 100
    assert sitk.ReadImage("l.mha")[0, 0, 0] == pytest.approx(np.log(1e-9))


def test_max_folding_is_an_exit_code_and_the_map_is_there(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["jacobian", "warp.nii.gz", "--max-folding", "0"]) == 0
    assert run(["jacobian", "fold.nii.gz", "--max-folding", "1"]) == 9
    assert "100 % of the voxels fold, more than the 1 % allowed" in capfd.readouterr().err
    assert Path("fold_jacobian.nii.gz").is_file()


@pytest.mark.parametrize("name", ["scalar", "no intent", "NaN", "missing"])
def test_what_is_no_field_gives_one_line(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=(7, 12, 9, 3)).astype(np.float32)
    text = {
        "scalar": "is not a displacement field",
        "no intent": "does not say what its vectors are (",
        "NaN": "NaN",
        "missing": "no such file",
    }[name]
    if name == "scalar":
        sitk.WriteImage(sitk.GetImageFromArray(values[..., 0]), "bad.nii.gz")
    if name == "no intent":
        import nibabel as nib

        nib.save(nib.Nifti1Image(values[:, :, :, None], np.eye(4)), "bad.nii.gz")
    if name == "NaN":
        values[1, 2, 3] = np.nan
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), "bad.nii.gz")
    before = sorted(os.listdir())
    assert run(["jacobian", "bad.nii.gz"]) == 3
    captured = capfd.readouterr()
    first, *rest = captured.err.splitlines()
    assert first.startswith("error: ")
    assert text in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert sorted(os.listdir()) == before
