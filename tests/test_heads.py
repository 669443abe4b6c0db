"""Of whole heads, the affine step aligns the brain, and the brain tells the contrast."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from samples import EXAMPLES, voxel_points

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.contrast import Shown
from hsyn_cli.anatomy.depth import middle
from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.organs.brain import HEAD
from hsyn_cli.anatomy.placement import place
from hsyn_cli.anatomy.scene import Subjects, prepare_subjects
from hsyn_cli.space import Grid, affine_from, affine_parts

GRID = Grid((56, 60, 68), (4.0, 4.0, 4.0), (-112.0, -120.0, -168.0), tuple(np.eye(3).ravel()))
SHIFT = np.array([3.0, -7.0, 9.0])  # mm, of the brain inside the skull


@pytest.fixture(scope="module")
def scan() -> sitk.Image:
    whole = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    image = sitk.BinShrink(whole, [3, 3, 3])
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    image.SetOrigin((np.array(image.GetOrigin()) - centre).tolist())
    return image


def head(scan: sitk.Image, shift: np.ndarray, seed: int = 0) -> tuple[sitk.Image, np.ndarray]:
    """A head with a neck around the brain of `scan`, and where the brain is (Z, Y, X)."""
    move = sitk.TranslationTransform(3, (-shift).tolist())
    inner = sitk.Resample(scan, GRID.empty_image(sitk.sitkUInt8), move, sitk.sitkLinear, 0.0)
    brain = sitk.GetArrayFromImage(inner)
    x, y, z = np.moveaxis(voxel_points(GRID), -1, 0)
    ball = np.sqrt((x / 96) ** 2 + (y / 108) ** 2 + (z / 100) ** 2) < 1
    body = ball | ((np.hypot(x, y) < 52) & (z < 0))
    skin = np.random.default_rng(seed).uniform(40, 200, body.shape)
    out = np.where(brain > 20, brain, np.where(body, skin, 0)).astype(np.float32)
    return GRID.stamp(sitk.GetImageFromArray(out)), brain > 20


def subjects_of(moving: sitk.Image, fixed: sitk.Image, organ: str = "brain") -> Subjects:
    looks = organs.look(moving), organs.look(fixed)
    assert {look.kind for look in looks} == {HEAD}
    return prepare_subjects((moving, fixed), (None, None), looks, organs.find(organ), 99.5)


def test_the_middle_of_a_head_is_its_brain(scan: sitk.Image) -> None:
    image, brain = head(scan, np.zeros(3))
    found = middle(image, read_intensities(image))
    assert found is not None
    inside = sitk.GetArrayViewFromImage(found) != 0
    assert (inside & brain).sum() > 0.85 * brain.sum()
    neck = voxel_points(GRID)[..., 2] < -108
    assert (inside & neck).sum() == 0
    dark = image * 0
    assert middle(dark, read_intensities(dark)) is None


@pytest.mark.parametrize("organ", ["brain", "none"])
def test_the_affine_of_heads_follows_their_brains(scan: sitk.Image, organ: str) -> None:
    (moving, _), (fixed, brain) = head(scan, SHIFT), head(scan, np.zeros(3))
    subjects, points = subjects_of(moving, fixed, organ), voxel_points(GRID)[brain]
    off = []
    for one in (subjects, replace(subjects, middle=None)):
        affine, _ = place(one, "rigid", None, seed=0, finest_mm=4.0)
        a, t = affine_parts(affine)
        off.append(np.linalg.norm(points @ a.T + t - points - SHIFT, axis=1).mean())
    assert off[0] < 1.5
    assert off[0] < 0.5 * off[1]


def test_a_head_and_a_brain_have_no_middle_in_common(scan: sitk.Image) -> None:
    image, _ = head(scan, np.zeros(3))
    looks = organs.look(scan), organs.look(image)
    subjects = prepare_subjects((scan, image), (None, None), looks, organs.find("none"), 99.5)
    assert subjects.middle is None


def test_skin_does_not_tell_the_contrast(scan: sitk.Image) -> None:
    (moving, _), (fixed, _) = head(scan, np.zeros(3), 1), head(scan, np.zeros(3), 2)
    subjects, still = subjects_of(moving, fixed), affine_from(np.eye(3), np.zeros(3))
    found = [Shown.of(one, still) for one in (subjects, replace(subjects, middle=None))]
    assert found[0].correlation > found[1].correlation + 0.2
