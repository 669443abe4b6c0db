"""Pairs that no checkpoint is for: other sizes, contrasts and poses, and what cannot work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from samples import coarse_brain, voxel_points

from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.size import Extent, scaled, scaled_affine, unit_of, working_voxel
from hsyn_cli.cli import run
from hsyn_cli.errors import UsageError
from hsyn_cli.fields.images import as_transform
from hsyn_cli.method.register import register
from hsyn_cli.method.result import Registration
from hsyn_cli.space import Grid
from hsyn_cli.tools.jacobian import jacobian

MM = 5.0
Pair = tuple[sitk.Image, sitk.Image]


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The example brains on coarse voxels, moving first."""
    return coarse_brain("moving", MM), coarse_brain("fixed", MM)


def quick(moving: sitk.Image, fixed: sitk.Image, **options: Any) -> Registration:
    return register(moving, fixed, **{"weights": "none", "preset": "fast", **options})


def foreground_points(image: sitk.Image, every: int = 50) -> np.ndarray:
    inside = sitk.GetArrayViewFromImage(image) > 0.2 * sitk.GetArrayViewFromImage(image).max()
    points: np.ndarray = voxel_points(Grid.of(image))[inside][::every]
    return points


def sent(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


def test_a_pair_of_any_size_is_registered_as_one_of_human_size(pair: Pair) -> None:
    """All lengths scale: a mouse in micrometre voxels has the field of the brain it copies."""
    human = quick(*pair)
    small = quick(*(scaled(image, 0.05) for image in pair))
    u, v = (sitk.GetArrayFromImage(found.forward_field) for found in (human, small))
    apart = np.linalg.norm(20 * v - u, axis=-1)
    assert apart.mean() < 0.1
    assert np.percentile(apart, 99) < 0.5
    assert np.abs(u).max() > 4
    assert small.forward_field.GetSpacing() == pytest.approx((0.25,) * 3)
    assert small.facts.inverse_error_fixed.max_mm < 0.05
    assert Grid.of(small.warped).same_as(Grid.of(scaled(pair[1], 0.05)))
    error = small.facts.inverse_error_fixed.mean_mm * 20
    assert error == pytest.approx(human.facts.inverse_error_fixed.mean_mm, abs=0.02)


def test_lengths_follow_from_content_and_voxels() -> None:
    def voxel(mm: float, litres: float, box: float = 0.0) -> float:
        image = sitk.Image([8, 8, 8], sitk.sitkUInt8)
        image.SetSpacing((mm,) * 3)
        extent = Extent(litres * 1e6, 1e6 * max(box, litres))
        return working_voxel((image, image), (extent, extent))

    def unit(litres: float, box: float) -> float:
        return unit_of((Extent(litres * 1e6, box * 1e6),) * 2)

    assert voxel(1.0, 1.3) == pytest.approx(1.0)
    assert voxel(3.0, 1.3) == pytest.approx(1.5)  # half the voxel of a coarse image
    assert voxel(1.5, 25.0) == pytest.approx(2.03, abs=0.01)  # a trunk would take minutes
    for scale in (0.01, 0.3, 7.0):
        assert voxel(3 * scale, 1.3 * scale**3) == pytest.approx(1.5 * scale)
        assert unit(1.3 * scale**3, 3 * scale**3) == pytest.approx(scale)
    assert unit(1.4, 3.0) == 1
    assert unit(0.001, 8.0) == pytest.approx(0.585, abs=0.001)  # a few vessels in a large box
    assert voxel(0.5, 0.03, 8.0) == pytest.approx(0.874, abs=0.001)
    ball = sitk.Image([20, 20, 20], sitk.sitkFloat32)
    ball[4:10, 6:12, 8:10] = 5.0
    ball.SetSpacing((2.0, 2.0, 2.0))
    assert Extent.of(ball, read_intensities(ball)) == Extent(72 * 8.0, 72 * 8.0)


def test_a_rigid_transform_between_contrasts_is_found_and_nothing_bends(pair: Pair) -> None:
    planted = sitk.Euler3DTransform()
    middle = pair[1].TransformContinuousIndexToPhysicalPoint([n / 2 for n in pair[1].GetSize()])
    planted.SetCenter(middle)
    planted.SetRotation(0.15, -0.1, 0.1)
    planted.SetTranslation((5.0, -4.0, 4.0))
    brain = pair[1] > 60
    inverted = sitk.Cast(brain, sitk.sitkFloat32) * (300.0 - 0.9 * pair[1])
    moving = sitk.Resample(inverted, inverted, planted.GetInverse(), sitk.sitkLinear)
    found = quick(moving, sitk.Cast(brain, sitk.sitkFloat32) * pair[1], transform="rigid")
    points = foreground_points(pair[1])
    away = sent(as_transform(found.forward_field), points) - sent(planted, points)
    assert np.linalg.norm(away, axis=1).mean() < 0.3 * MM
    matrix = np.reshape(found.affine.GetMatrix(), (3, 3))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    straight = sent(found.affine, points) - sent(as_transform(found.forward_field), points)
    assert np.abs(straight).max() < 1e-2
    assert (found.facts.transform, found.facts.affine) == ("rigid", "rigid")
    assert found.facts.checkpoint.name == "none"
    assert found.facts.contrast < 0.2
    assert found.facts.similarity.measure == "MIND-SSC"
    assert not {"networks", "refinement"} & set(found.facts.seconds)


def test_transforms_that_contradict_the_alignment_are_refused(pair: Pair) -> None:
    for options in (
        {"transform": "affine", "affine": "none"},
        {"transform": "spline"},
        {"transform": "translation", "search": "full"},
    ):
        with pytest.raises(UsageError):
            quick(*pair, **options)
    with pytest.raises(UsageError, match="similarity"):
        quick(*pair, similarity="mutual")


@pytest.mark.parametrize("angles", [(math.pi, 0.0, 0.0), (0.0, math.pi / 2, math.pi / 2)])
def test_a_full_search_finds_turned_images(pair: Pair, angles: tuple[float, ...]) -> None:
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles)
    moving = sitk.Image(pair[0])
    axes = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(moving.GetDirection(), (3, 3))
    moving.SetDirection(axes.ravel().tolist())
    moving.SetOrigin((np.array(turn.TransformPoint(moving.GetOrigin())) + 300.0).tolist())
    found = quick(moving, pair[1], search="full", transform="affine")
    plain = quick(*pair, transform="affine")
    points = foreground_points(pair[1])
    expected = sent(turn, sent(plain.affine, points)) + 300.0
    assert np.linalg.norm(sent(found.affine, points) - expected, axis=1).max() < MM
    assert found.facts.problems == ()


@pytest.mark.parametrize("side", ["moving", "fixed"])
def test_a_lesion_does_not_pull_if_it_is_masked(pair: Pair, side: str) -> None:
    """Against the field of the pair without it, in and near the lesion."""
    which = ("moving", "fixed").index(side)
    image = pair[which]
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([12.0, 20.0, 18.0]))
    away = np.linalg.norm(voxel_points(Grid.of(image)) - middle, axis=-1)
    values = sitk.GetArrayFromImage(image)
    values[away < 15] = 10.0
    ill = Grid.of(image).stamp(sitk.GetImageFromArray(values))
    lesion = Grid.of(image).stamp(sitk.GetImageFromArray((away < 15).astype(np.uint8)))
    images = [ill if k == which else other for k, other in enumerate(pair)]
    healthy = quick(*pair)
    masked = quick(*images, **{f"{side}_lesion": lesion})
    plain = quick(*images)
    points = foreground_points(pair[1], every=5)
    expected = sent(as_transform(healthy.forward_field), points)
    near = np.linalg.norm((points if which else expected) - middle, axis=1) < 25
    errors = [
        np.linalg.norm(sent(as_transform(v.forward_field), points) - expected, axis=1)[near].mean()
        for v in (masked, plain)
    ]
    assert errors[0] < 0.8 * errors[1], errors
    field = masked.forward_field if which else masked.inverse_field
    det = sitk.GetArrayFromImage(jacobian(field).image)
    assert masked.facts.lesions == {side: pytest.approx(det[away < 15].mean(), rel=0.02)}
    assert healthy.facts.lesions == {}


def test_what_works_is_not_accused(pair: Pair) -> None:
    assert quick(*pair).facts.problems == ()
    assert quick(pair[1], pair[1], transform="rigid").facts.problems == ()


def test_what_cannot_work_is_told(pair: Pair) -> None:
    moving, fixed = pair
    noise = sitk.GetImageFromArray(
        np.random.default_rng(0).uniform(0, 200, moving.GetSize()[::-1]).astype(np.float32)
    )
    noise.CopyInformation(moving)
    assert quick(noise, fixed).facts.problems
    inside = sitk.Cast(moving > 20, sitk.sitkFloat32)
    assert "in common" in " ".join(quick(noise * inside, fixed).facts.problems)
    assert quick(scaled(moving, 0.3), fixed, transform="affine").facts.problems
    away = sitk.Euler3DTransform()
    away.SetCenter(moving.TransformContinuousIndexToPhysicalPoint([16.0] * 3))
    away.SetRotation(0.35, 0.0, 0.0)
    away.SetTranslation((20.0, 0.0, 0.0))
    skipped = quick(sitk.Resample(moving, moving, away), fixed, affine="none")
    assert "skipped" in " ".join(skipped.facts.problems)


def test_a_failure_has_its_exit_code_and_the_files_are_there(
    pair: Pair, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).uniform(0, 200, pair[0].GetSize()[::-1])
    moving = sitk.GetImageFromArray(noise.astype(np.float32))
    moving.CopyInformation(pair[0])
    sitk.WriteImage(moving, str(tmp_path / "m.nii.gz"))
    sitk.WriteImage(pair[1], str(tmp_path / "f.nii.gz"))
    line = ["register", "-m", str(tmp_path / "m.nii.gz"), "-f", str(tmp_path / "f.nii.gz")]
    line += ["-o", str(tmp_path / "out"), "--model", "none", "--preset", "fast", "--quiet"]
    assert run(line) == 10
    error, hint = capfd.readouterr().err.splitlines()
    assert error.startswith("error: do not trust this result: ")
    assert "--on-failure warn" in hint
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["problems"]
    assert "Do not trust" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert run([*line, "--force", "--on-failure", "warn"]) == 0


def test_lengths_of_affines_scale() -> None:
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, 2.0, 3.0))
    affine.Rotate(0, 1, 0.3)
    point = np.array((4.0, -2.0, 7.0))
    there = np.array(affine.TransformPoint(point.tolist()))
    small = scaled_affine(affine, 0.1).TransformPoint((0.1 * point).tolist())
    np.testing.assert_allclose(small, 0.1 * there, atol=1e-9)


@pytest.mark.parametrize(("similarity", "inverted"), [("ncc", False), ("mind", True)])
def test_a_masked_lesion_changes_nothing_beside_it_in_any_contrast(
    pair: Pair, similarity: str, inverted: bool
) -> None:
    """An image and itself; of other contrast, the one cannot stand in for the other."""
    grid, values = Grid.of(pair[1]), sitk.GetArrayFromImage(pair[1])
    middle = np.array(pair[1].TransformContinuousIndexToPhysicalPoint([12.0, 20.0, 18.0]))
    away = np.linalg.norm(voxel_points(grid) - middle, axis=-1)
    bright = np.where(away < 15, 1.5 * values.max(), values)
    other = np.where(values > 20, 1.1 * values.max() - values, 0) if inverted else values
    moving, healthy, ill, lesion = (
        grid.stamp(sitk.GetImageFromArray(v.astype(np.float32)))
        for v in (other, values, bright, away < 15)
    )
    options = {"similarity": similarity, "affine": "none", "preset": "default"}
    runs = (
        quick(moving, healthy, **options),
        quick(moving, ill, fixed_lesion=sitk.Cast(lesion, sitk.sitkUInt8), **options),
        quick(moving, ill, **options),
    )
    plain, masked, pulled = (sitk.GetArrayFromImage(run.forward_field) for run in runs)
    near = (away > 15) & (away < 25)
    off, bad = (np.linalg.norm(v - plain, axis=-1)[near].mean() for v in (masked, pulled))
    assert off < 0.5 * bad, (off, bad)
    assert inverted or np.abs(masked).max() < 0.05 * MM
