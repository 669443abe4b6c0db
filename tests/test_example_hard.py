"""examples/hard_pairs.py makes the pairs that it names."""

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from test_examples import load_with_others


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    yield from load_with_others("hard_pairs.py")


@pytest.fixture(scope="module")
def images(script: ModuleType) -> SimpleNamespace:
    """The example pair."""
    return SimpleNamespace(
        moving=script.read("brain", "moving"), fixed=script.read("brain", "fixed")
    )


def test_twenty_kinds_of_pairs_cannot_work(script: ModuleType, images: SimpleNamespace) -> None:
    found = {name: (pair, options) for name, pair, options in script.impossible(images)}
    assert len(found) == 20
    assert {name for name, (_, options) in found.items() if options} == {
        "20 mm off, not aligned",
        "20 degrees off, not aligned",
        "both off, not aligned",
    }
    moving, fixed = (sitk.GetArrayViewFromImage(v) for v in (images.moving, images.fixed))
    for name, (pair, _) in found.items():
        same = [
            np.array_equal(sitk.GetArrayViewFromImage(image), values)
            and image.GetSpacing() == (1.0, 1.0, 1.0)
            for image, values in zip(pair, (moving, fixed), strict=True)
        ]
        assert not all(same), name


def test_a_turned_image_shows_the_same_at_other_points(
    script: ModuleType, images: SimpleNamespace
) -> None:
    turned = script.turned(images.moving, (0, 0, 90), 300.0)
    middle = np.array(script.middle_of(images.moving))
    np.testing.assert_allclose(script.middle_of(turned), middle + 300)
    step = np.array(images.moving.TransformIndexToPhysicalPoint((0, 0, 0))) - middle
    to = np.array(turned.TransformIndexToPhysicalPoint((0, 0, 0))) - middle - 300
    np.testing.assert_allclose(to, (-step[1], step[0], step[2]), atol=1e-6)
