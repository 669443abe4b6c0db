"""What the networks are shown: brains as they are, chests in their window, cut to the lungs.

With what was not scanned left out.
"""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, chest, coarse_brain

from hsyn_cli.anatomy import lungs, organs
from hsyn_cli.anatomy.intensity import Intensities, content_box, resample_image
from hsyn_cli.anatomy.organs.lung import NEAR_MM
from hsyn_cli.anatomy.scene import Subjects as Prepared
from hsyn_cli.anatomy.scene import prepare_subjects
from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.space import Grid

IDENTITY = sitk.AffineTransform(3)
CPU = torch.device("cpu")
Masks = tuple[sitk.Image | None, sitk.Image | None]


def Subjects(images: Masks, masks: Masks, found: Masks, organ: str) -> Prepared:  # noqa: N802
    looks = [organs.look(image) for image in images]
    first, second = (replace(look, region=lung) for look, lung in zip(looks, found, strict=True))
    return prepare_subjects(images, masks, (first, second), organs.find(organ), 99.5)


def chests(masks: Masks = (None, None), direction: str = "LPS") -> Prepared:
    images = tuple(chest(breath, DIRECTIONS[direction])[0] for breath in (0.0, 20.0))
    found = tuple(lungs.segment(image) for image in images)
    return Subjects((images[0], images[1]), masks, (found[0], found[1]), "lung")


def seen(subjects: Prepared, margin: float = 8.0) -> Scene:
    grid = subjects.grid(IDENTITY, 4.0, margin, 4)
    return subjects.on(grid, IDENTITY, CPU)


@pytest.mark.parametrize("direction", ["LPS", "oblique"])
def test_the_grid_of_a_chest_holds_both_lungs_and_what_is_near(direction: str) -> None:
    subjects = chests(direction=direction)
    grid = subjects.grid(IDENTITY, 4.0, 0.0, 1)
    assert subjects.regions is not None
    for lung in subjects.regions:
        z, y, x = np.nonzero(sitk.GetArrayFromImage(lung))
        assert grid.contains(Grid.of(lung).points(np.stack((x, y, z), -1).astype(float))).all()
    whole = Grid.of(subjects.views[1])
    extent = [n * s for n, s in zip(whole.size, whole.spacing, strict=True)]
    assert np.prod(grid.size) * 4.0**3 < 0.95 * np.prod(extent)
    assert NEAR_MM > 0


def test_a_chest_is_seen_in_its_window_with_its_lungs_as_a_map() -> None:
    scene = seen(chests())
    assert scene.pair.shape[1] == scene.maps.shape[1] == 1
    inside = scene.maps[1] > 0.99
    assert float(scene.pair[1][inside].mean()) == pytest.approx((-830 + 1000) / 1200, abs=0.05)
    assert scene.counts is not None
    assert float(scene.counts[1][inside].mean()) == 1


def test_what_was_not_scanned_does_not_count_nor_do_the_edges_it_makes() -> None:
    image, _ = chest()
    values = sitk.GetArrayFromImage(image)
    values[60:] = -2000
    cut = sitk.GetImageFromArray(values)
    cut.CopyInformation(image)
    found = lungs.segment(image)
    subjects = Subjects((image, cut), (None, None), (found, found), "lung")
    grid = Grid.of(image)
    counts = subjects.on(grid, IDENTITY, CPU).counts
    assert counts is not None
    inner = counts[1, 0, 3:-3, 3:-3, 3:-3]
    assert float(inner[:55].min()) == 1
    assert float(counts[1, 0, 59:].max()) == 0  # a voxel of the cut one beside it
    assert float(counts[0, 0, 3:-3, 3:-3, 3:-3].min()) == 1


def test_lung_masks_restrict_what_counts_to_where_either_image_has_lung() -> None:
    masks = tuple(chest(breath)[1] for breath in (0.0, 20.0))
    free, masked = seen(chests()), seen(chests((masks[0], masks[1])))
    assert free.counts is not None
    assert masked.counts is not None
    either = masked.maps.amax(0) > 0.5
    assert float(masked.counts[:, either].min()) == 1
    assert float(masked.counts.mean()) < 0.8 * float(free.counts.mean())


def test_lungs_in_one_image_alone_are_no_map() -> None:
    image, _ = chest()
    subjects = Subjects((image, image), (None, None), (lungs.segment(image), None), "lung")
    assert subjects.regions is None
    assert subjects.align_by == subjects.views
    assert seen(subjects).maps.shape[1] == 0


def test_a_brain_is_seen_as_it_is_and_masks_count_only_if_given() -> None:
    brain = coarse_brain("moving", 3.0)
    mask = sitk.Cast(brain > 60, sitk.sitkUInt8)
    bare = Subjects((brain, brain), (None, None), (None, None), "brain")
    assert bare.views == (brain, brain)
    assert seen(bare).counts is None
    assert seen(bare).maps.shape[1] == 0
    masked = seen(Subjects((brain, brain), (mask, None), (None, None), "brain")).counts
    assert masked is not None
    assert 0 < float(masked[0].mean()) < 1 == float(masked[1].mean())


def test_an_image_that_its_border_cuts_counts_up_to_there_and_goes_on() -> None:
    whole = coarse_brain("moving", 3.0)
    slab = whole[:, :, whole.GetSize()[2] // 2 :]
    subjects = Subjects((slab, whole), (None, None), (None, None), "none")
    assert subjects.cut == (True, False)
    scene = seen(subjects)
    assert scene.counts is not None
    grid, low = scene.grid, Grid.of(slab).points(np.array([0.0, 0.0, -0.5]))[2]
    heights = np.array([grid.points(np.array([0.0, 0.0, k]))[2] for k in range(grid.size[2])])
    below = torch.from_numpy(heights < low - 4)
    assert below.any()
    assert float(scene.counts[0, 0][below].max()) == 0
    assert float(scene.counts[1].min()) == 1
    assert float(scene.pair[0, 0][below].mean()) > 0.05  # as at the border


def test_images_that_miss_each_other_are_refused() -> None:
    image, _ = chest()
    brain = sitk.Maximum(image, 0.0)
    away = sitk.AffineTransform(3)
    away.SetTranslation((1000.0, 0.0, 0.0))
    subjects = Subjects((brain, brain), (None, None), (None, None), "brain")
    with pytest.raises(GeometryError, match="no part of the moving image lies on the fixed image"):
        subjects.on(Grid.of(brain), away, CPU)


def test_a_chest_that_is_not_in_hounsfield_units_is_refused() -> None:
    image, _ = chest()
    shifted = image + 1024
    with pytest.raises(InputError, match="the fixed image is no CT in Hounsfield units"):
        Subjects((image, shifted), (None, None), (None, None), "lung")


def test_one_mask_of_two_chests_is_refused() -> None:
    image, mask = chest()
    with pytest.raises(UsageError, match="of two chests one has a mask"):
        Subjects((image, image), (mask, None), (None, None), "lung")


def test_a_mask_of_everything_is_a_mask() -> None:
    image, mask = chest()
    everything = mask * 0 + 1
    scene = seen(Subjects((image, image), (everything, everything), (None, None), "lung"))
    assert scene.counts is not None
    assert float(scene.counts.mean()) > 0.5


@pytest.mark.parametrize("roles", [(0.0, 40.0), (40.0, 0.0)])
def test_the_grid_holds_lungs_that_lie_deeper_in_the_moving_image_too(
    roles: tuple[float, float],
) -> None:
    moving, fixed = (chest(breath)[0] for breath in roles)
    subjects = Subjects(
        (moving, fixed), (None, None), (lungs.segment(moving), lungs.segment(fixed)), "lung"
    )
    grid = subjects.grid(IDENTITY, 4.0, 0.0, 1)
    assert subjects.regions is not None
    lowest = min(Grid.of(v).points(content_box(v)[0])[2] for v in subjects.regions)
    assert grid.origin[2] == pytest.approx(max(lowest - NEAR_MM, fixed.GetOrigin()[2]), abs=4.0)


def test_even_sampling_treats_all_places_alike() -> None:
    """Noise keeps one variance, and a straight slope its values, wherever the voxels lie."""
    noise = np.random.default_rng(0).normal(0.5, 0.05, (24, 24, 24)).astype(np.float32)
    slope = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32), noise.shape)
    grey = Intensities(0.0, 1.0, hounsfield=False)
    inner = (..., *(slice(4, -4),) * 3)

    def seen(values: np.ndarray, place: float, *, even: bool) -> np.ndarray:
        grid = Grid((24, 24, 24), (1.0,) * 3, (place,) * 3, tuple(np.eye(3).ravel().tolist()))
        image = sitk.GetImageFromArray(np.ascontiguousarray(values))
        return resample_image(image, grid, None, grey, even=even)[inner].numpy()

    spread = {
        even: [seen(noise, place, even=even).std() for place in (0.0, 0.25, 0.5)]
        for even in (False, True)
    }
    assert max(spread[True]) < 1.15 * min(spread[True])
    assert max(spread[False]) > 2.5 * min(spread[False])
    expected = slope[inner[1:]] + 0.3 * 0.8 / 23
    assert np.allclose(seen(slope, 0.3, even=True)[0, 0], expected, atol=1e-5)
