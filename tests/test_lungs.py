"""Lungs are found in a chest CT whichever way it lies, and nowhere else."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, chest

from hsyn_cli.anatomy import lungs
from hsyn_cli.anatomy.intensity import read_intensities


def overlap(found: sitk.Image | None, truth: sitk.Image) -> float:
    assert found is not None
    a = (
        sitk.GetArrayFromImage(sitk.Resample(found, truth, sitk.Transform(), sitk.sitkLinear, 0.0))
        > 0.5
    )
    b = sitk.GetArrayFromImage(truth) > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("direction", ["LPS", "RAS", "oblique"])
def test_lungs_are_found(direction: str) -> None:
    image, truth = chest(direction=DIRECTIONS[direction])
    assert overlap(lungs.segment(image), truth) > 0.97


def test_slices_may_cut_the_lungs_but_air_at_the_sides_is_none() -> None:
    image, truth = chest()
    part = (slice(None), slice(None), slice(25, 55))
    assert overlap(lungs.segment(image[part]), truth[part]) > 0.97
    up_along_x = sitk.PermuteAxes(image, [2, 0, 1])  # the body's axis is the first
    assert overlap(lungs.segment(up_along_x), sitk.PermuteAxes(truth, [2, 0, 1])) > 0.97


def test_a_padded_cylinder_around_the_body_is_no_lung_and_not_scanned() -> None:
    image, truth = chest()
    values = sitk.GetArrayFromImage(image)
    _, y, x = np.ogrid[: values.shape[0], : values.shape[1], : values.shape[2]]
    outside = np.hypot(x - 39.5, y - 29.5) > 29
    values[:, outside[0]] = -3024
    padded = sitk.GetImageFromArray(values)
    padded.CopyInformation(image)
    assert overlap(lungs.segment(padded), truth) > 0.97
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(lungs.unscanned(padded)) > 0, np.broadcast_to(outside, values.shape)
    )
    assert (
        sitk.GetArrayFromImage(lungs.unscanned(image)).mean() < 1e-4
    )  # the darkest voxel of noise at most


def test_no_lungs_no_mask() -> None:
    image, _ = chest()
    without = sitk.GetArrayFromImage(image)
    without[(without > -960) & (without < -500)] = 0
    assert lungs.segment(sitk.GetImageFromArray(without)) is None
    assert not read_intensities(sitk.Abs(image)).hounsfield
