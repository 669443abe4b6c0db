"""Composite.h5: written like ANTs', read by ANTs, ITK and nitransforms, and read from ANTs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, grid, scan, waves
from samples import DIRECTIONS, voxel_points

from hsyn_cli.cli import run
from hsyn_cli.io import images, writing
from hsyn_cli.io.composites import write_composite
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space import Array, Grid
from hsyn_cli.tools import chain as chains

TOLERANCE = 1e-4  # mm

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


def by_nitransforms(path: Path, points: Array, first: int | None = None) -> Array:
    """It works in mm, RAS, and between voxels with cubic splines; near a voxel it snaps to it.

    `first`: how many transforms the points go through; None: all.
    """
    from nitransforms.manip import TransformChain

    flip = (-1, -1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Reference space not set
        chain = TransformChain.from_filename(path, fmt="itk")
        moved: Array = TransformChain(chain.transforms[:first]).map(points * flip) * flip
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
    back = by_nitransforms(tmp_path / "InverseComposite.h5", through(AFFINE, inner), first=1)
    assert np.abs(back - inner).max() < TOLERANCE


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


def test_two_fields_are_a_field_on_the_grid_of_the_first(theirs: Path, tmp_path: Path) -> None:
    links = chains.read([theirs / "Composite.h5"]).links
    field, both = links[0].transform, tmp_path / "both.h5"
    write_composite([field, field], both)
    total = images.read_field(both).image
    assert Grid.of(total).same_as(images.read_grid(theirs / "f.nii.gz"))
    points = voxel_points(Grid.of(total))[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    moved = points + sitk.GetArrayFromImage(total)[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    assert np.abs(moved - by_ants(both, points)).max() < TOLERANCE


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
