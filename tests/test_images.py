"""Reading and writing: every kind of bad file has its error; foreign files come out right."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, InputError, OutputError
from hsyn_cli.io import atomic, files, images, writing
from hsyn_cli.space import Grid

SIZE = (7, 9, 5)  # x, y, z
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
EYE = np.eye(4)


def noise(size: tuple[int, ...] = SIZE, pixel: type = np.float32, seed: int = 0) -> sitk.Image:
    values = np.random.default_rng(seed).normal(100, 20, size[::-1]).astype(pixel)
    return sitk.GetImageFromArray(values, isVector=False)


def oblique(image: sitk.Image) -> sitk.Image:
    image.SetSpacing((1.5, 0.9, 2.2))
    image.SetOrigin((-31.0, 12.5, 7.0))
    image.SetDirection(OBLIQUE)
    return image


def saved(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def nifti(
    path: Path,
    shape: tuple[int, ...] = SIZE,
    sform: np.ndarray | None = EYE,
    qform: np.ndarray | None = EYE,
    pixel: type = np.float32,
) -> Path:
    image = nib.Nifti1Image(np.random.default_rng(1).normal(9, 2, shape).astype(pixel), None)
    image.set_sform(sform, 0 if sform is None else 1)
    image.set_qform(qform, 0 if qform is None else 1)
    if qform is None and sform is not None:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_formats_come_back_with_their_geometry(tmp_path: Path, extension: str) -> None:
    image = oblique(noise())
    path = tmp_path / f"a{extension}"
    writing.write_image(image, path) if extension != ".mhd" else saved(image, path)
    scan = images.read_image(path)
    assert scan.image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), sitk.GetArrayFromImage(image))
    assert Grid.of(scan.image).same_as(Grid.of(image))
    assert (scan.path, len(scan.sha256), scan.warnings) == (path, 64, ())


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, atol=1e-6) if a.dtype.kind == "f" else np.array_equal(a, b))


@pytest.mark.parametrize("components", [1, 2, 3])
@pytest.mark.parametrize("size", [SIZE, (7, 9, 1)])
@pytest.mark.parametrize("pixel", [np.uint8, np.float32, np.float64])
def test_nifti_is_what_itk_writes_and_says_what_vectors_are(
    tmp_path: Path, pixel: type, size: tuple[int, ...], components: int
) -> None:
    image = noise(size, pixel)
    if components > 1:
        image = sitk.Compose([noise(size, pixel, seed) for seed in range(components)])
    image = oblique(image)
    sitk.WriteImage(image, str(tmp_path / "itk.nii"))
    expected = (tmp_path / "itk.nii").read_bytes()
    for name in ("a.nii", "a.nii.gz"):
        writing.write_image(image, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        content = gzip.decompress(content) if name.endswith("gz") else content
        assert content[348:] == expected[348:]
        ours, theirs = (nib.Nifti1Header(data[:348]) for data in (content, expected))
        assert [key for key in ours if not same(ours[key], theirs[key])] == (
            ["intent_name"] if components == 3 else []
        )
    assert {path.name for path in tmp_path.iterdir()} == {"itk.nii", "a.nii", "a.nii.gz"}


@pytest.mark.parametrize("pixel", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_any_pixel_type_becomes_float32(tmp_path: Path, pixel: type) -> None:
    image = noise(pixel=pixel)
    scan = images.read_image(saved(image, tmp_path / "a.nii.gz"))
    expected = sitk.GetArrayFromImage(image).astype(np.float32)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), expected)


@pytest.mark.parametrize("shape", [(*SIZE, 1), (*SIZE, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = images.read_image(nifti(tmp_path / "a.nii.gz", shape)).image
    assert image.GetSize() == SIZE
    assert image.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_a_4d_nrrd_with_one_volume_is_read(tmp_path: Path) -> None:
    image = sitk.JoinSeries([oblique(noise())])
    assert image.GetDimension() == 4
    read = images.read_image(saved(image, tmp_path / "a.nrrd")).image
    assert Grid.of(read).same_as(Grid.of(oblique(noise())))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((7,), r"is 1-D \(7 x 1 x 1\)"),
        ((*SIZE, 3), r"is 4-D \(7 x 9 x 5 x 3\)"),
        ((7, 1, 1), r"only one voxel thick \(7 x 1 x 1\)"),
        ((7, 3), "only 3 voxels thick"),
        ((7, 1, 3), "only 3 voxels thick"),
        ((7, 9, 3), "only 3 voxels thick"),
    ],
)
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        images.read_image(nifti(tmp_path / "a.nii.gz", shape), "moving image")
    assert str(caught.value).startswith("moving image")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd"])
def test_not_an_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"no image at all " * 50)
    with pytest.raises(InputError, match=r"header is damaged|not an image that hsyn can read"):
        images.read_image(path)


def test_a_gzipped_text_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"no image at all " * 50))
    with pytest.raises(InputError, match="header is damaged"):
        images.read_image(path)


def test_truncated_files(tmp_path: Path) -> None:
    for name, text in (
        ("a.nii", "is truncated"),
        ("a.nii.gz", "stream is truncated"),
        ("a.nrrd", "is truncated"),
    ):
        path = saved(noise(), tmp_path / name)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=text):
            images.read_image(path)
    path = tmp_path / "b.nii.gz"  # a whole stream, of half an image
    path.write_bytes(gzip.compress(saved(noise(), tmp_path / "b.nii").read_bytes()[:-200]))
    with pytest.raises(InputError, match=r"is truncated \(1060 of 1260 bytes of voxels\)"):
        images.read_image(path)


def test_values_that_are_no_image(tmp_path: Path) -> None:
    cases: list[tuple[float, str]] = [(0, "is all zeros"), (7, r"is constant \(every voxel is 7\)")]
    for value, text in cases:
        flat = sitk.Add(sitk.Image(SIZE, sitk.sitkFloat32), value)
        with pytest.raises(InputError, match=text):
            images.read_image(saved(flat, tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_nan_and_infinity(tmp_path: Path, bad: float, name: str) -> None:
    for pixel in (np.float32, np.float64):
        image = noise(pixel=pixel)
        image[1, 2, 3] = bad
        image[2, 2, 3] = bad
        with pytest.raises(InputError, match="holds 2 NaN or infinite"):
            images.read_image(saved(image, tmp_path / name))


def test_nan_in_a_big_endian_file_read_in_odd_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(">f8")
    values[4, 4, 4] = values[8, 7, 6] = np.nan
    values[8, 7, 6] = np.inf
    nib.save(nib.Nifti1Image(values, EYE, nib.Nifti1Header(endianness=">")), tmp_path / "a.nii.gz")
    monkeypatch.setattr(files, "CHUNK", 1001)
    with pytest.raises(InputError, match="holds 2 NaN or infinite"):
        images.read_image(tmp_path / "a.nii.gz")


def test_colour_complex_and_vectors_are_refused(tmp_path: Path) -> None:
    vector = sitk.Compose([noise()] * 3)
    for image, text in (
        (vector, "has 3 components"),
        (sitk.RealAndImaginaryToComplex(noise(), noise()), "complex"),
    ):
        with pytest.raises(InputError, match=text):
            images.read_image(saved(image, tmp_path / "a.nii.gz"))


SHEARED = EYE + 0.3 * np.eye(4, k=1) * np.array([[1], [0], [0], [0]])
SINGULAR = np.diag([1.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("sform", [SHEARED, SINGULAR])
def test_sheared_and_singular_nifti(tmp_path: Path, sform: np.ndarray) -> None:
    with pytest.raises(GeometryError, match=r"sheared axes|usable spacing"):
        images.read_image(nifti(tmp_path / "a.nii.gz", sform=sform, qform=None))


@pytest.mark.parametrize(
    ("second", "text"),
    [("(0.3,1,0)", "sheared"), ("(1,0,0)", "sheared")],
)
def test_sheared_and_singular_nrrd(tmp_path: Path, second: str, text: str) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\n"
        f"space directions: (1,0,0) {second} (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + bytes(range(64)))
    with pytest.raises(GeometryError, match=text):
        images.read_image(path)


FLIPPED, SHIFTED = np.diag([-1.0, 1, 1, 1]), EYE + 40 * np.eye(4, k=3)


@pytest.mark.parametrize(
    ("sform", "qform", "text"),
    [
        (EYE, FLIPPED, "disagree by up to 12.0 mm and mirror one another; the sform is used"),
        (EYE, SHIFTED, "disagree by up to 40.0 mm; the sform is used"),
        (SHEARED, EYE, "disagree by up to 2.4 mm; the qform is used"),
    ],
)
def test_sform_and_qform_that_disagree(
    tmp_path: Path, sform: np.ndarray, qform: np.ndarray, text: str
) -> None:
    scan = images.read_image(nifti(tmp_path / "a.nii.gz", sform=sform, qform=qform))
    assert len(scan.warnings) == 1
    assert text in scan.warnings[0]
    used = np.diag([-1, -1, 1, 1]) @ (sform if "sform is" in text else qform)
    assert scan.image.TransformIndexToPhysicalPoint((6, 0, 4)) == pytest.approx(
        (used @ (6, 0, 4, 1))[:3]
    )


def test_no_warning_where_sform_and_qform_agree_or_one_is_missing(tmp_path: Path) -> None:
    turned = np.eye(4)
    turned[:3, :3] = np.reshape(OBLIQUE, (3, 3)) * (1.5, 0.9, 2.2)
    turned[:3, 3] = (5, -60, 70)
    flipped = turned @ FLIPPED  # left-handed
    for sform, qform in ((turned, turned), (flipped, flipped), (turned, None), (None, turned)):
        assert (
            images.read_image(nifti(tmp_path / "a.nii.gz", sform=sform, qform=qform)).warnings == ()
        )
    (warning,) = images.read_image(nifti(tmp_path / "a.nii.gz", sform=None, qform=None)).warnings
    assert "no orientation" in warning


def test_mask_is_binary_uint8_on_the_grid_of_its_image(tmp_path: Path) -> None:
    reference = oblique(noise())
    values = np.zeros(SIZE[::-1], np.float32)
    values[1:3] = 0.25
    values[3] = -2
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(reference)
    read = images.read_mask(saved(mask, tmp_path / "m.nii.gz"), reference).image
    assert read.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), values != 0)


def test_mask_that_is_empty_or_elsewhere(tmp_path: Path) -> None:
    reference = oblique(noise())
    with pytest.raises(InputError, match=r"fixed mask .* is empty"):
        images.read_mask(saved(reference * 0, tmp_path / "m.nii.gz"), reference, "fixed mask")
    with pytest.raises(GeometryError, match="another spacing, origin or direction"):
        images.read_mask(saved(noise(), tmp_path / "m.nii.gz"), reference)
    with pytest.raises(GeometryError, match="size 7 x 9 x 6 against 7 x 9 x 5"):
        images.read_mask(saved(noise((7, 9, 6)), tmp_path / "m.nii.gz"), reference)


@pytest.mark.parametrize("pixel", [np.uint8, np.int16, np.uint32, np.int64])
def test_labels_keep_their_type_and_ids(tmp_path: Path, pixel: type) -> None:
    values = np.zeros(SIZE[::-1], pixel)
    values[2, 3, 4] = top = min(np.iinfo(pixel).max, 2**31 + 1)
    image = sitk.GetImageFromArray(values)
    labels = images.read_labels(saved(image, tmp_path / "l.nii.gz"), image)
    assert sitk.GetArrayFromImage(labels.image).dtype == pixel
    assert labels.image[4, 3, 2] == top


def test_labels_stored_as_floats(tmp_path: Path) -> None:
    values = np.zeros(SIZE[::-1], np.float32)
    values[2, 3, 4] = 1021
    image = sitk.GetImageFromArray(values)
    labels = images.read_labels(saved(image, tmp_path / "l.nii.gz"), image)
    assert (labels.image.GetPixelID(), labels.image[4, 3, 2]) == (sitk.sitkInt32, 1021)
    assert labels.warnings == ()
    image[4, 3, 2] = 2**25
    assert (
        "may already be rounded"
        in images.read_labels(saved(image, tmp_path / "l.nii.gz"), image).warnings[0]
    )
    image[4, 3, 2] = 2.5
    with pytest.raises(InputError, match="fractional"):
        images.read_labels(saved(image, tmp_path / "l.nii.gz"), image)


def field() -> sitk.Image:
    return oblique(sitk.Compose([noise(seed=k) for k in range(3)]))


def test_field_on_disk_is_what_ants_and_itk_expect(tmp_path: Path) -> None:
    path = tmp_path / "f.nii.gz"
    writing.write_image(field(), path)
    header = nib.load(path).header
    assert header["dim"].tolist()[:6] == [5, *SIZE, 1, 3]
    assert (int(header["intent_code"]), header.get_data_dtype()) == (1007, np.float32)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    read = images.read_field(path).image
    assert read.GetPixelID() == sitk.sitkVectorFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(field()))


def test_a_field_without_intent_is_explained(tmp_path: Path) -> None:
    for shape in ((*SIZE, 1, 3), (*SIZE, 3)):
        with pytest.raises(
            InputError, match=r"does not say what its vectors are \(7 x 9 .*, intent 0\)"
        ) as caught:
            images.read_field(nifti(tmp_path / "f.nii.gz", shape))
        assert f"hsyn convert {tmp_path}/f.nii.gz field.nii.gz --from itk" in caught.value.hint
        assert images.read_vectors(tmp_path / "f.nii.gz", named=True)[0].image.GetSize() == SIZE
    with pytest.raises(InputError, match="is not a displacement field") as caught:
        images.read_field(nifti(tmp_path / "f.nii.gz"))
    assert "intent 1007" in caught.value.hint
    two = sitk.Compose([noise()] * 2)
    with pytest.raises(InputError, match=r"2 component\(s\)"):
        images.read_field(saved(two, tmp_path / "f.nrrd"))


def test_the_grid_of_any_image(tmp_path: Path) -> None:
    grid = Grid.of(oblique(noise()))
    series = sitk.JoinSeries([oblique(noise())] * 3)
    vectors = oblique(sitk.Compose([noise()] * 3))
    for image in (oblique(noise()), 0 * oblique(noise()), series, vectors):
        assert images.read_grid(saved(image, tmp_path / "a.nii.gz")).same_as(grid)
    flat = images.read_grid(saved(noise((5, 6)), tmp_path / "a.nii.gz"))
    assert (flat.size, flat.dimension) == ((5, 6, 1), 2)
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match="header is damaged"):
        images.read_grid(tmp_path / "a.nii.gz", "moving image")


def test_a_field_with_nan(tmp_path: Path) -> None:
    bad = field()
    bad[0, 0, 0] = (0, float("nan"), 0)
    with pytest.raises(InputError, match="holds 1 NaN"):
        images.read_field(saved(bad, tmp_path / "f.nii.gz"))


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "a.nii.gz", tmp_path / "2" / "a.nii.gz"
    for path in (one, two):
        path.parent.mkdir()
        writing.write_image(field(), path)
    assert one.read_bytes() == two.read_bytes()
    assert os.listdir(one.parent) == ["a.nii.gz"]


def test_writing_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        writing.write_image(noise(), tmp_path / "none" / "a.nii.gz")
    with pytest.raises(OutputError, match="cannot be written"):
        writing.write_image(noise(), tmp_path / "a.unknown")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk."""
    program = (
        "import pathlib, resource, signal, sys\n"
        "import SimpleITK as sitk\n"
        "from hsyn_cli.io import writing\n"
        "from hsyn_cli.errors import OutputError\n"
        "blank = sitk.Image((40, 40, 31), sitk.sitkFloat32)\n"
        "image = sitk.AdditiveGaussianNoise(blank, 9.0, 0.0, 1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (5000, 198000, 300000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    for name in ('a.nii', 'a.nii.gz', 'a.nrrd'):\n"
        "        try: writing.write_image(image, pathlib.Path(sys.argv[1]) / f'{limit}{name}')\n"
        "        except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = [
        line
        for line in done.stdout.splitlines()
        if "no space left" in line or "cannot be written" in line
    ]
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(told) == 9 - len(written)
    assert [name for name in written if name.startswith("5000")] == []
    assert sum(name.startswith("300000") for name in written) == 3


def test_too_little_space_is_told_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="no space left"):
        writing.write_image(noise(), tmp_path / "a.nii.gz")
    assert os.listdir(tmp_path) == []
