"""Composite.h5: written like ANTs', read by ANTs, ITK and nitransforms, and read from ANTs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, grid, scan, waves
from samples import DIRECTIONS, voxel_points

from hsyn_cli.cli import run
from hsyn_cli.errors import InputError, OutputError, UsageError
from hsyn_cli.io import images, writing
from hsyn_cli.io.composites import write_composite
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools import chain as chains
from hsyn_cli.tools.convert import convert

TOLERANCE = 1e-4  # mm
GROUP = "TransformGroup/"

every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def forward_and_inverse(folder: Path, direction: str) -> tuple[Grid, dict[str, sitk.Transform]]:
    """Composite.h5 and InverseComposite.h5, and what ITK's own classes make of their parts."""
    at = grid(direction)
    warp, back = waves(at), waves(at, seed=1)
    write_composite([warp, AFFINE], folder / "Composite.h5")
    write_composite([AFFINE.GetInverse(), back], folder / "InverseComposite.h5")
    fields = [
        sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        for field in (warp, back)
    ]
    return at, {
        "Composite.h5": sitk.CompositeTransform([AFFINE, fields[0]]),  # the last one first
        "InverseComposite.h5": sitk.CompositeTransform([fields[1], AFFINE.GetInverse()]),
    }


def through(transform: sitk.Transform, points: Array) -> Array:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def by_ants(path: Path, points: Array) -> Array:
    import ants

    read = ants.read_transform(str(path))
    return np.array([ants.apply_ants_transform_to_point(read, tuple(p)) for p in points.tolist()])


def by_nitransforms(path: Path, points: Array) -> Array:
    """It works in mm, RAS, and between voxels with cubic splines."""
    from nitransforms.manip import TransformChain

    flip = (-1, -1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Reference space not set
        moved: Array = TransformChain.from_filename(path, fmt="itk").map(points * flip) * flip
    return moved


@every_direction
def test_itk_ants_and_hsyn_read_what_hsyn_writes(tmp_path: Path, direction: str) -> None:
    at, expected = forward_and_inverse(tmp_path, direction)
    points = at.points(np.random.default_rng(0).uniform(3, 9, (60, 3)))
    for name, transform in expected.items():
        path, there = tmp_path / name, through(transform, points)
        assert np.abs(there - points).max() > 0.5
        for moved in (
            through(sitk.ReadTransform(str(path)), points),
            by_ants(path, points),
            chains.move_points(chains.read([path]), points)[0],
        ):
            assert np.abs(moved - there).max() < TOLERANCE


@every_direction
def test_nitransforms_reads_what_hsyn_writes(tmp_path: Path, direction: str) -> None:
    at, expected = forward_and_inverse(tmp_path, direction)
    inner = voxel_points(at)[2:-2:2, 2:-2:2, 2:-2:2].reshape(-1, 3)
    for name, transform in expected.items():
        # at the voxels of the field, which the affine comes before in the inverse
        points = inner if name == "Composite.h5" else through(AFFINE, inner)
        moved = by_nitransforms(tmp_path / name, points)
        assert np.abs(moved - through(transform, points)).max() < TOLERANCE


def content(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The data of an HDF5 file, each with its shape and type."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.shape, str(item.dtype))
            if name.endswith("Type"):
                found[name] = (item.shape, item[0].decode())

    with h5py.File(path) as file:
        file.visititems(look)
    return found


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both composites of a run of ANTs, on oblique grids of different sizes."""
    import ants

    folder = tmp_path_factory.mktemp("ants")
    sizes = {"f": ("oblique", (16, 18, 20)), "m": ("flipped", (20, 16, 18))}
    for name, (direction, size) in sizes.items():
        at = grid(direction, size, 2.0)
        points = voxel_points(at) - (3.0, -7.0, 11.0)
        ball = 100 * (np.linalg.norm(points / (9, 11, 12), axis=-1) < 1 + 0.1 * (name == "m"))
        image = at.stamp(sitk.GetImageFromArray(ball.astype(np.float32)))
        writing.write_image(sitk.SmoothingRecursiveGaussian(image, 1.5), folder / f"{name}.nii.gz")
    made = ants.registration(
        *(ants.image_read(str(folder / f"{name}.nii.gz")) for name in "fm"), "SyN",
        write_composite_transform=True, outprefix=f"{folder}/", reg_iterations=(10, 5),
        aff_iterations=(20, 10, 0, 0), random_seed=1,
    )  # fmt: skip
    assert made["fwdtransforms"] == f"{folder}/Composite.h5"
    assert made["invtransforms"] == f"{folder}/InverseComposite.h5"
    return folder


def test_what_ants_writes_is_read_and_written_alike(theirs: Path, tmp_path: Path) -> None:
    at = grid("oblique", (16, 18, 20), 2.0)
    points = at.points(np.random.default_rng(0).uniform(4, 12, (60, 3)))
    for name in ("Composite.h5", "InverseComposite.h5"):
        chain, expected = chains.read([theirs / name]), by_ants(theirs / name, points)
        assert np.abs(expected - points).max() > 0.2
        assert np.abs(chains.move_points(chain, points)[0] - expected).max() < TOLERANCE
        write_composite([link.transform for link in chain.links], tmp_path / name)
        assert content(tmp_path / name) == content(theirs / name)
        assert np.abs(by_ants(tmp_path / name, points) - expected).max() < TOLERANCE
        first = (tmp_path / name).read_bytes()
        write_composite([link.transform for link in chain.links], tmp_path / name)
        assert first == (tmp_path / name).read_bytes()


def test_a_field_before_an_affine_is_a_field_in_every_command(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(theirs)
    at = images.read_grid(Path("f.nii.gz"))
    field = images.read_field(Path("Composite.h5"))
    assert Grid.of(field.image).same_as(at)
    points = voxel_points(at)[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    moved = points + sitk.GetArrayFromImage(field.image)[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    assert np.abs(moved - by_ants(Path("Composite.h5"), points)).max() < TOLERANCE
    for line in (
        "compose -t Composite.h5 -o total.nii.gz",
        "convert Composite.h5 converted.nii.gz",
        "jacobian Composite.h5",
        "invert Composite.h5 -r m.nii.gz",
        "compose -t InverseComposite.h5 -r m.nii.gz -o back.nii.gz",
        "evaluate --forward Composite.h5 --inverse back.nii.gz --fixed f.nii.gz",
        "apply-field -i m.nii.gz -t Composite.h5 -o moved.nii.gz",
        "apply-field -i f.nii.gz -t InverseComposite.h5 -r m.nii.gz -o unmoved.nii.gz",
        "apply-field -i m.nii.gz -t total.nii.gz -o same.nii.gz",
    ):
        assert run(line.split()) == 0, line
    total, converted, same, direct = (
        sitk.GetArrayFromImage(sitk.ReadImage(f"{name}.nii.gz")).astype(float)
        for name in ("total", "converted", "same", "moved")
    )
    assert np.abs(total - converted).max() < TOLERANCE
    assert np.abs(same - direct).max() < 0.02
    capfd.readouterr()
    for line in ("invert InverseComposite.h5", "jacobian InverseComposite.h5"):
        assert run(line.split()) == 3, line
        error = capfd.readouterr().err
        assert "holds AffineTransform, then DisplacementFieldTransform, which lies on no" in error
        assert "hsyn compose -t InverseComposite.h5 -r IMAGE -o field.nii.gz" in error
    assert run(["apply-field", "-i", "m.nii.gz", "-t", "[Composite.h5,1]", "-o", "x.nii.gz"]) == 2
    assert "InverseComposite.h5" in capfd.readouterr().err


def test_compose_keeps_a_chain_in_h5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    at = grid("oblique")
    writing.write_image(waves(at), Path("1Warp.nii.gz"))
    writing.write_image(scan(at), Path("f.nii.gz"))
    write_transform(AFFINE, Path("0.mat"))
    for typed in (["1Warp.nii.gz", "0.mat"], ["[0.mat,1]", "1Warp.nii.gz"], ["1Warp.nii.gz"]):
        chain = [word for text in typed for word in ("-t", text)]
        assert run(["compose", *chain, "-o", "all.h5", "--force", "--quiet"]) == 0
        points = at.points(np.random.default_rng(0).uniform(2, 10, (60, 3)))
        expected = mapped_points_of(typed, points)
        assert np.abs(by_ants(Path("all.h5"), points) - expected).max() < TOLERANCE
        assert [link.grid is None for link in chains.read(["all.h5"]).links] == [
            not text.endswith(".gz") for text in typed
        ]
    assert run(["compose", "-t", "1Warp.nii.gz", "-r", "f.nii.gz", "-o", "no.h5"]) == 2
    assert "leave out -r" in capfd.readouterr().err
    curved = sitk.BSplineTransformInitializer(waves(at), (2, 2, 2))
    sitk.WriteTransform(curved, "curved.tfm")
    assert run(["compose", "-t", "1Warp.nii.gz", "-t", "curved.tfm", "-o", "no.h5"]) == 2
    assert "BSplineTransform is neither linear nor a displacement" in capfd.readouterr().err
    assert not Path("no.h5").exists()


def mapped_points_of(typed: list[str], points: Array) -> Array:
    return chains.move_points(chains.read(typed), points)[0]


def replaced(name: str, value: Any) -> Callable[[Any], None]:
    """A change of one item of a file; None removes it."""

    def change(file: Any) -> None:
        del file[GROUP + name]
        if value is not None:
            file[GROUP + name] = value

    return change


def fixed(index: int, number: float) -> Callable[[Any], None]:
    """A change of one of the fixed parameters of the field."""

    def change(file: Any) -> None:
        file[GROUP + "2/TransformFixedParameters"][index] = number

    return change


NO_READER = "is not a transform that ITK can read"
DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no group": (lambda file: file.__delitem__("TransformGroup"), NO_READER),
    "no parameters": (replaced("2/TransformParameters", None), NO_READER),
    "few parameters": (
        replaced("2/TransformParameters", np.zeros(99, "f4")),
        "too many or too few",
    ),
    "no kind": (replaced("2/TransformType", None), NO_READER),
    "unknown kind": (replaced("2/TransformType", [b"FooTransform_float_3_3"]), NO_READER),
    "size": (fixed(0, 1e6), "too many or too few"),
    "spacing": (fixed(6, 0), NO_READER),
    "origin": (fixed(3, np.nan), "holds numbers that are no use"),
    "direction": (fixed(9, np.nan), "holds numbers that are no use"),
    "affine nan": (replaced("1/TransformParameters", np.full(12, np.nan)), "are no use"),
    "affine short": (
        replaced("1/TransformParameters", np.eye(3).ravel()[:7]),
        "too many or too few",
    ),
    "affine flat": (replaced("1/TransformParameters", np.zeros(12)), "cannot be inverted"),
    "2-D": (replaced("1/TransformType", [b"AffineTransform_float_2_2"]), "too many or too few"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_told(
    tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path, (damage, told) = tmp_path / "bad.h5", DAMAGE[what]
    write_composite([waves(grid("RAS")), AFFINE], path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=told):
        images.read_field(path)
    with pytest.raises(InputError, match=told):
        chains.read([path])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_cut_file_is_told(tmp_path: Path, share: float) -> None:
    path = tmp_path / "bad.h5"
    write_composite([waves(grid("RAS")), AFFINE], path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=NO_READER):
        chains.read([path])


def test_nan_in_the_field_and_an_empty_composite(tmp_path: Path) -> None:
    field = waves(grid("RAS"))
    field[3, 3, 3] = (np.nan, 0, 0)
    write_composite([field], tmp_path / "nan.h5")
    for read in (images.read_field, lambda path: chains.read([path])):
        with pytest.raises(InputError, match="NaN"):
            read(tmp_path / "nan.h5")
    write_composite([], tmp_path / "empty.h5")
    with pytest.raises(InputError, match="holds no transform"):
        chains.read([tmp_path / "empty.h5"])


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("size", [0, 900, 20_000])
def test_a_full_disk_is_told(tmp_path: Path, size: int) -> None:
    """HDF5 itself crashes on one."""
    import resource

    field = waves(grid("RAS"))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        with pytest.raises(OutputError, match=r"all\.h5: no space left"):
            write_composite([field, AFFINE], tmp_path / "all.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert os.listdir(tmp_path) == []


def test_h5_can_only_be_of_itk(tmp_path: Path) -> None:
    write_composite([waves(grid("RAS"))], tmp_path / "a.h5")
    with pytest.raises(UsageError, match="can only hold the form itk"):
        convert(tmp_path / "a.h5", tmp_path / "b.nii.gz", source_form="ras")
