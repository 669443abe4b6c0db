"""Fields of other programs: there and back, and against what those programs say."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from forms import FIELDS, OTHER, array, blank, every_grid, field, fsl_coordinates, read, saved
from samples import DIRECTIONS, GRIDS, field_image

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import formats, headers
from hsyn_cli.io.headers import Intent
from hsyn_cli.space import Grid
from hsyn_cli.tools.convert import convert


@every_grid
@pytest.mark.parametrize("form", FIELDS)
def test_there_and_back_within_rounding(name: str, form: str, tmp_path: Path) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    image = field(fixed)
    first, second = tmp_path / FIELDS[form], tmp_path / "back.nii.gz"
    done = convert(
        saved(image, tmp_path / "in.nii.gz"), first, target_form=form.split()[0], moving=moving
    )
    assert done.difference_mm <= done.allowed_mm < 1e-4
    assert (done.content, done.source_form, done.target_form) == ("field", "itk", form.split()[0])
    back = convert(first, second, source_form=form.split()[0], fixed=fixed, moving=moving)
    assert back.target_form == "itk"
    rounding = done.allowed_mm + back.allowed_mm
    np.testing.assert_allclose(
        array(sitk.ReadImage(str(second))), array(image), rtol=0, atol=rounding
    )
    assert Grid.of(sitk.ReadImage(str(second))).same_as(fixed)


@pytest.mark.parametrize("channels", ["first", "last"])
def test_half_precision_within_its_own_rounding(channels: str, tmp_path: Path) -> None:
    grid = GRIDS["oblique"]
    source, target = saved(field(grid), tmp_path / "in.nii.gz"), tmp_path / "disp.npz"
    done = convert(source, target, channels=channels, half=True)  # type: ignore[arg-type]
    assert 1e-4 < done.difference_mm <= done.allowed_mm < 0.5
    with np.load(target) as stored:
        assert stored.files == ["arr_0"]
        assert stored["arr_0"].dtype == np.float16
        assert stored["arr_0"].shape == (
            (3, *grid.size) if channels == "first" else (*grid.size, 3)
        )
    np.testing.assert_allclose(
        array(read(target, None, grid)), array(field(grid)), atol=done.allowed_mm
    )
    with pytest.raises(UsageError, match="more than float16 can hold"):
        formats.write_field(field_image(grid, array(field(grid)) * 1e5), target, "voxel", half=True)


@every_grid
def test_ras_as_nibabel_and_itk_read_it(name: str, tmp_path: Path) -> None:
    """nitransforms: RAS vectors, RAS affine; ITK turns intent 1006 itself."""
    path = tmp_path / "ras.nii.gz"
    convert(saved(field(GRIDS[name]), tmp_path / "in.nii.gz"), path, target_form="ras")
    image = nib.load(path)
    assert image.shape == (*GRIDS[name].size, 1, 3)
    assert int(image.header["intent_code"]) == 1006
    flipped = array(field(GRIDS[name])) * (-1, -1, 1)
    np.testing.assert_array_equal(image.get_fdata()[:, :, :, 0].transpose(2, 1, 0, 3), flipped)
    corner = image.affine @ (*(np.array(GRIDS[name].size) - 1), 1)
    np.testing.assert_allclose(
        corner[:3] * (-1, -1, 1), GRIDS[name].points(np.array(GRIDS[name].size) - 1.0), atol=1e-4
    )
    by_itk = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(array(by_itk), array(field(GRIDS[name])))
    assert formats.guess_form(path) == "ras"
    again = tmp_path / "again.nii.gz"
    convert(path, again)
    assert headers.read(again).intent == Intent(1007, "Displacement")
    np.testing.assert_array_equal(array(sitk.ReadImage(str(again))), array(field(GRIDS[name])))


@every_grid
def test_voxel_arrays_lead_from_fixed_to_moving_index(name: str, tmp_path: Path) -> None:
    """As `map_coordinates(moving, identity + disp)` on nibabel's arrays has it."""
    fixed, moving = GRIDS[name], OTHER[name]
    path = tmp_path / "disp.npz"
    formats.write_field(field(fixed), path, "voxel", moving)
    with np.load(path) as stored:
        disp = stored["arr_0"]
    for x, y, z in ((0, 0, 0), (8, 11, 6), (2, 7, 3)):
        start = fixed.points(np.array([x, y, z], float))
        end = start + array(field(fixed))[z, y, x]
        np.testing.assert_allclose(
            np.array([x, y, z]) + disp[x, y, z], moving.indices(end), atol=1e-4
        )


@every_grid
def test_voxels_of_one_grid_are_scaled_and_turned_only(name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    one = np.zeros((*grid.size, 3), np.float32)
    one[3, 2, 5] = (1, 0, -2)
    np.save(tmp_path / "d.npy", np.moveaxis(one, -1, 0)[None])  # a batch of one, as from torch
    got = array(read(tmp_path / "d.npy", None, grid))
    assert np.count_nonzero(got.any(-1)) == 1
    expected = grid.axes @ (np.array([1, 0, -2]) * grid.spacing)
    np.testing.assert_allclose(got[5, 2, 3], expected, atol=1e-12)


def test_a_half_field_lies_where_zoom_puts_it(tmp_path: Path) -> None:
    """Learn2Reg 2021 enlarges with scipy's zoom, which keeps the outermost centres in place."""
    full = Grid((16, 12, 20), (1.0, 1.5, 2.0), (3.0, 4.0, 5.0), DIRECTIONS["oblique"])
    half = np.random.default_rng(0).normal(size=(3, 8, 6, 10)).astype(np.float16)
    np.savez(tmp_path / "d.npz", half)
    image = read(tmp_path / "d.npz", None, full)
    assert image.GetSize() == (8, 6, 10)
    last = Grid.of(image).points(np.array([7.0, 5, 9]))
    np.testing.assert_allclose(last, full.points(np.array([15.0, 11, 19])), atol=1e-9)
    np.testing.assert_allclose(
        array(image)[2, 1, 4], full.index_to_point @ half[:, 4, 1, 2].astype(float), atol=1e-6
    )
    with pytest.raises(GeometryError, match="half resolution"):
        formats.read(tmp_path / "d.npz", None, full, OTHER["LPS"])


@every_grid
def test_fsl_warps_lead_from_one_images_coordinates_to_the_others(
    name: str, tmp_path: Path
) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    path = tmp_path / "warp.nii.gz"
    formats.write_field(field(fixed), path, "fsl", moving)
    warp = nib.load(path)
    assert int(warp.header["intent_code"]) == 2006
    assert warp.shape == (*fixed.size, 3)
    source, reference = blank(moving, tmp_path / "m.nii"), blank(fixed, tmp_path / "f.nii")
    np.testing.assert_allclose(warp.affine, reference.affine, atol=1e-5)
    to_source_world = source.affine @ np.linalg.inv(fsl_coordinates(source))
    for x, y, z in ((0, 0, 0), (8, 11, 6), (2, 7, 3)):
        start = fsl_coordinates(reference) @ (x, y, z, 1)
        end = (to_source_world @ (*(start[:3] + warp.get_fdata()[x, y, z]), 1))[:3]
        lps = fixed.points(np.array([x, y, z], float)) + array(field(fixed))[z, y, x]
        np.testing.assert_allclose(end * (-1, -1, 1), lps, atol=1e-3)
    assert formats.guess_form(path) == "fsl"
    np.testing.assert_allclose(
        array(read(path, None, None, moving)), array(field(fixed)), atol=1e-3
    )


@pytest.mark.parametrize("shape", [(9, 12, 7, 1, 3), (9, 12, 7, 3)])
@pytest.mark.parametrize("intent", [0, 1006, 1007, 2006])
def test_an_explicit_form_beats_the_header(
    shape: tuple[int, ...], intent: int, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    image.header["intent_code"] = intent
    nib.save(image, tmp_path / "f.nii.gz")
    got = array(read(tmp_path / "f.nii.gz", "itk"))
    np.testing.assert_allclose(got, values.reshape(9, 12, 7, 3).transpose(2, 1, 0, 3), atol=1e-6)
    turned_ones = array(read(tmp_path / "f.nii.gz", "ras"))
    np.testing.assert_allclose(turned_ones, got * (-1, -1, 1), atol=1e-6)


def test_convert_is_the_repair_of_a_field_without_intent(tmp_path: Path) -> None:
    good = saved(field(GRIDS["oblique"]), tmp_path / "good.nii")
    bad = tmp_path / "bad.nii"
    bad.write_bytes(good.read_bytes())
    image = nib.load(bad)
    image.header.set_intent(0)
    nib.save(nib.Nifti1Image(image.get_fdata().astype("f4"), None, image.header), bad)
    with pytest.raises(
        InputError, match=r"does not say what its vectors are \(.*, intent 0\)"
    ) as caught:
        convert(bad, tmp_path / "out.nii.gz")
    assert "--from itk" in caught.value.hint
    convert(bad, tmp_path / "out.nii.gz", source_form="itk")
    np.testing.assert_array_equal(
        array(sitk.ReadImage(str(tmp_path / "out.nii.gz"))), array(field(GRIDS["oblique"]))
    )


def test_a_composite_of_one_field_is_a_field(tmp_path: Path) -> None:
    image = field(GRIDS["flipped"])
    transform = sitk.DisplacementFieldTransform(sitk.Image(image))
    sitk.WriteTransform(sitk.CompositeTransform([transform]), str(tmp_path / "one.h5"))
    got = read(tmp_path / "one.h5")
    np.testing.assert_array_equal(array(got), array(image))
    assert Grid.of(got).same_as(GRIDS["flipped"])
