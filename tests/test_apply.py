"""Images through chains, against ANTs and closed forms: interpolation, types, vectors, files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, blocks, grid, saved, scan, waves
from samples import turned

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import writing
from hsyn_cli.space import Grid
from hsyn_cli.tools import apply
from hsyn_cli.tools import chain as chains
from hsyn_cli.tools.apply_files import move_file

FIXED_SIZE, MOVING_SIZE = (16, 14, 12), (13, 18, 11)
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
GRID_PAIRS = [("oblique", "flipped"), ("RAS", "oblique mirror"), ("sagittal", "LPS")]
CHAINS = [["field"], ["field", "affine"], ["[affine,1]", "field"], ["[affine,1]"]]


def both_ways(
    folder: Path, typed: list[str], pair: tuple[str, str], image: sitk.Image, ours: str, theirs: str
) -> tuple[np.ndarray, np.ndarray]:
    """What hsyn and ANTs make of `image`, (Z, Y, X)."""
    import ants

    fixed = grid(pair[0], FIXED_SIZE)
    names = dict(zip(("field", "affine"), saved(folder, fixed), strict=True))
    writing.write_image(image, folder / "m.nii.gz")
    writing.write_image(fixed.empty_image(sitk.sitkFloat32), folder / "f.nii.gz")
    plain = [names[text.strip("[],1")] for text in typed]
    inverses = [text.startswith("[") for text in typed]
    given = [f"[{path},1]" if back else path for path, back in zip(plain, inverses, strict=True)]
    chain = chains.read(given)
    reference = chains.reference_grid(chain, folder / "f.nii.gz")
    move_file(
        folder / "m.nii.gz",
        folder / "o.nii.gz",
        chain,
        reference,
        apply.Settings(ours),
        print_nothing,
    )
    other = ants.apply_transforms(
        ants.image_read(str(folder / "f.nii.gz")),
        ants.image_read(str(folder / "m.nii.gz")),
        plain,
        interpolator=theirs,
        whichtoinvert=inverses,
    )
    mine = sitk.ReadImage(str(folder / "o.nii.gz"))
    assert Grid.of(mine).same_as(fixed)
    return sitk.GetArrayFromImage(mine), other.numpy().T


def print_nothing(share: float) -> None:
    assert 0 <= share <= 1


@pytest.mark.parametrize("typed", CHAINS, ids=" ".join)
@pytest.mark.parametrize("pair", GRID_PAIRS, ids=" ".join)
def test_images_are_those_of_ants(tmp_path: Path, pair: tuple[str, str], typed: list[str]) -> None:
    image = scan(grid(pair[1], MOVING_SIZE, 1.6))
    mine, other = both_ways(tmp_path, typed, pair, image, "linear", "linear")
    assert np.abs(mine - other).max() <= 1e-3 * 200
    assert (mine > 0).mean() > 0.2
    assert mine.std() > 5


@pytest.mark.parametrize(
    ("ours", "theirs"), [("bspline", "bSpline"), ("lanczos", "lanczosWindowedSinc")]
)
def test_higher_orders_are_those_of_ants(tmp_path: Path, ours: str, theirs: str) -> None:
    image = scan(grid("flipped", MOVING_SIZE, 1.6))
    mine, other = both_ways(
        tmp_path, ["field", "affine"], ("oblique", "flipped"), image, ours, theirs
    )
    assert np.abs(mine - other).max() <= 1e-3 * 200


@pytest.mark.parametrize("typed", CHAINS, ids=" ".join)
@pytest.mark.parametrize("pair", GRID_PAIRS, ids=" ".join)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("nearest", "nearestNeighbor"), ("label", "genericLabel")]
)
def test_labels_are_those_of_ants(
    tmp_path: Path, pair: tuple[str, str], typed: list[str], ours: str, theirs: str
) -> None:
    image = blocks(grid(pair[1], MOVING_SIZE, 1.6))
    mine, other = both_ways(tmp_path, typed, pair, image, ours, theirs)
    assert mine.dtype == np.uint8
    assert len(np.unique(mine)) == 7
    assert (mine != other).mean() <= (0 if ours == "nearest" else 1e-3)


@pytest.mark.parametrize("kind", ["nearest", "label"])
def test_labels_keep_type_and_ids_and_their_volumes_are_told(tmp_path: Path, kind: str) -> None:
    at = grid("oblique")
    labels = sitk.Cast(blocks(at), sitk.sitkInt32) + 2**25
    labels[5, 5, 5] = 9
    writing.write_image(labels, tmp_path / "l.nii.gz")
    chain = chains.read([sitk.TranslationTransform(3, (0.0, 0.0, 0.0))])
    x, y, z = at.spacing
    reference = Grid((8, 7, 6), (2 * x, 2 * y, 2 * z), at.origin, at.direction)
    moved = move_file(
        tmp_path / "l.nii.gz",
        tmp_path / "o.nii.gz",
        chain,
        reference,
        apply.Settings(kind),
        print_nothing,
    )
    read = sitk.ReadImage(str(tmp_path / "o.nii.gz"))
    assert read.GetPixelID() == sitk.sitkInt32
    assert set(np.unique(sitk.GetArrayFromImage(read))) <= set(range(2**25, 2**25 + 7))
    assert [change.label for change in moved.changes if change.lost] == [9]
    whole = sum(change.before for change in moved.changes)
    assert whole == pytest.approx(np.prod(at.spacing) * np.prod(at.size))
    assert moved.count == 1


def test_fractional_values_are_no_labels_but_an_image_for_nearest(tmp_path: Path) -> None:
    at = grid("LPS")
    path, out = tmp_path / "m.nii.gz", tmp_path / "o.nii.gz"
    writing.write_image(scan(at), path)
    chain = chains.read([waves(at)])
    with pytest.raises(InputError, match="holds fractional values"):
        move_file(path, out, chain, at, apply.Settings("label"), print_nothing)
    assert not out.exists()
    moved = move_file(path, out, chain, at, apply.Settings("nearest"), print_nothing)
    assert moved.changes == ()
    assert "moved as an image" in moved.warnings[0]
    writing.write_image(sitk.Cast(blocks(at), sitk.sitkFloat32), path)
    assert len(move_file(path, out, chain, at, apply.Settings("label"), print_nothing).changes) == 6


def test_unknown_settings_are_named() -> None:
    for unknown in ({"interpolation": "cubic"}, {"pixel": "int64"}, {"holds": "tensor"}):
        with pytest.raises(UsageError, match="unknown"):
            apply.Settings(**unknown)  # type: ignore[arg-type]


def test_pixel_types() -> None:
    at = grid("RAS")
    chain = chains.read([waves(at)]).transform
    image = scan(at, pixel=sitk.sitkUInt8)
    kinds = {}
    for how in ("linear", "nearest", "bspline", "lanczos", "label"):
        for keep in (False, True):
            moved = apply.move(image, at, chain, apply.Settings(how, keep_type=keep))
            kinds[how, keep] = moved.GetPixelIDTypeAsString()
            assert Grid.of(moved).same_as(at)
    assert {k for k, v in kinds.items() if "float" in v} == {
        (how, False) for how in ("linear", "bspline", "lanczos")
    }
    smooth, rounded = (
        sitk.GetArrayFromImage(
            apply.move(image, at, chain, apply.Settings("bspline", keep_type=keep))
        )
        for keep in (False, True)
    )
    np.testing.assert_array_equal(rounded, np.clip(np.rint(smooth), 0, 255))


def test_kept_types_round_and_stay_within_their_range() -> None:
    at = Grid((6, 6, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turned(0, 0, 0))
    image = at.empty_image(sitk.sitkInt32)
    image[:, :, :] = 2**24 + 1
    moved = apply.move(image, at, IDENTITY, apply.Settings("linear", keep_type=True))
    assert moved[2, 2, 2] == 2**24 + 1
    steep = at.empty_image(sitk.sitkUInt8)
    steep[3:, :, :] = 255
    shifted = sitk.TranslationTransform(3, (0.4, 0.0, 0.0))
    raw = sitk.GetArrayFromImage(apply.move(steep, at, shifted, apply.Settings("bspline")))
    kept = sitk.GetArrayFromImage(
        apply.move(steep, at, shifted, apply.Settings("bspline", keep_type=True))
    )
    assert raw.max() > 256
    assert raw.min() < -1
    assert (kept.max(), kept.min()) == (255, 0)


def test_the_value_outside() -> None:
    at = grid("LPS")
    away = sitk.TranslationTransform(3, (10.0, 0.0, 0.0))
    image = scan(at, pixel=sitk.sitkInt16)
    for how in ("linear", "nearest", "label"):
        assert (
            apply.move(image, at, away, apply.Settings(how, default=-7))[at.size[0] - 1, 5, 5] == -7
        )
    for default in (0.5, 2.0**40):
        with pytest.raises(UsageError, match="--default-value"):
            apply.move(image, at, away, apply.Settings("nearest", default=default))
    assert apply.move(image, at, away, apply.Settings(default=0.5))[at.size[0] - 1, 5, 5] == 0.5


@pytest.mark.parametrize("how", ["linear", "nearest", "bspline"])
def test_vector_images_move_component_by_component(how: str) -> None:
    fixed, moving = grid("oblique"), grid("flipped", MOVING_SIZE, 1.6)
    parts = [scan(moving, seed) for seed in range(3)]
    chain = chains.read([waves(fixed), AFFINE]).transform
    moved = apply.move(sitk.Compose(parts), fixed, chain, apply.Settings(how))
    for k, part in enumerate(parts):
        alone = apply.move(part, fixed, chain, apply.Settings(how))
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(moved)[..., k], sitk.GetArrayFromImage(alone)
        )
    with pytest.raises(UsageError, match="one value per voxel"):
        apply.move(sitk.Compose(parts), fixed, chain, apply.Settings("label"))


def everywhere(at: Grid, vector: np.ndarray) -> sitk.Image:
    values = np.broadcast_to(vector.astype(np.float32), (*at.size[::-1], 3))
    return at.stamp(sitk.GetImageFromArray(np.ascontiguousarray(values), isVector=True))


def test_vectors_turn_with_a_rotation_and_scaling_leaves_them() -> None:
    """A transform p -> R D p from fixed to moving turns moving vectors by R^T, lengths kept."""
    fixed, moving = grid("oblique"), grid("sagittal", (30, 30, 30), 1.6)
    turn = np.reshape(turned(0.4, -0.3, 0.6), (3, 3))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((turn @ np.diag([1.2, 0.9, 1.1])).ravel().tolist())
    transform.SetCenter((3.0, -7.0, 11.0))
    vector = np.array([1.0, -2.0, 3.0])
    image = everywhere(moving, vector)
    moved = apply.move(image, fixed, transform, apply.Settings(reorient=True))
    np.testing.assert_allclose(moved[5, 6, 7], turn.T @ vector, atol=1e-5)
    still = apply.move(image, fixed, transform, apply.Settings())
    np.testing.assert_allclose(still[5, 6, 7], vector, atol=1e-5)


def test_vectors_turn_with_the_local_rotation_of_a_field() -> None:
    """A field that turns about z by an angle that depends on the distance from the axis."""
    at = Grid((21, 21, 9), (1.0, 1.0, 1.0), (-10.0, -10.0, -4.0), turned(0, 0, 0))
    z, y, x = np.meshgrid(
        np.arange(-4.0, 5), np.arange(-10.0, 11), np.arange(-10.0, 11), indexing="ij"
    )
    angle = 0.6 * np.exp(-(x**2 + y**2) / 200)
    shift = np.stack(
        (
            np.cos(angle) * x - np.sin(angle) * y - x,
            np.sin(angle) * x + np.cos(angle) * y - y,
            0 * z,
        ),
        -1,
    )
    field = at.stamp(sitk.GetImageFromArray(shift, isVector=True))
    image = everywhere(at, np.array([1.0, 0.0, 2.0]))
    moved = apply.move(image, at, chains.read([field]).transform, apply.Settings(reorient=True))
    np.testing.assert_allclose(moved[10, 10, 4], [np.cos(0.6), -np.sin(0.6), 2.0], atol=0.01)
    with pytest.raises(UsageError, match="--reorient"):
        apply.move(scan(at), at, IDENTITY, apply.Settings(reorient=True))


def test_an_image_that_the_reference_misses(tmp_path: Path) -> None:
    at = grid("LPS")
    writing.write_image(scan(at), tmp_path / "m.nii.gz")
    far = chains.read([sitk.TranslationTransform(3, (0.0, 900.0, 0.0))])
    with pytest.raises(GeometryError, match=r"outside the image .*m\.nii\.gz"):
        move_file(
            tmp_path / "m.nii.gz", tmp_path / "o.nii.gz", far, at, apply.Settings(), print_nothing
        )
    assert os.listdir(tmp_path) == ["m.nii.gz"]


def test_thin_and_constant_images_are_moved(tmp_path: Path) -> None:
    at = grid("oblique", (16, 14, 1))
    writing.write_image(at.empty_image(sitk.sitkUInt8) + 5, tmp_path / "m.nii.gz")
    chain = chains.read([sitk.TranslationTransform(3, (0.0, 0.0, 0.0))])
    move_file(
        tmp_path / "m.nii.gz", tmp_path / "o.nii.gz", chain, at, apply.Settings(), print_nothing
    )
    assert sitk.ReadImage(str(tmp_path / "o.nii.gz"))[3, 4, 0] == 5


@pytest.mark.parametrize("how", ["linear", "nearest", "label"])
def test_a_series_is_moved_as_its_volumes_are(tmp_path: Path, how: str) -> None:
    fixed, moving = grid("oblique"), grid("flipped", MOVING_SIZE, 1.6)
    chain = chains.read([waves(fixed), AFFINE])
    volumes = [blocks(moving, seed) for seed in range(3)]
    sitk.WriteImage(sitk.JoinSeries(volumes, 0.0, 2.2), str(tmp_path / "s.nii.gz"))
    moved = move_file(
        tmp_path / "s.nii.gz",
        tmp_path / "o.nii.gz",
        chain,
        fixed,
        apply.Settings(how),
        print_nothing,
    )
    assert moved.count == 3
    out = sitk.ReadImage(str(tmp_path / "o.nii.gz"))
    assert out.GetSpacing()[3] == pytest.approx(2.2)
    for k, volume in enumerate(volumes):
        alone = apply.move(volume, fixed, chain.transform, apply.Settings(how))
        assert out.GetPixelID() == (sitk.sitkFloat32 if how == "linear" else sitk.sitkUInt8)
        assert Grid.of(out[..., k]).same_as(fixed)
        difference = sitk.GetArrayFromImage(out[..., k]) - sitk.GetArrayFromImage(alone).astype(
            float
        )
        assert (
            np.abs(difference).max() < 1e-4 if how == "linear" else (difference != 0).mean() < 1e-3
        )
