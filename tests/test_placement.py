"""Images whose headers lie apart are brought together; all others stay where their headers say."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import EXAMPLES, turned, voxel_points

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.affine import align
from hsyn_cli.anatomy.placement import place
from hsyn_cli.anatomy.scene import Subjects, prepare_subjects
from hsyn_cli.errors import GeometryError
from hsyn_cli.space import Array, Grid, affine_from, affine_parts

Masks = tuple[sitk.Image | None, sitk.Image | None]


@pytest.fixture(scope="module")
def scan() -> sitk.Image:
    whole = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    return sitk.BinShrink(whole, [4, 4, 4])


@pytest.fixture(scope="module")
def points(scan: sitk.Image) -> Array:
    """(N, 3) LPS points inside the brain, mm."""
    inside: Array = voxel_points(Grid.of(scan))[sitk.GetArrayViewFromImage(scan) > 20]
    return inside


def carried(image: sitk.Image, matrix: Array, shift: Array) -> sitk.Image:
    """`image` with a header that turns and shifts it."""
    out = sitk.Image(image)
    out.SetOrigin((matrix @ np.array(image.GetOrigin()) + shift).tolist())
    out.SetDirection((matrix @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return out


def subjects_of(moving: sitk.Image, fixed: sitk.Image, masks: Masks = (None, None)) -> Subjects:
    looks = organs.look(moving), organs.look(fixed)
    return prepare_subjects((moving, fixed), masks, looks, organs.find("brain"), 99.5)


def off(found: sitk.AffineTransform, expected: sitk.AffineTransform, points: Array) -> float:
    """Mean distance between where the two put `points`, mm."""
    (a, s), (b, t) = affine_parts(found), affine_parts(expected)
    return float(np.linalg.norm(points @ (a - b).T + (s - t), axis=1).mean())


@pytest.mark.parametrize(
    ("turn", "shift"),
    [
        ((0.0, 0.0, 0.0), (0.0, 120.0, 0.0)),
        ((0.0, 0.0, 0.0), (69.0, -69.0, 69.0)),
        ((0.0, 0.17, 0.0), (400.0, 400.0, 400.0)),
        ((0.17, 0.0, 0.0), (0.0, 0.0, -1000.0)),
    ],
)
@pytest.mark.parametrize("kind", ["affine", "rigid"])
def test_headers_apart(
    scan: sitk.Image, points: Array, turn: Array, shift: Array, kind: str
) -> None:
    matrix = np.reshape(turned(*turn), (3, 3))
    moving = carried(scan, matrix, np.array(shift))
    found, note = place(subjects_of(moving, scan), kind, None, seed=0, finest_mm=4.0)  # type: ignore[arg-type]
    assert off(found, affine_from(matrix, np.array(shift)), points) < 0.3
    middle = (points.min(0) + points.max(0)) / 2
    expected = np.linalg.norm(matrix @ middle + shift - middle)
    assert "brought together first" in note
    assert float(note.split()[-2]) == pytest.approx(expected, abs=8)


def test_masks_move_along(scan: sitk.Image, points: Array) -> None:
    moving = carried(scan, np.eye(3), np.array((300.0, 0.0, 0.0)))
    masks = (sitk.Cast(moving > 20, sitk.sitkUInt8), sitk.Cast(scan > 20, sitk.sitkUInt8))
    found, _ = place(subjects_of(moving, scan, masks), "affine", None, seed=0, finest_mm=4.0)
    assert off(found, affine_from(np.eye(3), np.array((300.0, 0.0, 0.0))), points) < 0.3


def test_images_that_overlap_are_aligned_from_where_they_lie(scan: sitk.Image) -> None:
    moving = carried(scan, np.reshape(turned(0.1, 0, 0), (3, 3)), np.array((30.0, -40.0, 20.0)))
    subjects = subjects_of(moving, scan)
    found, note = place(subjects, "affine", None, seed=3, finest_mm=4.0)
    plain = align(*subjects.views[::-1], seed=3, finest_mm=4.0, grey=subjects.grey)
    assert note == ""
    assert found.GetParameters() == plain.GetParameters()


def test_slabs_that_share_a_part_may_stay_where_their_headers_say(
    scan: sitk.Image, points: Array
) -> None:
    """Two thirds of the brain's height each; their centres lie a third apart."""
    height = scan.GetSize()[2]
    low, high = scan[:, :, : height * 11 // 20], scan[:, :, height * 3 // 8 :]
    found, note = place(subjects_of(high, low), "rigid", None, seed=0, finest_mm=4.0)
    assert "brought together" in note
    assert off(found, sitk.AffineTransform(3), points) < 0.4


@pytest.mark.parametrize(("kind", "start"), [("none", None), ("affine", sitk.AffineTransform(3))])
def test_a_start_and_no_affine_step_are_strict(
    scan: sitk.Image, kind: str, start: sitk.AffineTransform | None
) -> None:
    moving = carried(scan, np.eye(3), np.array((400.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="do not overlap in space"):
        place(subjects_of(moving, scan), kind, start, seed=0, finest_mm=4.0)  # type: ignore[arg-type]
    back = sitk.AffineTransform(3)
    back.SetTranslation((400.0, 0.0, 0.0))
    found, note = place(subjects_of(moving, scan), "none", back, seed=0, finest_mm=4.0)
    assert (found.GetParameters(), note) == (back.GetParameters(), "")


def test_a_start_that_is_cut_is_told(scan: sitk.Image) -> None:
    turn = sitk.Euler3DTransform((0, 0, 0), 0.0, 0.0, 0.2)
    start = affine_from(np.reshape(turn.GetMatrix(), (3, 3)), np.zeros(3))
    both = subjects_of(scan, scan)
    found, note = place(both, "translation", start, seed=0, finest_mm=8)
    np.testing.assert_array_equal(affine_parts(found)[0], np.eye(3))
    assert "starts from the initial transform, without its rotation by 11.5 degrees" in note
    assert place(both, "rigid", start, seed=0, finest_mm=8)[1] == ""
