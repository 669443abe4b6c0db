"""Affines of other programs: there and back, and against what those programs say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from forms import OTHER, blank, every_grid, fsl_coordinates
from samples import GRIDS, turned

from hsyn_cli.io import formats
from hsyn_cli.space import Array
from hsyn_cli.tools.convert import convert


def affine() -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = 1.1 * np.reshape(turned(0.2, 0.3, -0.1), (3, 3))
    matrix[:3, 3] = 5.5, -20.25, 13
    return matrix


def saved_affine(path: Path) -> Path:
    formats.write_affine(affine(), path, "itk")
    return path


@pytest.mark.parametrize("file", ["a.mat", "a.tfm", "a.txt", "a.xfm", "a.h5", "a.hdf5"])
def test_affines_of_itk_there_and_back(file: str, tmp_path: Path) -> None:
    path = saved_affine(tmp_path / file)
    point = (3.0, -4.0, 50.0)
    expected = (affine() @ (*point, 1))[:3]
    assert sitk.ReadTransform(str(path)).TransformPoint(point) == pytest.approx(expected, abs=1e-9)
    assert formats.guess_form(path) == "itk"
    for form, name in (("ras", "b.txt"), ("fsl", "b.mat")):
        fixed, moving = GRIDS["oblique"], OTHER["oblique"]
        there = convert(path, tmp_path / name, target_form=form, fixed=fixed, moving=moving)
        back = convert(
            tmp_path / name, tmp_path / f"{form}.tfm", source_form=form, fixed=fixed, moving=moving
        )
        assert (there.content, there.target_form, back.source_form) == ("affine", form, form)
        np.testing.assert_allclose(formats.read(tmp_path / f"{form}.tfm"), affine(), atol=1e-9)


def test_a_plain_matrix_is_ras_from_fixed_to_moving(tmp_path: Path) -> None:
    convert(saved_affine(tmp_path / "a.mat"), tmp_path / "a.txt", target_form="ras")
    flip = np.diag([-1.0, -1, 1, 1])
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.txt"), flip @ affine() @ flip, atol=1e-12)


@every_grid
def test_flirt_leads_from_moving_to_fixed(name: str, tmp_path: Path) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    formats.write_affine(affine(), tmp_path / "flirt.mat", "fsl", fixed, moving)
    flirt = np.loadtxt(tmp_path / "flirt.mat")
    source, reference = blank(moving, tmp_path / "m.nii"), blank(fixed, tmp_path / "f.nii")
    voxel = np.array([2.0, 5, 3, 1])  # of the source
    there = np.linalg.inv(fsl_coordinates(reference)) @ flirt @ fsl_coordinates(source) @ voxel
    flip = np.diag([-1.0, -1, 1, 1])
    world = flip @ affine() @ flip @ reference.affine @ there
    np.testing.assert_allclose(world, source.affine @ voxel, atol=1e-4)


def test_ants_reads_the_affine(tmp_path: Path) -> None:
    import ants

    convert(saved_affine(tmp_path / "a.txt"), tmp_path / "a.mat")
    read_by_ants = ants.read_transform(str(tmp_path / "a.mat"))
    got = ants.apply_ants_transform_to_point(read_by_ants, (3.0, -4.0, 50.0))
    np.testing.assert_allclose(got, (affine() @ (3, -4, 50, 1))[:3], atol=1e-6)
