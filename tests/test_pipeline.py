"""`hsyn register` end to end on a real pair at 3 mm: its files against SimpleITK.

ANTs and plain numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, EXAMPLES, save_checkpoint, tiny_networks, voxel_points

from hsyn_cli.cli import run
from hsyn_cli.config.architecture import Steps
from hsyn_cli.config.presets import Preset, RefineStage
from hsyn_cli.config.presets import default as default_preset
from hsyn_cli.space import Grid

pytestmark = pytest.mark.slow  # each needs a whole run
SPACING = 3.0  # of the tiny networks, mm
FEW_STEPS = tuple(
    RefineStage(scale, Steps(2, step_sigma=1.6, field_sigma=0.6)) for scale in (2, 4 / 3)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.safetensors with random flow, and the example pair on every kind of grid.

    Of different sizes.
    """
    folder = tmp_path_factory.mktemp("data")
    save_checkpoint(folder / "tiny.safetensors", *tiny_networks(SPACING, flow=5.0))
    fixed, moving = (
        sitk.ReadImage(str(EXAMPLES / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("fixed", "moving")
    )
    labels = sitk.ReadImage(str(EXAMPLES / "moving_labels.nii.gz"))
    for name, direction in DIRECTIONS.items():
        spacing = (2.6, 3.4, 3.1) if name != "LPS" else (3.0, 3.0, 3.0)
        sitk.WriteImage(on(fixed, spacing, direction, 150.0), str(folder / f"fixed {name}.nii.gz"))
    for name in ("RAS", "oblique"):
        moved = on(moving, (3.2, 2.9, 3.3), DIRECTIONS[name], 165.0)
        sitk.WriteImage(moved, str(folder / f"moving {name}.nii.gz"))
        onto = sitk.Resample(labels, moved, sitk.Transform(), sitk.sitkNearestNeighbor)
        sitk.WriteImage(onto, str(folder / f"labels {name}.nii.gz"))
    return folder


def on(
    image: sitk.Image,
    spacing: tuple[float, float, float],
    direction: tuple[float, ...],
    extent: float,
) -> sitk.Image:
    """`image`, smoothed, on a grid of about `extent` mm around its middle."""
    smooth = sitk.SmoothingRecursiveGaussian(image, 1.2)
    middle = np.array(
        image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    )
    size = [round(extent / s) for s in spacing]
    axes = np.reshape(direction, (3, 3)) * spacing
    origin = middle - axes @ ((np.array(size) - 1) / 2)
    out = sitk.Resample(
        smooth, size, sitk.Transform(), sitk.sitkLinear, origin.tolist(), spacing, direction
    )
    return sitk.Cast(sitk.Clamp(out, sitk.sitkFloat32, 0), sitk.sitkFloat32)


@dataclass(frozen=True)
class Run:
    """A folder of outputs and what made it."""

    out: Path
    moving: Path
    fixed: Path

    def read(self, name: str, pixel: int = sitk.sitkFloat32) -> sitk.Image:
        return sitk.ReadImage(str(self.out / name), pixel)

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return report


def register(
    data: Path, out: Path, *more: str, fixed: str = "RAS", moving: str = "RAS", code: int = 0
) -> Run:
    made = Run(out, data / f"moving {moving}.nii.gz", data / f"fixed {fixed}.nii.gz")
    options = ["--weights", str(data / "tiny.safetensors"), "--threads", "1", "--quiet"]
    for option in ("--weights", "--threads"):
        if option in more:
            del options[options.index(option) : options.index(option) + 2]
    assert (
        run(
            [
                "register",
                "-m",
                str(made.moving),
                "-f",
                str(made.fixed),
                "-o",
                str(out),
                *options,
                *more,
            ]
        )
        == code
    )
    return made


PAIRS = [(fixed, "oblique" if fixed in ("RAS", "sagittal") else "RAS") for fixed in DIRECTIONS]


@pytest.fixture(scope="module", params=PAIRS, ids=[f for f, _ in PAIRS])
def made(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run that writes every file, for each kind of fixed grid; rough networks.

    A little refinement.
    """
    fixed, moving = request.param
    out = tmp_path_factory.mktemp("out") / "new"
    more = ("--save-midspace", "--ants-prefix", str(out / "sub_"), "--composite", str(out / "sub_"))
    labels = ("--moving-labels", str(data / f"labels {moving}.nii.gz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default_preset, "PRESET", Preset(refinement=FEW_STEPS))
        return register(data, out, *more, *labels, fixed=fixed, moving=moving)


def displaced(image: sitk.Image) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).astype(float)


def test_every_file_is_there_and_on_its_grid(made: Run) -> None:
    fixed, moving = (Grid.of(sitk.ReadImage(str(p))) for p in (made.fixed, made.moving))
    half_way = ("mid_to_moving_field", "mid_to_fixed_field", "mid_moving", "mid_fixed")
    names = (
        "warped",
        "forward_field",
        "warped_labels",
        "sub_1Warp",
        "sub_1InverseWarp",
        "sub_Warped",
        *half_way,
    )
    expected = {f"{name}.nii.gz": fixed for name in names}
    expected |= {
        f"{name}.nii.gz": moving
        for name in ("inverse_warped", "inverse_field", "sub_InverseWarped")
    }
    assert set(os.listdir(made.out)) == {
        *expected,
        "affine.mat",
        "sub_0GenericAffine.mat",
        "sub_Composite.h5",
        "sub_InverseComposite.h5",
        "report.json",
        "report.html",
    }
    for name, grid in expected.items():
        image = sitk.ReadImage(str(made.out / name))
        assert Grid.of(image).same_as(grid), name
        assert image.GetNumberOfComponentsPerPixel() == (3 if "ield" in name or "1" in name else 1)


def test_warped_is_simpleitks_resampling_through_the_field(made: Run) -> None:
    for picture, onto, field, warped in (
        (made.moving, made.fixed, "forward_field.nii.gz", "warped.nii.gz"),
        (made.fixed, made.moving, "inverse_field.nii.gz", "inverse_warped.nii.gz"),
    ):
        image = sitk.ReadImage(str(picture), sitk.sitkFloat32)
        reference = sitk.ReadImage(str(onto), sitk.sitkFloat32)
        transform = displaced(made.read(field, sitk.sitkVectorFloat32))
        expected = values(sitk.Resample(image, reference, transform, sitk.sitkLinear, 0.0))
        assert np.abs(values(made.read(warped)) - expected).max() <= 1e-3 * np.ptp(values(image))


def test_the_ants_set_warps_in_simpleitk_as_the_total_field_does(made: Run) -> None:
    affine = sitk.ReadTransform(str(made.out / "sub_0GenericAffine.mat"))
    image = sitk.ReadImage(str(made.moving), sitk.sitkFloat32)
    chain = sitk.CompositeTransform(
        [affine, displaced(made.read("sub_1Warp.nii.gz", sitk.sitkVectorFloat32))]
    )
    expected = values(sitk.Resample(image, made.read("warped.nii.gz"), chain, sitk.sitkLinear, 0.0))
    assert np.abs(values(made.read("sub_Warped.nii.gz")) - expected).max() <= 1e-3 * np.ptp(
        values(image)
    )


def test_antspy_applies_the_ants_set_alike(made: Run) -> None:
    import ants

    fixed, moving = ants.image_read(str(made.fixed)), ants.image_read(str(made.moving))
    p = str(made.out / "sub_")
    there = ants.apply_transforms(fixed, moving, [f"{p}1Warp.nii.gz", f"{p}0GenericAffine.mat"])
    warped = ants.image_read(f"{p}Warped.nii.gz").numpy()
    assert np.abs(there.numpy() - warped).max() <= 1e-3 * np.ptp(moving.numpy())
    back = ants.apply_transforms(
        moving,
        fixed,
        [f"{p}0GenericAffine.mat", f"{p}1InverseWarp.nii.gz"],
        whichtoinvert=[True, False],
    )
    inverse_warp = displaced(made.read("sub_1InverseWarp.nii.gz", sitk.sitkVectorFloat32))
    chain = sitk.CompositeTransform(
        [inverse_warp, sitk.ReadTransform(f"{p}0GenericAffine.mat").GetInverse()]
    )
    onto = made.read("inverse_warped.nii.gz")
    image = sitk.ReadImage(str(made.fixed), sitk.sitkFloat32)
    expected = values(sitk.Resample(image, onto, chain, sitk.sitkLinear, 0.0))
    assert np.abs(back.numpy() - expected.T).max() <= 1e-3 * np.ptp(fixed.numpy())
    assert np.abs(values(onto) - expected).mean() <= 0.02 * np.ptp(fixed.numpy())
    for onto_these, image_of, name, same in (
        (fixed, moving, "Composite", there),
        (moving, fixed, "InverseComposite", back),
    ):
        whole = ants.apply_transforms(onto_these, image_of, [f"{p}{name}.h5"])
        assert np.abs(whole.numpy() - same.numpy()).max() <= 1e-4 * np.ptp(image_of.numpy())
    total = ants.apply_transforms(fixed, moving, [str(made.out / "forward_field.nii.gz")])
    assert np.abs(total.numpy() - warped).max() <= 1e-3 * np.ptp(moving.numpy())
    total = ants.apply_transforms(moving, fixed, [str(made.out / "inverse_field.nii.gz")])
    inverse = ants.image_read(str(made.out / "inverse_warped.nii.gz")).numpy()
    assert np.abs(total.numpy() - inverse).max() <= 1e-3 * np.ptp(fixed.numpy())


def test_nothing_folds_and_the_report_says_what_the_files_hold(made: Run) -> None:
    report = made.report
    for key, name in (
        ("folding", "forward_field.nii.gz"),
        ("inverse_folding", "inverse_field.nii.gz"),
    ):
        image = made.read(name, sitk.sitkVectorFloat32)
        grid = Grid.of(image)
        mapped = voxel_points(grid) + values(image)
        columns = [np.gradient(mapped, axis=2 - k) / grid.spacing[k] for k in range(3)]
        det = (np.linalg.det(np.stack(columns, axis=-1)) * np.linalg.det(grid.axes))[
            1:-1, 1:-1, 1:-1
        ]
        assert report[key]["voxels"] == (det <= 0).sum() == 0
        assert report[key]["percent"] == 0
        assert report[key]["min_det"] == pytest.approx(det.min(), abs=2e-3)
        place = grid.indices(np.array(report[key]["min_det_at_mm"]))
        x, y, z = np.rint(place).astype(int) - 1
        assert det[z, y, x] == pytest.approx(det.min(), abs=2e-3)


def test_the_inverse_error_is_small_and_the_one_simpleitk_finds(made: Run) -> None:
    forward, inverse = (
        made.read(f"{n}_field.nii.gz", sitk.sitkVectorFloat32) for n in ("forward", "inverse")
    )
    for key, there, back, picture in (
        ("inverse_error_fixed", forward, inverse, made.fixed),
        ("inverse_error_moving", inverse, forward, made.moving),
    ):
        image = values(sitk.ReadImage(str(picture)))
        points = voxel_points(Grid.of(there))[image > image.min()]
        go, come, end = displaced(there), displaced(back), Grid.of(back)
        middle = np.array([go.TransformPoint(p) for p in points[::7].tolist()])
        index = end.indices(middle)
        inside = ((index >= 0) & (index <= np.array(end.size) - 1)).all(1)
        home = np.array([come.TransformPoint(p) for p in middle[inside].tolist()])
        error = np.linalg.norm(home - points[::7][inside], axis=1)
        told = made.report[key]
        assert told["mean_mm"] == pytest.approx(error.mean(), rel=0.05)
        assert told["max_mm"] >= error.max() - 1e-3
        assert told["mean_mm"] < 0.02 * SPACING
        assert told["max_mm"] < 0.3 * SPACING


def test_the_report_names_inputs_and_outputs(made: Run) -> None:
    report = made.report
    for key, path in (("moving", made.moving), ("fixed", made.fixed)):
        assert report["inputs"][key]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(Path(path).is_file() for path in report["outputs"].values())
    assert report["checkpoint"]["name"] == "tiny"
    assert report["preset"] == "default"
    assert report["seconds"]["refinement"] > 0
    assert sum(report["seconds"].values()) <= report["seconds_total"]
    alike = report["similarity"]
    assert 0 < alike["affine"] < alike["after"] < 1
    assert report["peak_memory_mb"] > 50
    assert report["threads"] == 1


def test_labels_are_the_moving_ones_by_nearest_neighbour(made: Run) -> None:
    labels = sitk.ReadImage(str(made.moving).replace("moving ", "labels "))
    warped = made.read("warped_labels.nii.gz", sitk.sitkUnknown)
    assert warped.GetPixelID() == labels.GetPixelID()
    transform = displaced(made.read("forward_field.nii.gz", sitk.sitkVectorFloat32))
    expected = sitk.Resample(labels, warped, transform, sitk.sitkNearestNeighbor, 0)
    assert np.array_equal(sitk.GetArrayFromImage(warped), sitk.GetArrayFromImage(expected))
    assert np.isin(
        np.unique(sitk.GetArrayViewFromImage(warped)), sitk.GetArrayViewFromImage(labels)
    ).all()


def test_the_half_way_files_belong_together(made: Run) -> None:
    affine = sitk.ReadTransform(str(made.out / "affine.mat"))
    to_moving, to_fixed = (
        displaced(made.read(f"mid_to_{n}_field.nii.gz", sitk.sitkVectorFloat32))
        for n in ("moving", "fixed")
    )
    for picture, chain, name in (
        (made.moving, sitk.CompositeTransform([affine, to_moving]), "mid_moving.nii.gz"),
        (made.fixed, to_fixed, "mid_fixed.nii.gz"),
    ):
        image = sitk.ReadImage(str(picture), sitk.sitkFloat32)
        expected = values(sitk.Resample(image, made.read(name), chain, sitk.sitkLinear, 0.0))
        assert np.abs(values(made.read(name)) - expected).max() <= 1e-3 * np.ptp(values(image))
    # mid -> fixed -> moving is mid -> moving
    warp = displaced(made.read("sub_1Warp.nii.gz", sitk.sitkVectorFloat32))
    grid = Grid.of(made.read("mid_fixed.nii.gz"))
    points = voxel_points(grid)[8:-8:6, 8:-8:6, 8:-8:6].reshape(-1, 3).tolist()
    apart = [
        np.linalg.norm(
            np.subtract(
                warp.TransformPoint(to_fixed.TransformPoint(p)), to_moving.TransformPoint(p)
            )
        )
        for p in points
    ]
    assert np.mean(apart) < 0.1
    assert (
        np.mean([np.linalg.norm(np.subtract(to_moving.TransformPoint(p), p)) for p in points]) > 0.5
    )
