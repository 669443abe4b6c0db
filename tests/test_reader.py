"""The reader against ITK, which ANTs and Slicer use, and against nibabel."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.io
import SimpleITK as sitk
from samples import GRIDS, field_image, voxel_points

from hsyn_cli.errors import GeometryError, HsynError, InputError
from hsyn_cli.io import headers, images, series, voxels, writing
from hsyn_cli.space import Grid, to_ras

SHAPE = (7, 6, 5)
VALUES = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.int16)


def nifti(path: Path, values: np.ndarray = VALUES, sform: Any = None, qform: Any = None,
          **fields: Any) -> Path:  # fmt: skip
    """A NIfTI-1 file with any header: `fields` come last and unchecked."""
    head = nib.Nifti1Header(endianness=fields.pop("endianness", "<"))
    head.set_data_dtype(values.dtype)
    head.set_data_shape(values.shape)
    for form, put in ((qform, head.set_qform), (sform, head.set_sform)):
        put(np.eye(4) if form is None else form, 0 if form is None else 1)
    if sform is not None:
        head["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    head["magic"], head["vox_offset"] = b"n+1", 352
    for key, value in fields.items():
        head[key] = value
    data = values.astype(values.dtype.newbyteorder(head.endianness)).tobytes(order="F")
    raw = head.binaryblock + bytes(4) + data
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def xyz(image: sitk.Image) -> np.ndarray:
    """Values as nibabel has them, (X, Y, Z) or (X, Y, Z, N)."""
    values = sitk.GetArrayFromImage(image)
    return values.transpose(2, 1, 0, *range(3, values.ndim))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 4), (0, 0)])
@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_geometry_as_itk_has_it(
    name: str, codes: tuple[int, int], unit: int, tmp_path: Path
) -> None:
    """Every orientation, form and unit; the forms differ by a shift and a turn."""
    sform = to_ras(GRIDS[name])
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    qform = turn @ sform + 5 * np.eye(4, k=3)
    path = nifti(tmp_path / "a.nii", sform=sform, qform=qform, xyzt_units=unit)
    with path.open("r+b") as file:
        file.seek(252)
        file.write(np.array(codes, "<i2").tobytes())
    ours, theirs = Grid.of(images.read_image(path).image), Grid.of(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(ours.corners(), theirs.corners(), rtol=1e-5, atol=1e-5)
    assert images.read_grid(path) == ours


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, 3.0), (0.0, 9.0), (np.nan, 1.0)])
def test_values_as_nibabel_has_them(
    dtype: str, endianness: str, scale: tuple[float, float], tmp_path: Path
) -> None:
    path = nifti(tmp_path / "a.nii.gz", (VALUES // 2).astype(dtype), np.eye(4),
                 endianness=endianness, scl_slope=scale[0], scl_inter=scale[1])  # fmt: skip
    expected = np.asanyarray(nib.load(path).dataobj)
    np.testing.assert_array_equal(xyz(images.read_any(path).image), expected)
    np.testing.assert_array_equal(xyz(images.read_image(path).image), expected.astype("f4"))
    if scale == (1.0, 0.0):
        assert xyz(images.read_any(path).image).dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_scaled_vectors_and_colours(dtype: str, tmp_path: Path) -> None:
    """ITK 5.4 scales a third of them, or corrupts its heap."""
    vectors = (100 * np.random.default_rng(1).normal(size=(*SHAPE, 1, 3))).astype(dtype)
    path = nifti(tmp_path / "v.nii", vectors, np.eye(4), intent_code=1007, scl_slope=0.01)
    read = images.read_field(path)
    np.testing.assert_allclose(xyz(read.image), vectors[:, :, :, 0] * 0.01, atol=1e-6)
    np.testing.assert_allclose(
        xyz(images.read_any(path).image), vectors[:, :, :, 0] * 0.01, atol=1e-6
    )
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = VALUES
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    rgb = xyz(images.read_any(tmp_path / "rgb.nii.gz").image)
    np.testing.assert_array_equal(rgb[..., 1], VALUES)
    assert not rgb[..., [0, 2]].any()


def test_the_named_file_is_read_and_hashed(tmp_path: Path) -> None:
    """ITK takes x.nii where x.nii.gz is named."""
    nifti(tmp_path / "x.nii", VALUES + 1, np.eye(4))
    path = nifti(tmp_path / "x.nii.gz", VALUES, np.eye(4))
    np.testing.assert_array_equal(xyz(images.read_any(path).image), VALUES)
    np.testing.assert_array_equal(xyz(images.read_any(tmp_path / "x.nii").image), VALUES + 1)


def test_a_pair_is_one_image_whose_files_are_both_hashed(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(VALUES, np.diag([2.0, 3, 4, 1])), tmp_path / "p.hdr")
    scans = [images.read_image(tmp_path / name) for name in ("p.hdr", "p.img")]
    for scan in scans:
        np.testing.assert_array_equal(xyz(scan.image), VALUES)
    voxel_file = tmp_path / "p.img"
    voxel_file.write_bytes(voxel_file.read_bytes()[:-2] + b"\7\7")
    assert len({scan.sha256 for scan in scans}) == 1
    assert images.read_image(tmp_path / "p.hdr").sha256 != scans[0].sha256
    voxel_file.write_bytes(voxel_file.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"p.hdr is truncated"):
        images.read_image(tmp_path / "p.hdr")
    voxel_file.unlink()
    with pytest.raises(InputError, match=r"p\.img: no such file"):
        images.read_image(tmp_path / "p.hdr")
    (tmp_path / "p.hdr").rename(tmp_path / "q.hdr")
    voxel_file.write_bytes(b"1")
    with pytest.raises(InputError, match=r"its header p\.hdr is missing"):
        images.read_image(voxel_file)


def test_analyze_says_that_it_has_no_orientation_unless_spm_wrote_it(tmp_path: Path) -> None:
    nib.save(nib.Spm2AnalyzeImage(VALUES, np.diag([-2.0, 2, 3, 1])), tmp_path / "a.img")
    (tmp_path / "a.mat").unlink()
    scan = images.read_image(tmp_path / "a.hdr")
    assert "no orientation (Analyze has none); hsyn assumes LPS axes" in scan.warnings[0]
    theirs = sitk.ReadImage(str(tmp_path / "a.hdr"))
    assert Grid.of(scan.image).same_as(Grid.of(theirs))
    for key in ("M", "mat"):
        scipy.io.savemat(tmp_path / "a.mat", {key: to_ras(GRIDS["oblique"])})
        scan = images.read_image(tmp_path / "a.img")
        np.testing.assert_allclose(
            to_ras(Grid.of(scan.image)), nib.load(tmp_path / "a.img").affine, atol=1e-5
        )
        assert scan.warnings == ()
        np.testing.assert_array_equal(xyz(scan.image), VALUES)
    (tmp_path / "a.mat").write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"its matrix a\.mat cannot be read"):
        images.read_image(tmp_path / "a.hdr")


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize("name", GRIDS)
def test_mgh_in_and_out_as_nibabel_has_it(name: str, dtype: str, tmp_path: Path) -> None:
    path, affine = tmp_path / "a.mgz", to_ras(GRIDS[name])
    nib.save(nib.MGHImage(VALUES.astype(dtype), affine.astype("f4")), path)
    image = images.read_any(path).image
    np.testing.assert_array_equal(xyz(image), VALUES)
    np.testing.assert_allclose(to_ras(Grid.of(image)), nib.load(path).affine, atol=1e-4)
    writing.write_image(image, tmp_path / "b.mgh")
    assert Grid.of(images.read_any(tmp_path / "b.mgh").image).same_as(Grid.of(image))
    (tmp_path / "b.mgz").write_bytes(gzip.compress((tmp_path / "b.mgh").read_bytes()))
    again = nib.load(tmp_path / "b.mgz")
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), VALUES)
    assert again.get_data_dtype().newbyteorder("=") == np.dtype(dtype)
    np.testing.assert_allclose(again.affine, nib.load(path).affine, atol=1e-4)


def test_nifti_2(tmp_path: Path) -> None:
    affine = to_ras(GRIDS["oblique"])
    nib.save(nib.Nifti2Image(VALUES, affine), tmp_path / "a.nii.gz")
    image = images.read_any(tmp_path / "a.nii.gz").image
    np.testing.assert_array_equal(xyz(image), VALUES)
    np.testing.assert_allclose(to_ras(Grid.of(image)), affine, atol=1e-5)
    four = np.stack([VALUES, VALUES + 1], -1)
    for kind, name in (
        (nib.Nifti2Image, "b.nii"),
        (nib.Nifti2Pair, "b.hdr"),
        (nib.MGHImage, "b.mgz"),
    ):
        nib.save(kind(four.astype("i4"), affine.astype("f4")), tmp_path / name)
        found = series.find(tmp_path / name)
        assert found is not None
        for k, volume in enumerate(series.volumes(found)):
            np.testing.assert_array_equal(xyz(volume), four[..., k])


def test_the_only_form_decides_the_voxel_size(tmp_path: Path) -> None:
    sform = np.diag([3.0, 3, 3, 1])
    path = nifti(tmp_path / "a.nii", sform=sform)
    with path.open("r+b") as file:
        file.seek(80)
        file.write(np.ones(3, "<f4").tobytes())
    scan = images.read_image(path)
    assert scan.image.GetSpacing() == pytest.approx((3, 3, 3))
    (warning,) = scan.warnings
    assert "by sform and by pixdim are 3 x 3 x 3 and 1 x 1 x 1 mm" in warning
    assert "see the other" in warning


def test_a_rounded_form_is_straightened_and_a_sheared_one_refused(tmp_path: Path) -> None:
    form = to_ras(GRIDS["oblique"])
    rounded = np.round(form, 3)
    grid = Grid.of(images.read_image(nifti(tmp_path / "a.nii", sform=rounded)).image)
    np.testing.assert_allclose(grid.axes.T @ grid.axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(to_ras(grid), form, atol=2e-3)
    rounded[0, 1] += 0.1
    with pytest.raises(GeometryError, match="sheared axes"):
        images.read_image(nifti(tmp_path / "a.nii", sform=rounded))


def test_metres_are_told_in_mm(tmp_path: Path) -> None:
    form = np.diag([0.003, 0.003, 0.003, 1])
    other = form + 0.03 * np.eye(4, k=3)
    scan = images.read_image(nifti(tmp_path / "a.nii", sform=form, qform=other, xyzt_units=1))
    assert "disagree by up to 30.0 mm" in scan.warnings[0]
    assert scan.image.GetSpacing() == pytest.approx((3, 3, 3))


def nrrd(path: Path, *lines: str, values: np.ndarray = VALUES) -> Path:
    sizes = " ".join(map(str, values.shape))
    text = f"NRRD0005\ntype: int16\ndimension: {values.ndim}\nsizes: {sizes}\nendian: little\n"
    text += "space: left-posterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,4)\n"
    text += "space origin: (1,2,3)\n" + "".join(f"{line}\n" for line in lines)
    if "encoding" not in text:
        text += "encoding: raw\n"
    path.write_bytes(text.encode() + b"\n" + values.tobytes(order="F"))
    return path


def test_nrrd_in_micrometres(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", 'space units: "um" "um" "um"')
    scan = images.read_image(path)
    np.testing.assert_array_equal(xyz(scan.image), VALUES)
    assert scan.image.GetSpacing() == pytest.approx((0.002, 0.002, 0.004))
    assert scan.image.GetOrigin() == pytest.approx((0.001, 0.002, 0.003))
    assert "its space is in um" in scan.warnings[0]
    assert images.read_image(nrrd(path, 'space units: "mm" "mm" "mm"')).warnings == ()


def test_text_headers_are_checked_against_the_length(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VALUES.T)
    names = ("a.nrrd", "a.nhdr", "a.mha", "a.mhd")
    for name, packed in itertools.product(names, (False, True)):
        path = tmp_path / name
        sitk.WriteImage(image, str(path), useCompression=packed)
        header = headers.read(path)
        np.testing.assert_array_equal(xyz(images.read_any(path).image), VALUES)
        assert voxels.fingerprint(header, "image") == images.read_any(path).sha256
        data = header.parts[-1]
        whole = data.read_bytes()
        for cut in (whole[:-20], whole[: len(whole) - VALUES.nbytes // 4]):
            data.write_bytes(cut)
            with pytest.raises(InputError, match=r"truncated|damaged"):
                images.read_any(path)
        for part in header.parts:
            part.unlink()


def test_nan_that_reaches_the_border_is_background(tmp_path: Path) -> None:
    values = VALUES.astype("f4")
    values[:, 0], values[:2] = np.nan, np.nan
    scan = images.read_image(nifti(tmp_path / "a.nii", values, np.eye(4)))
    np.testing.assert_array_equal(xyz(scan.image), np.nan_to_num(values))
    assert "counts as background (0)" in scan.warnings[0]
    values -= 300
    scan = images.read_image(nifti(tmp_path / "a.nii", values, np.eye(4)))
    assert xyz(scan.image)[0, 0, 0] == np.nanmin(values)
    values[4, 3, 2] = np.nan
    path = nifti(tmp_path / "a.nii", values, np.eye(4))
    for read in (images.read_image, images.read_any):
        with pytest.raises(InputError, match="holds 1 NaN"):
            read(path)
    reference = images.read_any(nifti(tmp_path / "b.nii", VALUES, np.eye(4))).image
    with pytest.raises(InputError, match="NaN"):
        images.read_mask(path, reference)


def test_vectors_of_one_component_are_a_scalar_image(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", VALUES[..., None, None], np.eye(4), intent_code=1007)
    for image in (images.read_image(path).image, images.read_any(path).image):
        np.testing.assert_array_equal(xyz(image), VALUES)


def test_names_that_itk_cannot_take(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VALUES.T)
    for name in ("\udce9", "y" * 245):
        for ending in (".nii", ".mha", ".nrrd"):
            path = tmp_path / (name + ending)
            writing.write_image(image, path)
            np.testing.assert_array_equal(xyz(images.read_any(path).image), VALUES)
    writing.write_image(image, tmp_path / "A.NII.GZ")
    writing.write_image(image, tmp_path / "A.NRRD")
    for name in ("A.NII.GZ", "A.NRRD"):
        np.testing.assert_array_equal(xyz(images.read_any(tmp_path / name).image), VALUES)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    for path, text in (
        (Path("/dev/null"), "a pipe or a device"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        for read in (images.read_image, images.read_grid, series.find):
            with pytest.raises(HsynError, match=text):
                read(path)


GRID = GRIDS["oblique"]
MOVES = 2 * np.sin(voxel_points(GRID) / 9)
POSITIONS = voxel_points(GRID) @ np.diag([1.1, 0.95, 1.0]) + (4, -3, 2) + MOVES


@pytest.mark.parametrize(
    ("form", "values"), [("positions", POSITIONS), ("spm", POSITIONS * (-1, -1, 1))]
)
def test_positions_are_noticed(form: str, values: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(
            sitk.Cast(field_image(GRID, values), sitk.sitkVectorFloat32), str(tmp_path / name)
        )
        with pytest.raises(InputError, match="holds positions, it seems") as caught:
            images.read_field(tmp_path / name)
        assert f"--from {form};" in caught.value.hint


def test_displacements_are_not_taken_for_positions(tmp_path: Path) -> None:
    """Also those with a large affine part; a field that says what it is is never doubted."""
    points = voxel_points(GRID)
    for matrix in (np.diag([0.5, 0.4, -0.3]), 0.3 * np.ones((3, 3)), np.diag([-2.0, -2, 0])):
        image = field_image(GRID, points @ matrix + MOVES + 30)
        sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), str(tmp_path / "a.nrrd"))
        images.read_field(tmp_path / "a.nrrd")
    writing.write_image(field_image(GRID, POSITIONS), tmp_path / "a.nii")
    images.read_field(tmp_path / "a.nii")


def test_a_modeling_field_of_slicer_is_the_other_way_round(tmp_path: Path) -> None:
    vectors = np.zeros((3, *SHAPE), np.int16)
    kinds = "kinds: vector domain domain domain"
    path = tmp_path / "a.nrrd"
    nrrd(path, kinds, "displacement field type:=modeling", values=vectors)
    text = path.read_bytes().replace(b"space directions: ", b"space directions: none ")
    path.write_bytes(text)
    with pytest.raises(InputError, match="from moving to fixed points") as caught:
        images.read_field(path)
    assert f"hsyn invert {path}" in caught.value.hint
    assert "modeling" in images.read_field(path, either_way=True).warnings[0]
    path.write_bytes(text.replace(b"=modeling", b"=resampling"))
    images.read_field(path)
