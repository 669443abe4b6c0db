"""examples/find_brains.py counts what of a brain lies outside of what hsyn finds."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from test_examples import load_with_others


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    yield from load_with_others("find_brains.py")


def test_a_brain_on_a_part_of_the_grid_is_compared_with_all_of_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    brain = np.zeros((40, 40, 40), bool)
    brain[10:30, 10:30, 10:30] = True
    inside = np.zeros_like(brain)
    inside[8:32, 8:32, 8:32] = True
    values = np.random.default_rng(0).uniform(50, 100, brain.shape).astype(np.float32)
    head = sitk.GetImageFromArray(values)
    cut = np.zeros_like(brain)
    cut[15:32, 8:32, 8:32] = True  # without five slices of the brain; three are 2 mm away and more
    found = sitk.GetImageFromArray(cut.astype(np.uint8))[4:36, 5:35, 6:36]
    monkeypatch.setattr(script, "find_brain", lambda image: found)
    dice = 2 * cut.sum() / (cut.sum() + inside.sum())
    assert script.row(head, inside, brain) == ["0.01", f"{dice:.3f}", "25.00 %", "15.00 %"]
    assert script.row(head, None, brain)[1] == ""
    monkeypatch.setattr(script, "find_brain", lambda image: None)
    assert script.row(head, inside, brain) == ["none", "", "", ""]
