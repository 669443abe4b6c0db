"""Where scans end: cut bodies beside padding and dark layers, and bodies that end on their own."""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import coarse_brain

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.borders import CUT, cut_faces, trimmed
from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.scene import prepare_subjects
from hsyn_cli.space import Grid


@pytest.fixture(scope="module")
def brain() -> sitk.Image:
    """Padded, 3 mm."""
    return coarse_brain("moving", 3.0)


def cut(image: sitk.Image, axis: int = 2, flip: bool = False) -> sitk.Image:
    """Half of an image, from its middle on."""
    n = image.GetSize()[axis]
    halves = [slice(None)] * 3
    halves[axis] = slice(None, n // 2) if flip else slice(n // 2, None)
    return image[halves[0], halves[1], halves[2]]


def padded(image: sitk.Image, axis: int, flip: bool, layers: int, noise: float = 0) -> sitk.Image:
    """With dark layers before the first face across an axis, or behind the last one."""
    wide = [layers * (k == axis) for k in range(3)]
    none = [0, 0, 0]
    out = sitk.ConstantPad(image, none if flip else wide, wide if flip else none, 0.0)
    values = sitk.GetArrayFromImage(out)
    draws = np.random.default_rng(0).random(values.shape, np.float32)
    values[values == 0] = noise * draws[values == 0]
    return Grid.of(out).stamp(sitk.GetImageFromArray(values))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("layers", "noise"), [(1, 0), (2, 3), (3, 3), (40, 0)])
def test_dark_layers_beyond_a_cut_are_taken_away(
    brain: sitk.Image, axis: int, flip: bool, layers: int, noise: float
) -> None:
    half = cut(brain, axis, flip)
    out = trimmed(padded(half, axis, flip, layers, noise))
    assert Grid.of(out).size == Grid.of(half).size
    np.testing.assert_allclose(Grid.of(out).corners(), Grid.of(half).corners(), atol=1e-4)
    assert cut_faces(out, read_intensities(out))[axis][flip] > CUT


def test_deep_noise_is_no_padding(brain: sitk.Image) -> None:
    deep = padded(cut(brain), 2, flip=False, layers=10, noise=3)
    assert trimmed(deep) is deep


def test_a_layer_that_is_half_dark_goes_too(brain: sitk.Image) -> None:
    half = cut(brain)
    values = sitk.GetArrayFromImage(half)
    values[0] *= np.random.default_rng(1).random(values[0].shape) < 0.3
    out = trimmed(padded(Grid.of(half).stamp(sitk.GetImageFromArray(values)), 2, False, 5))
    assert out.GetSize()[2] == half.GetSize()[2] - 1


def test_what_ends_on_its_own_stays(brain: sitk.Image) -> None:
    assert trimmed(brain) is brain
    whole = sitk.ConstantPad(brain, [7] * 3, [9] * 3, 0.0)
    assert trimmed(whole) is whole


@pytest.mark.parametrize(
    "shape", ["ball", "lying cylinder", "box", "box at a face", "square", "disc"]
)
def test_shapes_without_a_cut_stay(shape: str) -> None:
    flat = shape in ("square", "disc")
    z, y, x = np.mgrid[: 1 if flat else 60, :60, :60] - 29.5
    inside = {
        "ball": x**2 + y**2 + z**2 < 27**2,
        "lying cylinder": y**2 + z**2 < 27**2,
        "box": np.maximum(np.abs(z), np.maximum(np.abs(x), np.abs(y))) < 20,
        "box at a face": (z < 10) & (np.maximum(np.abs(x), np.abs(y)) < 20),
        "square": np.maximum(np.abs(x), np.abs(y)) < 20,
        "disc": x**2 + y**2 < 27**2,
    }[shape]
    image = sitk.GetImageFromArray(100 * inside.astype(np.float32))
    assert trimmed(image) is image


def test_a_scan_that_fills_its_layers_is_trimmed() -> None:
    values = np.random.default_rng(0).uniform(50, 100, (60, 64, 64)).astype(np.float32)
    values[:6] = values[54:] = 0
    assert trimmed(sitk.GetImageFromArray(values)).GetSize() == (64, 64, 48)


def test_the_working_grid_goes_on_beyond_a_cut_where_the_other_image_does(
    brain: sitk.Image,
) -> None:
    half = padded(cut(brain), 2, flip=False, layers=2, noise=3)
    looks = tuple(organs.look(image) for image in (brain, half))
    none = organs.find("none")
    grids = {}
    for name, images in {"half fixed": (brain, half), "half moving": (half, brain)}.items():
        subjects = prepare_subjects(images, (None, None), (looks[0], looks[1]), none, 99.5)
        assert subjects.cut == tuple(image is half for image in images)
        grids[name] = subjects.grid(sitk.AffineTransform(3), 3.0, 24.0, 4)
    low = {name: grid.corners()[:, 2].min() for name, grid in grids.items()}
    face = Grid.of(cut(brain)).corners()[:, 2].min()
    assert face - low["half fixed"] == pytest.approx(24 + 16 * 3, abs=4 * 3)
    assert low["half moving"] < low["half fixed"]
