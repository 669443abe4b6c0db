"""Two dimensions: 2-D images, and single slices anywhere in space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, EXAMPLES

from hsyn_cli import api
from hsyn_cli.cli import run
from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.fields.folding import determinants, measure_folding
from hsyn_cli.io import images, writing
from hsyn_cli.space import Grid, affine_parts
from hsyn_cli.space.planes import Plane, lowered, lowered_transform, raised, raised_transform
from hsyn_cli.tools.evaluate import read_landmarks

Slices = dict[str, sitk.Image]
NAMES = ("moving", "fixed", "moving_labels", "fixed_labels")
TURN = (0.8, -0.6, 0.6, 0.8)


@pytest.fixture(scope="module")
def volumes() -> Slices:
    return {name: sitk.ReadImage(str(EXAMPLES / f"{name}.nii.gz")) for name in NAMES}


def cut(volume: sitk.Image, axis: int) -> sitk.Image:
    """The middle slice across an index axis, one voxel thick."""
    first, size = [0, 0, 0], list(volume.GetSize())
    first[axis], size[axis] = size[axis] // 2, 1
    return sitk.RegionOfInterest(volume, size, first)


def flat(volume: sitk.Image) -> sitk.Image:
    """The middle axial slice as a 2-D image."""
    x, y, z = volume.GetSize()
    way = sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOIDENTITY
    return sitk.Extract(volume, [x, y, 0], [0, 0, z // 2], way)


def overlap(labels: sitk.Image, other: sitk.Image) -> float:
    """The mean Dice of the labels."""
    a, b = (sitk.GetArrayFromImage(image) for image in (labels, other))
    ids = [k for k in np.unique(a) if k]
    common = [((a == k) & (b == k)).sum() for k in ids]
    sizes = [(a == k).sum() + (b == k).sum() for k in ids]
    return float(np.mean(2 * np.array(common) / sizes))


def moved(labels: sitk.Image, fixed: sitk.Image, field: sitk.Image) -> sitk.Image:
    there = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return sitk.Resample(labels, fixed, there, sitk.sitkNearestNeighbor, 0)


@pytest.fixture(scope="module")
def pair(volumes: Slices) -> Slices:
    return {name: flat(volume) for name, volume in volumes.items()}


@pytest.fixture(scope="module")
def done(pair: Slices) -> Any:
    return api.register(pair["moving"], pair["fixed"])


def test_a_2d_pair_gives_2d_images_and_fields(pair: Slices, done: Any) -> None:
    half = done.midspace
    for image, like, parts in (
        (done.warped, "fixed", 1), (done.inverse_warped, "moving", 1),
        (done.forward_field, "fixed", 2), (done.inverse_field, "moving", 2),
        (done.warp_field, "fixed", 2), (done.inverse_warp_field, "fixed", 2),
        (half.moving, "fixed", 1), (half.to_fixed_field, "fixed", 2),
    ):  # fmt: skip
        assert image.GetDimension() == 2
        assert image.GetNumberOfComponentsPerPixel() == parts
        assert Grid.of(image).same_as(Grid.of(pair[like]))
    assert done.affine.GetDimension() == 2


def test_2d_slices_match_and_their_fields_invert(pair: Slices, done: Any) -> None:
    moving, fixed, nearest = pair["moving_labels"], pair["fixed_labels"], sitk.sitkNearestNeighbor
    before = overlap(fixed, sitk.Resample(moving, fixed, done.affine, nearest, 0))
    warped = moved(pair["moving_labels"], pair["fixed_labels"], done.forward_field)
    assert before < 0.62
    assert overlap(pair["fixed_labels"], warped) > 0.74
    facts = done.facts
    assert facts.dimension == 2
    assert facts.problems == ()
    assert facts.folding.voxels == facts.inverse_folding.voxels == 0
    assert facts.inverse_error_fixed.mean_mm < 0.03
    assert facts.inverse_error_moving.max_mm < 0.5
    spread = sitk.GetArrayFromImage(done.forward_field).std()
    assert spread > 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_anywhere_in_space_is_registered_in_its_plane(volumes: Slices, axis: int) -> None:
    """The slices lie in parallel planes, 3 mm and a turn apart."""
    turn = np.reshape(DIRECTIONS["oblique"], (3, 3))
    slices = {name: cut(volume, axis) for name, volume in volumes.items()}
    for name, image in slices.items():
        across = turn @ Grid.of(image).axes[:, axis]
        image.SetDirection((turn @ Grid.of(image).axes).ravel().tolist())
        origin = turn @ np.array(image.GetOrigin())
        image.SetOrigin((origin + (3 * across if "moving" in name else 0)).tolist())
    found = api.register(slices["moving"], slices["fixed"], preset="fast")
    assert found.warped.GetSize() == slices["fixed"].GetSize()
    assert found.forward_field.GetNumberOfComponentsPerPixel() == 3
    warped = moved(slices["moving_labels"], slices["fixed_labels"], found.forward_field)
    assert overlap(slices["fixed_labels"], warped) > 0.6
    across = Grid.of(slices["fixed"]).axes[:, axis]
    height = (np.array(slices["moving"].GetOrigin()) - slices["fixed"].GetOrigin()) @ across
    along = sitk.GetArrayFromImage(found.forward_field) @ across
    assert np.allclose(along, height, atol=1e-3)
    assert found.facts.inverse_error_fixed.mean_mm < 0.05


def test_slices_and_volumes_do_not_mix(volumes: Slices, pair: Slices) -> None:
    with pytest.raises(InputError, match="the moving image is a single slice, and the fixed"):
        api.register(pair["moving"], volumes["fixed"])
    axial, coronal = cut(volumes["moving"], 2), cut(volumes["fixed"], 1)
    with pytest.raises(GeometryError, match="planes that are not parallel"):
        api.register(axial, coronal, preset="fast")
    with pytest.raises(UsageError, match="is for volumes"):
        api.register(pair["moving"], pair["fixed"], weights="brain")


def test_a_turned_2d_image_is_found(pair: Slices) -> None:
    moving = pair["moving"]
    middle = moving.TransformContinuousIndexToPhysicalPoint([n / 2 for n in moving.GetSize()])
    half_turn = sitk.Euler2DTransform(middle, np.pi, (8.0, -5.0))
    turned = sitk.Resample(moving, half_turn, sitk.sitkLinear, 0.0)
    found = api.register(turned, moving, transform="rigid", search="full")
    points = [middle, (middle[0] + 40, middle[1] - 30)]
    for point in points:
        there = found.affine.TransformPoint(half_turn.TransformPoint(point))
        back = half_turn.TransformPoint(found.affine.TransformPoint(point))
        assert np.linalg.norm(np.subtract(back, point)) < 0.3, there


def test_2d_contrasts_that_differ_are_registered(pair: Slices) -> None:
    other = sitk.Cast(pair["moving"], sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(other)
    values[values > 0] = values.max() * 1.1 - values[values > 0]
    inverted = sitk.GetImageFromArray(values)
    inverted.CopyInformation(other)
    found = api.register(inverted, pair["fixed"])
    warped = moved(pair["moving_labels"], pair["fixed_labels"], found.forward_field)
    assert overlap(pair["fixed_labels"], warped) > 0.7
    assert any("contrast" in line for line in found.facts.warnings)


def test_noise_in_2d_is_told(pair: Slices) -> None:
    rng = np.random.default_rng(0)
    shape = sitk.GetArrayFromImage(pair["moving"]).shape
    noise = sitk.GetImageFromArray(rng.uniform(0, 255, shape).astype(np.float32))
    noise.CopyInformation(pair["moving"])
    assert api.register(noise, pair["fixed"], preset="fast").facts.problems


@pytest.fixture(scope="module")
def folder(pair: Slices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a pair, its run in `out`, and what each command makes of it."""
    folder = tmp_path_factory.mktemp("flat")
    for name, image in pair.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "register -m moving.nii.gz -f fixed.nii.gz -o out --moving-labels moving_labels.nii.gz"
            " --ants-prefix out/a_ --composite out/a_ --save-midspace --quiet",
            "invert out/forward_field.nii.gz -o inverse.nii.gz --reference moving.nii.gz --fit",
            "apply-field -i moving.nii.gz -t out/a_1Warp.nii.gz -t out/a_0GenericAffine.mat"
            " -o applied.nii.gz",
            "apply-field -i moving_labels.nii.gz -t out/forward_field.nii.gz -o labels.nii.gz"
            " --interpolation label",
            "compose -t out/a_1Warp.nii.gz -t out/a_0GenericAffine.mat -o composed.nii.gz",
            "compose -t out/a_Composite.h5 -o whole.nii.gz",
            "compose -t out/affine.mat -t [out/affine.mat,1] -o same.tfm",
            "jacobian out/forward_field.nii.gz -o jacobian.nii.gz --log",
            "convert out/forward_field.nii.gz field.h5",
            "convert field.h5 back.nrrd",
            "evaluate out --fixed-labels fixed_labels.nii.gz --json-file scores.json",
            "report out --force",
        ):
            assert run(line.split()) == 0, line
    return folder


def test_every_command_writes_2d_files(folder: Path, pair: Slices) -> None:
    files = [*folder.glob("*.nii.gz"), *folder.glob("*.nrrd"), *(folder / "out").glob("*.nii.gz")]
    assert len(files) > 20
    for file in files:
        assert sitk.ReadImage(str(file)).GetDimension() == 2, file
    for file in (
        *("out/affine.mat", "out/a_0GenericAffine.mat", "same.tfm", "field.h5"),
        *("out/a_Composite.h5", "out/a_InverseComposite.h5"),
    ):
        assert sitk.ReadTransform(str(folder / file)).GetDimension() == 2


def values(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float)


def test_the_files_of_the_commands_agree(folder: Path) -> None:
    out, most = folder / "out", values(folder / "out" / "warped.nii.gz").max()
    same = values(folder / "applied.nii.gz"), values(out / "warped.nii.gz")
    assert np.abs(same[0] - same[1]).max() < 1e-3 * most
    for name in ("composed.nii.gz", "whole.nii.gz", "back.nrrd"):
        apart = values(folder / name) - values(out / "forward_field.nii.gz")
        assert np.abs(apart).max() < 1e-3, name
    inverse = values(folder / "inverse.nii.gz"), values(out / "inverse_field.nii.gz")
    assert np.median(np.linalg.norm(inverse[0] - inverse[1], axis=-1)) < 0.05
    both = values(folder / "labels.nii.gz"), values(out / "warped_labels.nii.gz")
    assert (both[0] != both[1]).mean() < 0.03
    linear = sitk.ReadTransform(str(folder / "same.tfm"))
    assert np.allclose(linear.TransformPoint((40.0, -30.0)), (40.0, -30.0))
    (scores,) = json.loads((folder / "scores.json").read_text())["pairs"]
    assert 0.7 < scores["dice"] < 0.85
    assert scores["hd95_mm"] < 6
    report = json.loads((out / "report.json").read_text())
    assert "-d 2 " in report["apply"]["antsApplyTransforms"]
    text = (out / "report.html").read_text()
    assert "left is on the right" not in text


def test_ants_applies_2d_files(folder: Path) -> None:
    ants = pytest.importorskip("ants")
    moving, fixed = (ants.image_read(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed"))
    warped = values(folder / "out" / "warped.nii.gz")
    for chain in (
        ["a_1Warp.nii.gz", "a_0GenericAffine.mat"],
        ["forward_field.nii.gz"],
        ["a_Composite.h5"],
    ):
        files = [str(folder / "out" / name) for name in chain]
        found = ants.apply_transforms(fixed, moving, files).numpy().T
        assert np.abs(found - warped).max() < 1e-3 * warped.max()


def test_dimensions_do_not_mix_in_chains(
    folder: Path, volumes: Slices, capfd: pytest.CaptureFixture[str]
) -> None:
    volume = EXAMPLES / "fixed.nii.gz"
    chain = f"-t {folder}/out/forward_field.nii.gz"
    lines = {
        f"apply-field -i {volume} {chain} -o {folder}/no.nii.gz": (4, "3-D, and the transform 2-D"),
        f"compose {chain} -r {volume} -o {folder}/no.nii.gz": (4, "3-D, and the transform 2-D"),
        f"register -m {volume} -f {volume} -o {folder}/no --initial-transform "
        f"{folder}/out/affine.mat": (3, "is 2-D, and the images are 3-D"),
    }
    for line, (code, text) in lines.items():
        assert run(line.split()) == code
        assert text in capfd.readouterr().err.splitlines()[0]
    three = sitk.AffineTransform(3)
    with pytest.raises(UsageError, match="is 2-D, and"):
        api.compose([sitk.AffineTransform(2), three], volumes["fixed"])


# ---- conventions


def turned_image(vectors: bool = False) -> sitk.Image:
    shape = (5, 7, 2) if vectors else (5, 7)
    numbers = np.random.default_rng(1).normal(0, 3, shape)
    image = sitk.GetImageFromArray(numbers, isVector=vectors)
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((3.0, -4.0))
    image.SetDirection(TURN)
    return image


@pytest.mark.parametrize("vectors", [False, True])
def test_raised_and_lowered_undo_each_other(vectors: bool) -> None:
    image = turned_image(vectors)
    up = raised(image)
    assert up.GetSize() == (7, 5, 1)
    assert Grid.of(up).dimension == 2
    point = image.TransformIndexToPhysicalPoint((4, 3))
    assert up.TransformIndexToPhysicalPoint((4, 3, 0)) == pytest.approx((*point, 0.0))
    down = lowered(up)
    assert (sitk.GetArrayFromImage(down) == sitk.GetArrayFromImage(image)).all()
    for ours, theirs in ((down.GetOrigin(), image.GetOrigin()), (down.GetDirection(), TURN)):
        assert ours == pytest.approx(theirs)
    assert lowered(up[:, :, 0:1]).GetDimension() == 3  # what lost the mark stays


def test_transforms_are_raised_and_lowered() -> None:
    linear = sitk.Euler2DTransform((1.0, 2.0), 0.3, (4.0, 5.0))
    field = sitk.DisplacementFieldTransform(turned_image(vectors=True))
    for flat_one in (linear, field, sitk.CompositeTransform([linear, field])):
        up = raised_transform(flat_one)
        for point in ((3.2, -3.5), (4.0, -2.0)):
            there = flat_one.TransformPoint(point)
            assert up.TransformPoint((*point, 0.0)) == pytest.approx((*there, 0.0))
    down = lowered_transform(raised_transform(linear))
    assert down.TransformPoint((3.0, 4.0)) == pytest.approx(linear.TransformPoint((3.0, 4.0)))


@pytest.mark.parametrize("name", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("vectors", [False, True])
def test_2d_files_are_those_of_itk(tmp_path: Path, name: str, vectors: bool) -> None:
    theirs, ours = tmp_path / f"a{name}", tmp_path / f"b{name}"
    image = turned_image(vectors)
    sitk.WriteImage(image, str(theirs))
    read = (images.read_field if vectors else images.read_image)(theirs).image
    assert Grid.of(read).same_as(Grid.of(image), 1e-4)
    assert np.allclose(sitk.GetArrayFromImage(lowered(read)), sitk.GetArrayFromImage(image))
    writing.write_image(read, ours)
    again, first = sitk.ReadImage(str(ours)), sitk.ReadImage(str(theirs))
    assert again.GetDimension() == 2
    assert Grid.of(again).same_as(Grid.of(first), 1e-4)
    assert np.allclose(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(first))


def test_a_picture_is_an_image(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(12, 9, sitk.sitkUInt8) + 3, str(tmp_path / "a.png"))
    with pytest.raises(InputError, match="constant"):
        images.read_image(tmp_path / "a.png")
    grey = np.arange(108, dtype=np.uint8).reshape(9, 12)
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(tmp_path / "a.png"))
    found = images.read_image(tmp_path / "a.png").image
    assert Grid.of(found).dimension == 2
    assert (sitk.GetArrayFromImage(found)[0] == grey).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_is_flat_and_back(axis: int) -> None:
    size, axes = [9, 8, 7], np.reshape(DIRECTIONS["oblique mirror"], (3, 3))
    size[axis] = 1
    image = sitk.GetImageFromArray(np.random.default_rng(axis).normal(size=size[::-1]))
    image.SetDirection(axes.ravel().tolist())
    image.SetOrigin((5.0, -6.0, 7.0))
    image.SetSpacing((1.0, 1.5, 2.0))
    plane = Plane.of(Grid.of(image))
    assert plane is not None
    down = plane.image(image)
    linear = sitk.Euler2DTransform((1.0, 2.0), 0.3, (4.0, 5.0))
    up = plane.lifted(linear, 2.5)
    for index in ((0, 0), (3, 2), (5, 4)):
        at = [*index[:axis], 0, *index[axis:]]
        here = np.array(image.TransformIndexToPhysicalPoint(at))
        in_plane = down.TransformIndexToPhysicalPoint(index)
        assert plane.axes[:, :2].T @ (here - plane.point) == pytest.approx(in_plane, abs=1e-6)
        there = np.array(up.TransformPoint(here.tolist()))
        flat_there = plane.axes[:, :2].T @ (there - plane.point)
        assert flat_there == pytest.approx(linear.TransformPoint(in_plane), abs=1e-6)
        assert (there - plane.point) @ plane.axes[:, 2] == pytest.approx(2.5)
    (a, t), (b, s) = affine_parts(plane.within(up)), affine_parts(linear)
    assert np.allclose(a, b)
    assert np.allclose(t, s)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_determinant_of_a_slice_is_that_of_its_plane(axis: int) -> None:
    """A slice of a stack of equal slices, whose vectors have no part across."""
    import torch

    rng = np.random.default_rng(3)
    shape = [9, 9, 9]
    shape[axis] = 1
    thin = torch.from_numpy(rng.normal(0, 0.4, (1, 3, *shape)).astype(np.float32))
    thin[:, 2 - axis] = 7.0
    thick = thin.expand(1, 3, 9, 9, 9).contiguous()
    spacing = (1.5, 0.8, 1.1)
    of_thin, of_thick = determinants(thin, spacing), determinants(thick, spacing)
    for ours, whole in zip(of_thin, of_thick, strict=True):
        assert torch.allclose(ours, whole.narrow(1 + axis, 4, 1), atol=1e-6)
    grid = Grid(tuple(shape[::-1]), spacing, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))  # type: ignore[arg-type]
    folding = measure_folding(grid, *of_thin)
    least = of_thin[0][0].squeeze().numpy()[1:-1, 1:-1]
    assert folding.min_det == pytest.approx(float(least.min()))
    assert folding.voxels == int((least <= 0).sum())
    assert grid.contains(np.array(folding.min_det_at_mm))


# ---- what is refused, and what is not


def test_2d_images_and_slices_in_space_do_not_mix(pair: Slices, volumes: Slices) -> None:
    with pytest.raises(InputError, match="the moving image is 2-D, and the fixed image 3-D"):
        api.register(pair["moving"], cut(volumes["fixed"], 2))


def test_colours_keep_their_third_number(folder: Path, pair: Slices) -> None:
    grey = sitk.Cast(pair["moving"], sitk.sitkUInt8)
    sitk.WriteImage(sitk.Compose([grey, grey, grey // 2]), str(folder / "rgb.nrrd"))
    line = f"apply-field -i {folder}/rgb.nrrd -t {folder}/out/forward_field.nii.gz"
    assert run([*line.split(), "-o", f"{folder}/moved.nrrd"]) == 0
    moved_one = values(folder / "moved.nrrd")
    assert moved_one.shape[-1] == 3
    assert moved_one[..., 2].max() > 50


def test_label_maps_of_floats_stay_2d(
    folder: Path, pair: Slices, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the size of a label is an area."""
    floats = sitk.Cast(pair["moving_labels"], sitk.sitkFloat32)
    sitk.WriteImage(floats, str(folder / "floats.nii.gz"))
    line = f"apply-field -i {folder}/floats.nii.gz -t {folder}/out/forward_field.nii.gz"
    assert run([*line.split(), "-o", f"{folder}/f.nii.gz", "--interpolation", "label"]) == 0
    assert "mm2 before" in capfd.readouterr().out
    assert (values(folder / "f.nii.gz") == values(folder / "labels.nii.gz")).all()


def test_forms_without_2d_fields_say_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = f"convert {folder}/out/forward_field.nii.gz {folder}/no.nii.gz --to fsl"
    assert run([*line.split(), "--moving", f"{folder}/moving.nii.gz"]) == 2
    assert "has no 2-D fields" in capfd.readouterr().err


def test_points_and_landmarks_of_a_plane_need_no_z(folder: Path) -> None:
    (folder / "p.csv").write_text("x,y\n80,110\n100,150\n")
    line = f"apply-field --points {folder}/p.csv -t {folder}/out/affine.mat -o {folder}/q.csv"
    assert run(line.split()) == 0
    moved_ones = np.loadtxt(folder / "q.csv", delimiter=",", skiprows=1)
    linear = sitk.ReadTransform(str(folder / "out" / "affine.mat"))
    assert moved_ones[0] == pytest.approx(linear.TransformPoint((80.0, 110.0)), abs=1e-3)
    (folder / "l.csv").write_text("fx,fy,mx,my\n160,200,161,202\n")
    found = api.evaluate(
        folder / "out" / "forward_field.nii.gz", folder / "fixed.nii.gz", landmarks=folder / "l.csv"
    )
    assert found.landmarks is not None
    assert found.landmarks.before.mean_mm == pytest.approx(5**0.5)
    with pytest.raises(InputError, match="no column"):
        read_landmarks(folder / "l.csv")


def test_a_2d_file_that_stands_upright_gets_its_own_axes(tmp_path: Path) -> None:
    matrix = np.array([[2.0, 0, 0, 5], [0, 0, 1, 6], [0, 3.0, 0, 7], [0, 0, 0, 1]])
    numbers = np.arange(30, dtype=np.float32).reshape(5, 6)
    nib.Nifti1Image(numbers, matrix).to_filename(tmp_path / "a.nii.gz")
    scan = images.read_image(tmp_path / "a.nii.gz")
    grid = Grid.of(scan.image)
    assert grid.spacing[:2] == pytest.approx((2, 3))
    assert grid.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert any("own axes" in line for line in scan.warnings)
