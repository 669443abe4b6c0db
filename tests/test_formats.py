"""Fields and affines of other programs: there and back, and against what those programs say of their own files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, GRIDS, field_image, turned

from hsyn_cli import formats, nifti
from hsyn_cli.errors import GeometryError, InputError, OutputError, UsageError
from hsyn_cli.space import Array, Grid

OTHER = {
    name: Grid((8, 10, 11), (1.1, 1.7, 0.9), (12.0, -40.0, 5.5), direction)
    for name, direction in zip(DIRECTIONS, reversed(DIRECTIONS.values()), strict=True)
}
every_grid = pytest.mark.parametrize("name", GRIDS)
FIELDS = {"itk": "a.nii.gz", "itk nrrd": "a.nrrd", "itk mha": "a.mha", "itk h5": "a.h5", "ras": "a.nii", "voxel": "a.npz",
          "voxel npy": "a.npy", "voxel nifti": "a.nii.gz", "fsl": "a.nii.gz"}  # fmt: skip


def field(grid: Grid, seed: int = 0) -> sitk.Image:
    """Rough float32 vectors, so that any mix-up of axes shows."""
    values = np.random.default_rng(seed).normal(0, 8, (*grid.size[::-1], 3)).astype(np.float32)
    return field_image(grid, values)


def array(image: sitk.Image) -> Array:
    values: Array = sitk.GetArrayFromImage(image)
    return values


def saved(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), str(path))
    return path


def read(path: Path, *more: object) -> sitk.Image:
    image = formats.read(path, *more)  # type: ignore[arg-type]
    assert isinstance(image, sitk.Image)
    return image


@every_grid
@pytest.mark.parametrize("form", FIELDS)
def test_there_and_back_within_rounding(name: str, form: str, tmp_path: Path) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    image = field(fixed)
    first, second = tmp_path / FIELDS[form], tmp_path / "back.nii.gz"
    done = formats.convert(
        saved(image, tmp_path / "in.nii.gz"), first, target_form=form.split()[0], moving=moving
    )
    assert done.difference_mm <= done.allowed_mm < 1e-4
    assert (done.content, done.source_form, done.target_form) == ("field", "itk", form.split()[0])
    back = formats.convert(first, second, source_form=form.split()[0], fixed=fixed, moving=moving)
    assert back.target_form == "itk"
    rounding = done.allowed_mm + back.allowed_mm
    np.testing.assert_allclose(array(sitk.ReadImage(str(second))), array(image), rtol=0, atol=rounding)
    assert Grid.of(sitk.ReadImage(str(second))).same_as(fixed)


@pytest.mark.parametrize("channels", ["first", "last"])
def test_half_precision_within_its_own_rounding(channels: str, tmp_path: Path) -> None:
    grid = GRIDS["oblique"]
    source, target = saved(field(grid), tmp_path / "in.nii.gz"), tmp_path / "disp.npz"
    done = formats.convert(source, target, channels=channels, half=True)  # type: ignore[arg-type]
    assert 1e-4 < done.difference_mm <= done.allowed_mm < 0.5
    with np.load(target) as stored:
        assert stored.files == ["arr_0"]
        assert stored["arr_0"].dtype == np.float16
        assert stored["arr_0"].shape == ((3, *grid.size) if channels == "first" else (*grid.size, 3))
    np.testing.assert_allclose(array(read(target, None, grid)), array(field(grid)), atol=done.allowed_mm)
    with pytest.raises(UsageError, match="more than float16 can hold"):
        formats.write_field(field_image(grid, array(field(grid)) * 1e5), target, "voxel", half=True)


@every_grid
def test_ras_as_nibabel_and_itk_read_it(name: str, tmp_path: Path) -> None:
    """nitransforms: RAS vectors, RAS affine; ITK turns intent 1006 itself."""
    path = tmp_path / "ras.nii.gz"
    formats.convert(saved(field(GRIDS[name]), tmp_path / "in.nii.gz"), path, target_form="ras")
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
    formats.convert(path, again)
    assert nifti.read(again).intent == 1007  # type: ignore[union-attr]
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
        np.testing.assert_allclose(np.array([x, y, z]) + disp[x, y, z], moving.indices(end), atol=1e-4)


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


def fsl_coordinates(image: nib.Nifti1Image) -> Array:
    """Voxel -> FSL coordinates, as fslpy and nitransforms have them, from the NIfTI affine."""
    sizes = nib.affines.voxel_sizes(image.affine)
    scaling = np.diag([*sizes, 1.0])
    if np.linalg.det(image.affine) > 0:
        scaling = (
            np.array([[-1, 0, 0, (image.shape[0] - 1) * sizes[0]], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
            @ scaling
        )
    matrix: Array = scaling
    return matrix


def blank(grid: Grid, path: Path) -> nib.Nifti1Image:
    """An image of a grid as nibabel sees it."""
    sitk.WriteImage(grid.empty_image(sitk.sitkUInt8), str(path))
    return nib.load(path)


@every_grid
def test_fsl_warps_lead_from_one_images_coordinates_to_the_others(name: str, tmp_path: Path) -> None:
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
    np.testing.assert_allclose(array(read(path, None, None, moving)), array(field(fixed)), atol=1e-3)


def affine() -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = 1.1 * np.reshape(turned(0.2, 0.3, -0.1), (3, 3))
    matrix[:3, 3] = 5.5, -20.25, 13
    return matrix


def saved_affine(path: Path) -> Path:
    formats.write_affine(affine(), path, "itk")
    return path


@pytest.mark.parametrize("file", ["a.mat", "a.tfm", "a.txt", "a.h5"])
def test_affines_of_itk_there_and_back(file: str, tmp_path: Path) -> None:
    path = saved_affine(tmp_path / file)
    point = (3.0, -4.0, 50.0)
    expected = (affine() @ (*point, 1))[:3]
    assert sitk.ReadTransform(str(path)).TransformPoint(point) == pytest.approx(expected, abs=1e-9)
    assert formats.guess_form(path) == "itk"
    for form, name in (("ras", "b.txt"), ("fsl", "b.mat")):
        grids = (GRIDS["oblique"], OTHER["oblique"])
        there = formats.convert(path, tmp_path / name, target_form=form, fixed=grids[0], moving=grids[1])
        assert formats.guess_form(tmp_path / name) == form
        back = formats.convert(tmp_path / name, tmp_path / f"{form}.tfm", fixed=grids[0], moving=grids[1])
        assert (there.content, there.target_form, back.source_form) == ("affine", form, form)
        np.testing.assert_allclose(formats.read(tmp_path / f"{form}.tfm"), affine(), atol=1e-9)


def test_a_plain_matrix_is_ras_from_fixed_to_moving(tmp_path: Path) -> None:
    formats.convert(saved_affine(tmp_path / "a.mat"), tmp_path / "a.txt", target_form="ras")
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

    formats.convert(saved_affine(tmp_path / "a.txt"), tmp_path / "a.mat")
    read_by_ants = ants.read_transform(str(tmp_path / "a.mat"))
    got = ants.apply_ants_transform_to_point(read_by_ants, (3.0, -4.0, 50.0))
    np.testing.assert_allclose(got, (affine() @ (3, -4, 50, 1))[:3], atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 12, 7, 1, 3), (9, 12, 7, 3)])
@pytest.mark.parametrize("intent", [0, 1006, 1007, 2006])
def test_an_explicit_form_beats_the_header(shape: tuple[int, ...], intent: int, tmp_path: Path) -> None:
    """ITK takes vectors of intent 1006 along the fourth axis for single values and spoils them: that is refused."""
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    image.header["intent_code"] = intent
    nib.save(image, tmp_path / "f.nii.gz")
    if (intent, len(shape)) == (1006, 4):
        with pytest.raises(InputError, match="do not stand along the fifth axis"):
            read(tmp_path / "f.nii.gz", "itk")
        return
    got = array(read(tmp_path / "f.nii.gz", "itk"))
    np.testing.assert_allclose(got, values.reshape(9, 12, 7, 3).transpose(2, 1, 0, 3), atol=1e-6)
    turned_ones = array(read(tmp_path / "f.nii.gz", "ras"))
    np.testing.assert_allclose(turned_ones, got * (-1, -1, 1), atol=1e-6)


def test_convert_is_the_repair_of_a_field_without_intent(tmp_path: Path) -> None:
    good = saved(field(GRIDS["oblique"]), tmp_path / "good.nii")
    bad = tmp_path / "bad.nii"
    bad.write_bytes(good.read_bytes())
    nifti.set_intent(bad, 0)
    with pytest.raises(
        InputError, match=r"does not say what its vectors are \(intent 0, not 1007\)"
    ) as caught:
        formats.convert(bad, tmp_path / "out.nii.gz")
    assert "--from itk" in caught.value.hint
    formats.convert(bad, tmp_path / "out.nii.gz", source_form="itk")
    np.testing.assert_array_equal(
        array(sitk.ReadImage(str(tmp_path / "out.nii.gz"))), array(field(GRIDS["oblique"]))
    )


def test_what_cannot_be_guessed_or_done_is_told(tmp_path: Path) -> None:
    grid = GRIDS["LPS"]
    warp, matrix = saved(field(grid), tmp_path / "w.nii.gz"), saved_affine(tmp_path / "a.mat")
    np.savez(tmp_path / "d.npz", np.zeros((3, *grid.size), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.savez(tmp_path / "bad.npz", np.full((3, *grid.size), np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "x.xyz").write_text("hello")
    chain = sitk.CompositeTransform([sitk.Euler3DTransform(), sitk.BSplineTransform(3)])
    sitk.WriteTransform(chain, str(tmp_path / "chain.h5"))
    cases: list[tuple[type[Exception], str, Path, str, dict[str, object]]] = [
        (UsageError, "cannot be guessed from its name", tmp_path / "x.xyz", "o.nii", {}),
        (UsageError, "may be ITK's or a plain matrix", matrix, "o.txt", {}),
        (UsageError, "is written as", warp, "o.png", {}),
        (UsageError, "is written as", warp, "o.mhd", {}),
        (UsageError, "is written as .nii, .nii.gz", warp, "o.nrrd", {"target_form": "ras"}),
        (UsageError, "no affine of form voxel", matrix, "o.mat", {"target_form": "voxel"}),
        (UsageError, "moving image's grid", warp, "o.nii", {"target_form": "fsl"}),
        (UsageError, "depends on both images", matrix, "o.mat", {"target_form": "fsl"}),
        (UsageError, "holds no geometry", tmp_path / "d.npz", "o.nii", {}),
        (UsageError, "only hold voxel", tmp_path / "d.npz", "o.nii", {"source_form": "ras"}),
        (UsageError, "--half and --channels", warp, "o.nii", {"half": True}),
        (InputError, "no such file", tmp_path / "none.nii.gz", "o.nii", {}),
        (InputError, "no such file", tmp_path / "none.npz", "o.nii", {"fixed": grid}),
        (InputError, "holds a, b", tmp_path / "two.npz", "o.nii", {"fixed": grid}),
        (InputError, "NaN", tmp_path / "bad.npz", "o.nii", {"fixed": grid}),
        (InputError, "no plain numpy array", tmp_path / "objects.npy", "o.nii", {"fixed": grid}),
        (
            GeometryError,
            "3 x 9 x 12 x 7|9 x 12 x 7 x 3",
            tmp_path / "d.npz",
            "o.nii",
            {"fixed": OTHER["LPS"]},
        ),
        (GeometryError, "another grid than the reference", warp, "o.npz", {"fixed": OTHER["LPS"]}),
        (InputError, "no displacement field", tmp_path / "chain.h5", "o.nii", {}),
        (InputError, "not a matrix of form ras", matrix, "o.tfm", {"source_form": "ras"}),
    ]
    for kind, text, source, target, options in cases:
        with pytest.raises(kind, match=text) as caught:
            formats.convert(source, tmp_path / target, **options)  # type: ignore[arg-type]
        assert caught.value.hint  # type: ignore[attr-defined]
        assert not (tmp_path / target).exists()


def test_coefficients_of_fnirt_are_no_field(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((5, 6, 7, 3), np.float32), np.eye(4))
    image.header["intent_code"] = 2007
    nib.save(image, tmp_path / "coef.nii.gz")
    with pytest.raises(InputError, match="coefficients"):
        formats.convert(tmp_path / "coef.nii.gz", tmp_path / "o.nii.gz")


def test_a_file_that_comes_back_different_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(field(GRIDS["LPS"]), tmp_path / "in.nii.gz")
    true = formats.write_field

    def broken(image: sitk.Image, *more: object) -> float:
        return true(field_image(GRIDS["LPS"], array(image) * 1.001), *more)  # type: ignore[arg-type]

    monkeypatch.setattr(formats, "write_field", broken)
    with pytest.raises(OutputError, match="read back, it differs"):
        formats.convert(source, tmp_path / "o.npz")


def test_a_composite_of_one_field_is_a_field(tmp_path: Path) -> None:
    image = field(GRIDS["flipped"])
    transform = sitk.DisplacementFieldTransform(sitk.Image(image))
    sitk.WriteTransform(sitk.CompositeTransform([transform]), str(tmp_path / "one.h5"))
    got = read(tmp_path / "one.h5")
    np.testing.assert_array_equal(array(got), array(image))
    assert Grid.of(got).same_as(GRIDS["flipped"])
