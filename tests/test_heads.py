"""Of whole heads, the affine step aligns the brain, and the brain tells the contrast."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import EXAMPLES, voxel_points

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.contrast import Shown
from hsyn_cli.anatomy.depth import middle
from hsyn_cli.anatomy.organs.brain import HEAD
from hsyn_cli.anatomy.placement import place
from hsyn_cli.anatomy.scene import Subjects, prepare_subjects
from hsyn_cli.anatomy.tensors import FADING
from hsyn_cli.method.matching import differing, matched, regression
from hsyn_cli.method.prepare import look
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
    found = middle(image)
    assert found is not None
    inside = sitk.GetArrayViewFromImage(found) != 0
    assert (inside & brain).sum() > 0.85 * brain.sum()
    neck = voxel_points(GRID)[..., 2] < -108
    assert (inside & neck).sum() == 0
    dark = image * 0
    assert middle(dark) is None


@pytest.mark.parametrize("organ", ["brain", "none"])
def test_the_affine_of_heads_follows_their_brains(scan: sitk.Image, organ: str) -> None:
    (moving, _), (fixed, brain) = head(scan, SHIFT), head(scan, np.zeros(3))
    subjects, points = subjects_of(moving, fixed, organ), voxel_points(GRID)[brain]
    off = []
    for one in (subjects, replace(subjects, middles=None)):
        affine, _ = place(one, "rigid", None, seed=0, finest_mm=4.0)
        a, t = affine_parts(affine)
        off.append(np.linalg.norm(points @ a.T + t - points - SHIFT, axis=1).mean())
    assert off[0] < 1.5
    assert off[0] < 0.5 * off[1]


def test_the_refinement_of_heads_takes_the_brain_and_what_is_near(scan: sitk.Image) -> None:
    (moving, _), (fixed, brain) = head(scan, SHIFT), head(scan, np.zeros(3))
    subjects = subjects_of(moving, fixed)
    affine = affine_from(np.eye(3), SHIFT)
    grid = subjects.grid(affine, 2.0, 16.0, 4)
    fine = subjects.on(grid, affine, torch.device("cpu")).fine
    assert fine is not None
    index = grid.indices(voxel_points(GRID)[brain]).round().astype(int)[:, ::-1]
    for side, along in zip(fine, index.T, strict=True):
        assert side.start + FADING <= along.min() <= along.max() < side.stop - FADING
    below = grid.indices(np.array([[0.0, 0.0, -130.0]]))[0, 2]
    assert not fine[0].start <= below < fine[0].stop  # the neck
    everywhere = fixed * 0 + 1
    for other in (
        replace(subjects, middles=None),
        replace(subjects, masks=(None, everywhere)),  # what the user names may lie elsewhere
    ):
        assert other.on(grid, affine, torch.device("cpu")).fine is None
    size = (140, *grid.size[1:])  # as wide as a body
    wide = Grid(size, grid.spacing, (-140.0, *grid.origin[1:]), grid.direction)
    assert subjects.on(wide, affine, torch.device("cpu")).fine is None


def test_the_middles_tell_the_pose_of_heads_of_two_contrasts(scan: sitk.Image) -> None:
    """Turned by 63 degrees; by all of the heads alone, the search ends 42 mm away."""
    (moving, _), (fixed, brain) = head(scan, np.zeros(3), 1), head(scan, np.zeros(3))
    turn = sitk.VersorRigid3DTransform()
    turn.SetRotation((0.0, 1.0, 0.0), 1.1)
    turn.SetTranslation((10.0, 20.0, -40.0))
    wide = Grid((90, 90, 90), (4.0, 4.0, 4.0), (-180.0,) * 3, GRID.direction)
    seen = sitk.Resample(moving, wide.empty_image(sitk.sitkFloat32), turn, sitk.sitkLinear, 0.0)
    seen = sitk.Mask(245 - seen, seen > 5)
    affine, _ = place(
        subjects_of(seen, fixed, "none"), "rigid", None, seed=0, finest_mm=4.0, same_contrast=False
    )
    a, t = affine_parts(affine)
    points, back = voxel_points(GRID)[brain][::50], turn.GetInverse()
    true = np.array([back.TransformPoint(p) for p in points.tolist()])
    assert np.linalg.norm(points @ a.T + t - true, axis=1).mean() < 1


def test_a_head_and_a_brain_have_no_middle_in_common(scan: sitk.Image) -> None:
    image, _ = head(scan, np.zeros(3))
    looks = organs.look(scan), organs.look(image)
    subjects = prepare_subjects((scan, image), (None, None), looks, organs.find("none"), 99.5)
    assert subjects.middles is None


def test_skin_does_not_tell_the_contrast(scan: sitk.Image) -> None:
    (moving, _), (fixed, _) = head(scan, np.zeros(3), 1), head(scan, np.zeros(3), 2)
    subjects, still = subjects_of(moving, fixed), affine_from(np.eye(3), np.zeros(3))
    found = [Shown.of(one, still) for one in (subjects, replace(subjects, middles=None))]
    assert found[0].correlation > found[1].correlation + 0.2


@pytest.mark.parametrize("search", ["near", "full"])
def test_masks_and_a_full_search_do_not_keep_brains_from_being_aligned(
    scan: sitk.Image, search: str
) -> None:
    (moving, _), (fixed, brain) = head(scan, SHIFT), head(scan, np.zeros(3))
    everywhere, points = sitk.Cast(fixed >= 0, sitk.sitkUInt8), voxel_points(GRID)[brain]
    lesion = sitk.Cast(sitk.Abs(fixed * 0), sitk.sitkUInt8)
    lesion[20:24, 30:34, 40:44] = 1
    subjects = replace(
        subjects_of(moving, fixed), masks=(everywhere, everywhere), lesions=(None, lesion)
    )
    affine, _ = place(subjects, "rigid", None, seed=0, finest_mm=4.0, search=search)
    a, t = affine_parts(affine)
    assert np.linalg.norm(points @ a.T + t - points - SHIFT, axis=1).mean() < 1.5


def test_middles_that_tell_nothing_leave_the_affine_of_the_whole(scan: sitk.Image) -> None:
    image, _ = head(scan, np.zeros(3))
    full = sitk.Cast(image > 0, sitk.sitkFloat32) * 100
    looks = (organs.look(full), organs.look(full))
    subjects = prepare_subjects((full, full), (None, None), looks, organs.find("none"), 99.5)
    affine, _ = place(subjects, "affine", None, seed=0, finest_mm=4.0, same_contrast=False)
    np.testing.assert_allclose(affine_parts(affine)[0], np.eye(3), atol=0.05)


def test_heads_keep_their_size_without_networks(scan: sitk.Image) -> None:
    (moving, _), (fixed, _) = head(scan, SHIFT), head(scan, np.zeros(3))
    pair = look(moving, fixed, None, None)
    assert pair.sized(organs.find("none")).unit == 1


def test_where_the_middle_tells_too_little_all_content_tells_the_contrast() -> None:
    grey = np.random.default_rng(0).uniform(0.2, 0.9, (12, 12, 12)).astype(np.float32)
    empty, little = np.zeros_like(grey), np.zeros_like(grey)
    little.ravel()[:500] = 1  # enough for a correlation, too few for a rise
    for brains, part in itertools.product((False, True), (empty, little)):
        assert not Shown.in_values(grey, 1.1 - grey, part).same_contrast(brains)
        assert Shown.in_values(grey, grey, part).same_contrast(brains)


def test_grey_values_that_the_middle_lacks_look_like_the_nearest_it_has() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.1, 0.6, (16, 16, 16)).astype(np.float32)
    inside = np.ones_like(image)
    image[:4], inside[:4] = 0.95, 0
    values, ratio = regression(image, 0.8 - image / 2, inside)
    assert ratio > 0.95
    assert values[-4] == pytest.approx(values[38], abs=0.03)


def test_a_second_look_at_roughly_registered_brains_tells_one_contrast(scan: sitk.Image) -> None:
    image, _ = head(scan, np.zeros(3))
    subjects, rng = subjects_of(image, image, "none"), np.random.default_rng(0)
    tissue = np.kron(rng.uniform(0.2, 0.9, (6, 6, 6)), np.ones((4, 4, 4))).astype(np.float32)
    other = (0.5 * tissue + 0.5 * np.roll(tissue, 1, 0)).astype(np.float32)
    twice, once = [(tissue, other), (tissue, 1 - other)], [(tissue, other)]
    assert differing((1.0,), once, brains=True) == [False]
    assert differing((1.0,), [(tissue, 1 - other)], brains=True) == [True]
    assert differing((0.5, 0.5), twice, brains=True) == [False, True]
    assert differing((1.0, 0.0), twice, brains=True) == [False, False]
    assert differing((1.0,), once, brains=False) == [True]  # as the first look found
    assert differing((1.0, 0.0), twice, brains=False) == [True, False]
    assert differing((0.5, 0.5), twice, brains=False) == [False, True]
    found = matched(subjects, (1.0,), [(tissue, 1 - other)], [True])
    assert found is not None
    assert "differ in contrast" in found[2]
    assert len(found[1]) == 2
