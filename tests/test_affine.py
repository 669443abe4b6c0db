"""Affine alignment of a real scan with itself, moved by a known transform."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from samples import EXAMPLES, voxel_points

import hsyn_cli.io.images  # noqa: F401  silences ITK's own warnings, as the command line does
from hsyn_cli.anatomy.affine import affine_from, align, as_affine, left_out
from hsyn_cli.anatomy.poses import Kind
from hsyn_cli.errors import GeometryError
from hsyn_cli.space import Array, Grid, affine_parts


@pytest.fixture(scope="module")
def scan() -> sitk.Image:
    return sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)


@pytest.fixture(scope="module")
def brain(scan: sitk.Image) -> Array:
    """(N, 3) LPS points inside the brain, mm."""
    values = sitk.GetArrayViewFromImage(scan)[::8, ::8, ::8]
    return voxel_points(Grid.of(scan))[::8, ::8, ::8][values > 20]


Triple = tuple[float, float, float]


def known(degrees: Triple, scale: float, shift: Triple, centre: Array) -> sitk.AffineTransform:
    """Turn and scale about `centre`, then shift (mm)."""
    euler = sitk.Euler3DTransform((0, 0, 0), *np.radians(degrees).tolist())
    matrix = scale * np.reshape(euler.GetMatrix(), (3, 3))
    return affine_from(matrix, centre - matrix @ centre + np.array(shift))


def moved(image: sitk.Image, transform: sitk.AffineTransform, spacing: float) -> sitk.Image:
    """`image` where `transform` puts it, on a new LPS grid around it.

    Brighter and in other units.
    """
    grid = Grid.of(image)
    corners = np.array(list(itertools.product(*[(0.0, n - 1.0) for n in grid.size])))
    points = np.array([transform.TransformPoint(p) for p in grid.points(corners).tolist()])
    size = np.ceil(np.ptp(points, axis=0) / spacing).astype(int) + 1
    out = sitk.Resample(
        image,
        size.tolist(),
        transform.GetInverse(),
        sitk.sitkLinear,
        points.min(0).tolist(),
        (spacing,) * 3,
    )
    return 3.0 * out + 10.0


def distance(found: sitk.AffineTransform, expected: sitk.AffineTransform, points: Array) -> float:
    """Mean distance between where the two put `points`, mm."""
    (a, s), (b, t) = affine_parts(found), affine_parts(expected)
    return float(np.linalg.norm(points @ (a - b).T + (s - t), axis=1).mean())


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [
        ((45, 0, 0), 1.0, (100, 0, 0)),
        ((0, -45, 0), 0.8, (0, 0, 0)),
        ((0, 0, 45), 1.25, (0, 0, -30)),
        ((30, -30, 30), 1.0, (0, -80, 60)),
    ],
)
def test_rotation_scale_and_shift_are_found_on_a_real_scan(
    scan: sitk.Image, brain: Array, degrees: Triple, scale: float, shift: Triple
) -> None:
    expected = known(degrees, scale, shift, brain.mean(0))
    found = align(scan, moved(scan, expected, 1.3))
    assert distance(found, expected, brain) < 0.3


@pytest.fixture(scope="module")
def coarse(scan: sitk.Image) -> sitk.Image:
    return sitk.BinShrink(scan, [3, 3, 3])


def test_rigid_stays_rigid_and_is_found(coarse: sitk.Image, brain: Array) -> None:
    expected = known((10, -20, 15), 1.0, (12, -20, 9), brain.mean(0))
    found = align(coarse, moved(coarse, expected, 3.0), "rigid")
    a, _ = affine_parts(found)
    np.testing.assert_allclose(a.T @ a, np.eye(3), atol=1e-6)
    assert distance(found, expected, brain) < 0.5


def test_a_translation_is_found_and_nothing_else(coarse: sitk.Image, brain: Array) -> None:
    expected = known((0, 0, 0), 1.0, (12.3, -20.6, 9.9), brain.mean(0))
    found = align(coarse, moved(coarse, expected, 3.0), "translation")
    np.testing.assert_array_equal(affine_parts(found)[0], np.eye(3))
    assert distance(found, expected, brain) < 0.3
    turned = known((0, 0, 8), 1.1, (12.3, -20.6, 9.9), brain.mean(0))  # no longer of that kind
    found = align(coarse, moved(coarse, turned, 3.0), "translation", start=turned)
    np.testing.assert_array_equal(affine_parts(found)[0], np.eye(3))
    assert distance(found, turned, brain.mean(0, keepdims=True)) < 3


def test_a_start_is_gone_on_from(coarse: sitk.Image, brain: Array) -> None:
    """Turned by 170 degrees no search would find it."""
    expected = known((0, 0, 170), 1.0, (0, 0, 0), brain.mean(0))
    near = known((0, 0, 165), 1.0, (4, -4, 4), brain.mean(0))
    moving = moved(coarse, expected, 3.0)
    assert distance(align(coarse, moving, "affine", start=near), expected, brain) < 0.5
    found = align(coarse, moving, "rigid", start=known((0, 0, 165), 1.1, (4, -4, 4), brain.mean(0)))
    a, _ = affine_parts(found)
    np.testing.assert_allclose(a.T @ a, np.eye(3), atol=1e-6)
    assert distance(found, expected, brain) < 0.5


@pytest.mark.parametrize(
    ("degrees", "scale", "kind", "told"),
    [
        (12, 1.0, "translation", ["is a translation", "its rotation by 12 degrees"]),
        (0, 1.1, "translation", ["its scales and shears (factors 1.1, 1.1, 1.1"]),
        (12, 1.1, "translation", ["rotation by 12 degrees and its scales"]),
        (12, 1.1, "rigid", ["is rigid", "without its scales and shears"]),
        (0, -1.1, "rigid", ["factors 1.1, 1.1, -1.1"]),  # a mirror
        (12, 1.0, "rigid", []),
        (0.01, 1.0002, "translation", []),  # rounding
        (12, 1.1, "affine", []),
        (12, 1.1, "none", []),
    ],
)
def test_what_an_alignment_leaves_out_of_a_start_is_told(
    degrees: float, scale: float, kind: Kind, told: list[str]
) -> None:
    line = left_out(known((0, 0, degrees), scale, (1, 2, 3), np.ones(3)), kind)
    assert bool(line) == bool(told)
    assert all(part in line for part in told)


def test_shears_are_told() -> None:
    matrix = np.eye(3)
    matrix[0, 1] = 0.2
    assert "scales and shears (factors 1.105, 1, 0.905 " in left_out(
        affine_from(matrix, np.zeros(3)), "rigid"
    )


def test_a_start_that_no_step_refines_is_of_the_kind(
    coarse: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsyn_cli.anatomy.affine._refined", lambda *parts: None)
    start = known((0, 0, 12), 1.1, (1, 2, 3), np.zeros(3))
    kinds: dict[Kind, float] = {"rigid": 1.0, "affine": 1.1}
    for kind, scale in kinds.items():
        expected = known((0, 0, 12), scale, (0, 0, 0), np.zeros(3))
        a, _ = affine_parts(align(coarse, coarse, kind, start=start))
        np.testing.assert_allclose(a, affine_parts(expected)[0], atol=1e-9)


def test_none_gives_the_start_or_the_identity(coarse: sitk.Image) -> None:
    start = known((1, 2, 3), 1.1, (4, 5, 6), np.zeros(3))
    assert align(coarse, coarse, "none", start=start).GetParameters() == start.GetParameters()
    assert align(coarse, coarse, "none").GetParameters() == sitk.AffineTransform(3).GetParameters()


@pytest.mark.parametrize("same", [True, False], ids=["one contrast", "two contrasts"])
def test_same_seed_same_answer(coarse: sitk.Image, brain: Array, same: bool) -> None:
    """With several threads, too: they would sum mutual information in another order each time."""
    itk = sitk.ProcessObject
    threads = itk.GetGlobalDefaultNumberOfThreads()
    itk.SetGlobalDefaultNumberOfThreads(4)
    try:
        moving = moved(coarse, known((5, 5, 5), 1.05, (5, 5, 5), brain.mean(0)), 3.0)
        found = {
            align(coarse, moving, seed=3, same_contrast=same).GetParameters() for _ in range(3)
        }
        assert itk.GetGlobalDefaultNumberOfThreads() == 4
    finally:
        itk.SetGlobalDefaultNumberOfThreads(threads)
    assert len(found) == 1


def test_masks_leave_what_is_not_there_out(coarse: sitk.Image, brain: Array) -> None:
    expected = known((8, -5, 5), 1.0, (6, -3, 4), brain.mean(0))
    moving = moved(coarse, expected, 3.0)
    values = sitk.GetArrayFromImage(moving)
    keep = np.ones_like(values, np.uint8)
    cut = (slice(None), slice(None), slice(0, values.shape[2] // 3))
    values[cut], keep[cut] = (
        np.random.default_rng(0).uniform(0, 2 * values.max(), values[cut].shape),
        0,
    )
    grid = Grid.of(moving)
    spoilt, mask = (grid.stamp(sitk.GetImageFromArray(v)) for v in (values, keep))
    found = align(coarse, spoilt, moving_mask=mask)
    assert distance(found, expected, brain) < 4  # 50 where the noise is let in
    assert distance(found, expected, brain) < 0.2 * distance(align(coarse, spoilt), expected, brain)


def test_as_affine_keeps_any_linear_transform() -> None:
    turn = sitk.Similarity3DTransform(1.2, (0, 0, 1), 0.4, (5, -6, 7), (10, 20, 30))
    for point in ((0.0, 0.0, 0.0), (4.0, -5.0, 6.0)):
        assert as_affine(turn).TransformPoint(point) == pytest.approx(turn.TransformPoint(point))
    assert as_affine(turn).GetCenter() == (0, 0, 0)


@pytest.mark.parametrize("size", [(40, 48, 4), (4, 4, 4)])
@pytest.mark.parametrize("spacing", [0.3, 2.0])
def test_slabs_and_small_animals_are_aligned_to_something_that_can_be_inverted(
    coarse: sitk.Image, size: tuple[int, int, int], spacing: float
) -> None:
    middle = [(n - m) // 2 for n, m in zip(coarse.GetSize(), size, strict=True)]
    slab = sitk.RegionOfInterest(coarse, size, middle)
    slab.SetSpacing((spacing,) * 3)
    for other in (slab, sitk.Flip(slab, (True, False, False))):
        a, _ = affine_parts(align(slab, other))
        assert np.linalg.det(a) > 0.1


def test_a_single_bright_voxel_is_no_reason_to_fall_over() -> None:
    image = sitk.Image((20, 20, 20), sitk.sitkFloat32)
    image[9, 10, 11] = 1.0
    assert np.isfinite(align(image, image).GetParameters()).all()


def test_nothing_in_common_is_told(coarse: sitk.Image) -> None:
    values = np.zeros(coarse.GetSize()[::-1], np.uint8)
    values[0, 0, 0] = 1
    mask = Grid.of(coarse).stamp(sitk.GetImageFromArray(values))
    far = sitk.AffineTransform(3)
    far.SetTranslation((170.0, 0, 0))
    for options in (
        {"fixed_mask": mask},
        {"fixed_mask": mask, "moving_mask": mask},
        {"start": far},
    ):
        with pytest.raises(GeometryError, match="too few voxels in common"):
            align(coarse, coarse, **options)
