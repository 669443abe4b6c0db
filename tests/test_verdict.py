"""What the verdict says of images that have little in common."""

from types import SimpleNamespace

import pytest
import SimpleITK as sitk

from hsyn_cli.method.result import Scores
from hsyn_cli.method.verdict import LEAST_INFORMATION, LEAST_UNMATCHED, problems


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 8, 1)])
@pytest.mark.parametrize("unmatched", [False, True])
@pytest.mark.parametrize(("found", "of_unmatched"), [(0.034, True), (0.05, True), (0.061, False)])
def test_volumes_without_a_match_need_more_in_common(
    size: tuple[int, int, int], unmatched: bool, found: float, of_unmatched: bool
) -> None:
    views = (sitk.Image(size, sitk.sitkFloat32),) * 2
    aligned = SimpleNamespace(
        affine=sitk.AffineTransform(3), unmatched=unmatched, subjects=SimpleNamespace(views=views)
    )
    scores, overlap = Scores(0.03, 0.2, found), Scores(0.9, 1.0, 1.0)
    told = problems(aligned, scores, overlap, SimpleNamespace(affine="affine"), 1.0)
    strict = unmatched and size[2] > 1
    assert bool(told) == (of_unmatched if strict else found < LEAST_INFORMATION)
    least = LEAST_UNMATCHED if strict else LEAST_INFORMATION
    assert all(f"that work have {least:g}" in line for line in told)
