"""What an image is taken for, the checkpoint that follows.

And what is said where they do not fit.
"""

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, EXAMPLES, chest

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.organs import OTHER, checkpoint_for, look
from hsyn_cli.anatomy.organs.brain import BRAIN, HEAD
from hsyn_cli.anatomy.organs.lung import CHEST
from hsyn_cli.config import presets
from hsyn_cli.errors import InputError
from hsyn_cli.space import Grid


@pytest.mark.parametrize(("radius", "expected"), [(65.0, BRAIN), (90.0, HEAD), (145.0, OTHER)])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 3.0, 11.0)])
def test_brains_heads_and_more_are_told_by_their_volume(
    radius: float, expected: str, spacing: tuple[float, float, float]
) -> None:
    """Balls of 1.2, 3.1 and 12.8 litres on a noisy ground."""
    size = tuple(int(300 / s) for s in spacing)
    grid = Grid(size, spacing, (0.0, 0.0, 0.0), DIRECTIONS["LPS"])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij"), -1)[..., ::-1]
    away = np.linalg.norm((index - (np.array(size) - 1) / 2) * spacing, axis=-1)
    values = np.where(away < radius, 100.0, np.random.default_rng(0).uniform(0, 5, away.shape))
    found = look(grid.stamp(sitk.GetImageFromArray(values.astype(np.float32))))
    assert (found.kind, found.region) == (expected, None)


def test_a_chest_is_told_by_its_lungs_and_a_ct_without_is_neither() -> None:
    image, _ = chest()
    assert look(image).kind == CHEST
    assert look(image).region is not None
    assert (
        look(sitk.Maximum(image, -100) + sitk.Cast(image < -900, image.GetPixelID()) * -900).kind
        == OTHER
    )


@pytest.mark.parametrize(
    ("model", "shown", "expected"),
    [
        ("auto", (BRAIN, BRAIN), "brain-t1"),
        (None, (BRAIN, HEAD), "brain-t1"),
        ("auto", (CHEST, CHEST), "lung-ct"),
        ("auto", (OTHER, CHEST), "none"),
        ("auto", (OTHER, OTHER), "none"),
        ("none", (BRAIN, BRAIN), "none"),
        ("brain", (CHEST, CHEST), "brain-t1"),
        ("lung", (BRAIN, BRAIN), "lung-ct"),
        ("my/own.safetensors", (CHEST, BRAIN), "my/own.safetensors"),
    ],
)
def test_the_checkpoint_goes_by_what_is_shown_unless_one_is_asked_for(
    model: str | None, shown: tuple[str, str], expected: str
) -> None:
    assert checkpoint_for(model, dict(zip(("moving", "fixed"), shown, strict=True))) == expected


def test_two_organs_are_refused_unless_a_model_is_named() -> None:
    shown = {"moving": CHEST, "fixed": HEAD}
    with pytest.raises(
        InputError,
        match="the moving image looks like a chest CT and the fixed image looks like a whole head",
    ):
        checkpoint_for("auto", shown)
    assert organs.warnings("lung-ct", shown) == [
        "the fixed image looks like a whole head, which lung-ct was not trained for"
    ]


def test_a_wrong_organ_is_warned_about_and_other_checkpoints_are_not_judged() -> None:
    both = {"moving": OTHER, "fixed": OTHER}
    assert len(organs.warnings("brain-t1", both)) == 2
    assert organs.warnings("mine", both) == []
    assert organs.warnings("brain-t1", {"moving": HEAD, "fixed": BRAIN}) == []


def test_every_organ_is_described() -> None:
    assert set(organs.names()) == {"brain", "lung", "none"}
    assert set(organs.shipped()) == {"brain", "lung"}
    for organ in organs.names():
        assert organs.find(organ).kinds or organ == "none"
        assert all(presets.find(name, organ).about for name in presets.names())
    assert presets.names() == ["fast", "default", "accurate"]


def test_a_stripped_brain_and_a_head_are_remarked_on() -> None:
    (line,) = organs.remarks({"moving": HEAD, "fixed": BRAIN})
    assert "skull-strip both images or neither" in line
    assert organs.remarks({"moving": HEAD, "fixed": HEAD}) == []


def test_a_brain_that_is_not_t1_gets_no_networks() -> None:
    """White matter is brighter than the grey matter around it in T1 alone, at any bias."""
    brain = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    brain = sitk.BinShrink(brain, [2, 2, 2])
    values = sitk.GetArrayFromImage(brain)

    def drawn(shown: np.ndarray) -> sitk.Image:
        return Grid.of(brain).stamp(sitk.GetImageFromArray(shown.astype(np.float32)))

    ramp = np.linspace(1, 2, values.shape[1])[:, None]
    biased, flat = drawn(values * ramp), drawn(np.where(values > 10, 100, 0))
    inverted = drawn(np.where(values > 10, 1.1 * values.max() - values, 0))
    shown = {"moving": BRAIN, "fixed": BRAIN}
    for one, other, expected in (
        (brain, biased, "brain-t1"),
        (brain, inverted, "none"),
        (inverted, inverted, "none"),
        (flat, biased, "brain-t1"),  # too flat to tell
    ):
        assert look(one).kind == look(other).kind == BRAIN
        assert checkpoint_for("auto", shown, (one, other)) == expected
    assert checkpoint_for("brain", shown, (inverted, inverted)) == "brain-t1"
