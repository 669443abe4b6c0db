"""`hsyn ants apply` beside antsApplyTransforms, both with the same words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, blocks, grid, scan, waves

from hsyn_cli.cli import run
from hsyn_cli.io import writing
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space import Grid
from hsyn_cli.tools.apply import Settings, move
from hsyn_cli.tools.chain import read_any

FIXED, MOVING = grid("oblique"), grid("flipped", (13, 18, 11), 1.6)
CHAIN = ("-r", "f.nii.gz", "-t", "w.nii.gz", "-t", "[a.mat,0]")
Ants = Callable[..., int]


@pytest.fixture(scope="module")
def ants() -> Ants:
    """antsApplyTransforms with these words."""
    from ants.internal import get_lib_fn

    program = get_lib_fn("antsApplyTransforms")
    return lambda *words: program(["-d", "3", *words])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images m (mi: whole numbers), labels l, a series s, vectors v, two channels c; chains."""
    monkeypatch.chdir(tmp_path)
    files = {
        "m": scan(MOVING),
        "mi": sitk.Cast(scan(MOVING), sitk.sitkInt16),
        "l": blocks(MOVING),
        "v": waves(MOVING),
        "c": MOVING.stamp(sitk.Compose([scan(MOVING, k) for k in range(2)])),
        "f": FIXED.empty_image(sitk.sitkUInt8),
        "w": waves(FIXED),
    }
    for name, image in files.items():
        writing.write_image(image, Path(f"{name}.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([scan(MOVING, k) for k in range(3)]), "s.nii.gz")
    write_transform(AFFINE, Path("a.mat"))
    return tmp_path


def test_a_chain_that_moves_nothing(
    here: Path, ants: Ants, capfd: pytest.CaptureFixture[str]
) -> None:
    still = ("-r", "f.nii.gz", "-t", "identity", "-o")
    assert apply(*still, "[z.nii.gz,1]", "-n", "GenericLabel") == 0
    assert "note: -i, -e, -u, -n and -f say nothing" in capfd.readouterr().err
    assert not sitk.GetArrayFromImage(sitk.ReadImage("z.nii.gz")).any()
    assert apply("-t", "[Identity,1]", *still, "Linear[z.mat]") == 0
    assert capfd.readouterr().err == ""
    assert sitk.ReadTransform("z.mat").TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)


def apply(*words: str) -> int:
    return run(["ants", "apply", "-d", "3", *words])


def both(ants: Ants, *words: str, ending: str = ".nii.gz") -> tuple[sitk.Image, sitk.Image]:
    """The outputs of hsyn and of ANTs; `{}` in a word is the output's name."""
    theirs, ours = ("ants" + ending, "hsyn" + ending)
    assert ants(*(word.format(theirs) for word in words)) == 0
    assert apply(*(word.format(ours) for word in words)) == 0
    mine, other = sitk.ReadImage(ours), sitk.ReadImage(theirs)
    assert mine.GetSize() == other.GetSize()
    if mine.GetDimension() == 3:
        assert Grid.of(mine).same_as(Grid.of(other))
    return mine, other


def away(mine: sitk.Image, other: sitk.Image) -> float:
    """The largest difference as a share of the range."""
    ours, theirs = (sitk.GetArrayFromImage(image).astype(float) for image in (mine, other))
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize(
    "how",
    [
        "Linear", "BSpline", "BSpline[1]", "BSpline[2]", "BSpline[4]", "BSpline[5]", "Gaussian",
        "Gaussian[1.3,2.5]", "Gaussian[1x2x1.5,2]", "CosineWindowedSinc", "WelchWindowedSinc",
        "HammingWindowedSinc", "LanczosWindowedSinc",
    ],
)  # fmt: skip
def test_images_are_those_of_ants(here: Path, ants: Ants, how: str) -> None:
    pair = both(ants, "-i", "m.nii.gz", *CHAIN, "-n", how, "-o", "{}", "-f", "-20")
    assert away(*pair) < 1e-6


@pytest.mark.parametrize(
    "how",
    [
        "NearestNeighbor", "GenericLabel", "GenericLabel[Linear]", "MultiLabel", "MultiLabel[1.1]",
        "MultiLabel[1.1,2]", "MultiLabel[0.7x1x2,4.0]",
    ],
)  # fmt: skip
def test_labels_are_those_of_ants(here: Path, ants: Ants, how: str) -> None:
    mine, other = both(ants, "-i", "l.nii.gz", *CHAIN, "-n", how, "-o", "{}")
    assert mine.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(other))
    assert len(np.unique(sitk.GetArrayFromImage(mine))) == 7


@pytest.mark.parametrize("how", ["MultiLabel", "MultiLabel[0.3]"])
def test_a_label_for_each_voxel_moves_as_in_ants(here: Path, ants: Ants, how: str) -> None:
    """More labels than voxels within reach, and the progress inside one image."""
    ids = np.random.default_rng(0).permutation(np.prod(MOVING.size)).astype(np.int32)
    image = MOVING.stamp(sitk.GetImageFromArray(ids.reshape(MOVING.size[::-1])))
    writing.write_image(image, Path("u.nii.gz"))
    mine, other = both(ants, "-i", "u.nii.gz", *CHAIN, "-n", how, "-o", "{}")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(other))
    shares: list[float] = []
    settings = Settings("multilabel")
    move(image, FIXED, read_any(["w.nii.gz", "a.mat"]).transform, settings, shares.append)
    assert shares == sorted(shares)
    assert len(shares) > 1
    assert shares[-1] == 1


@pytest.mark.parametrize("kind", ["uchar", "short", "int", "float", "double"])
def test_pixel_types_are_those_of_ants_but_rounded(here: Path, ants: Ants, kind: str) -> None:
    mine, other = both(ants, "-i", "mi.nii.gz", *CHAIN, "-u", kind, "-o", "{}")
    assert mine.GetPixelID() == other.GetPixelID()
    exact = sitk.GetArrayFromImage(both(ants, "-i", "mi.nii.gz", *CHAIN, "-o", "{}")[1])
    values = sitk.GetArrayFromImage(mine)
    expected = np.rint(exact) if values.dtype.kind in "iu" else exact
    assert np.abs(values - expected).max() < 1e-4


@pytest.mark.parametrize(
    "words",
    [
        ("-t", "w.nii.gz", "a.mat", "-o", "{}"),
        ("-t", "[", "a.mat", ",", "1", "]", "-o", "[", "{}", ",0", "]"),
        ("-ta.mat", "-nLinear", "-o{}", "-v0"),
        ("-t", "identity", "-o", "{}", "--float"),
        ("-o", "{}", "--float", "1", "-v", "0"),
        ("--transform", "a.mat", "--output", "{}", "--interpolation", "Linear", "--default-value",
         "5", "--output-data-type", "float", "--input-image-type", "scalar", "--verbose", "0"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_words_are_taken_as_ants_takes_them(here: Path, ants: Ants, words: tuple[str, ...]) -> None:
    if words[0].startswith("-ta"):  # the shell's way, which ANTs does not know
        long = ("-t", "a.mat", "-n", "Linear", "-o", "ants.nii.gz")
        assert ants("-i", "m.nii.gz", "-r", "f.nii.gz", *long) == 0
        assert apply("-im.nii.gz", "-rf.nii.gz", *(w.format("hsyn.nii.gz") for w in words)) == 0
        pair = sitk.ReadImage("hsyn.nii.gz"), sitk.ReadImage("ants.nii.gz")
    else:
        pair = both(ants, "-i", "m.nii.gz", "-r", "f.nii.gz", *words)
    assert away(*pair) < 1e-6


def test_a_series_and_channels_are_those_of_ants(here: Path, ants: Ants) -> None:
    mine, other = both(ants, "-i", "s.nii.gz", "-e", "3", *CHAIN, "-o", "{}")
    assert mine.GetSize() == (*FIXED.size, 3)
    assert away(mine, other) < 1e-6
    assert away(*both(ants, "-i", "c.nii.gz", "-e", "4", *CHAIN, "-o", "{}")) < 1e-6


@pytest.mark.parametrize("kind", ["1", "6"])
def test_vectors_are_those_of_ants(here: Path, ants: Ants, kind: str) -> None:
    words = ("-i", "v.nii.gz", "-e", kind, "-r", "f.nii.gz", "-t", "a.mat", "-o", "{}")
    mine, other = both(ants, *words)
    assert away(mine, other) < 1e-6
    mine, other = both(ants, *words, "-t", "w.nii.gz")  # whose derivatives ANTs finds less well
    ours, theirs = (sitk.GetArrayFromImage(image).astype(float) for image in (mine, other))
    inside = np.linalg.norm(theirs, axis=-1) > 0.1
    turn = np.linalg.norm(ours - theirs, axis=-1)[inside] / np.linalg.norm(theirs, axis=-1)[inside]
    assert np.median(turn) < np.radians(3)


@pytest.mark.parametrize("form", ["[{},1]", "DisplacementField[{}]"])
def test_a_chain_becomes_a_field(here: Path, ants: Ants, form: str) -> None:
    mine, other = both(ants, *CHAIN, "-o", form)
    assert away(mine, other) < 1e-6
    assert apply("-i", "m.nii.gz", "-r", "f.nii.gz", "-t", "ants.nii.gz", "-o", "1.nii.gz") == 0
    assert apply("-i", "m.nii.gz", *CHAIN, "-o", "2.nii.gz") == 0
    assert away(sitk.ReadImage("1.nii.gz"), sitk.ReadImage("2.nii.gz")) < 1e-3


@pytest.mark.parametrize("form", ["Linear[{}]", "Linear[{},1]"])
def test_a_linear_chain_becomes_one_transform(here: Path, ants: Ants, form: str) -> None:
    sitk.WriteTransform(sitk.Euler3DTransform((1, 2, 3), 0.2, 0, 0.1, (3, 4, 5)), "b.mat")
    words = ("-t", "a.mat", "-t", "[b.mat,1]", "-o")
    assert ants(*words, form.format("ants.mat")) == 0
    assert apply(*words, form.format("hsyn.mat")) == 0
    mine, other = sitk.ReadTransform("hsyn.mat"), sitk.ReadTransform("ants.mat")
    for point in np.eye(3) * 40:
        np.testing.assert_allclose(
            mine.TransformPoint(point), other.TransformPoint(point), atol=1e-9
        )


@pytest.mark.parametrize("turn", ["a.mat", "[a.mat,1]"])
@pytest.mark.parametrize("how", ["Gaussian", "Gaussian[1.5]", "NearestNeighbor", "MultiLabel"])
def test_ties_fall_as_in_ants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ants: Ants, turn: str, how: str
) -> None:
    """Round numbers take voxels exactly to the cut and to borders between voxels."""
    monkeypatch.chdir(tmp_path)
    fixed, moving = (
        Grid((32, 32, 32), (4.0, 5.0, 4.5), origin, tuple(np.eye(3).ravel()))
        for origin in ((-60.0, -70.0, -50.0), (-58.0, -66.0, -52.0))
    )
    image = blocks(moving) if how == "MultiLabel" else sitk.Cast(scan(moving), sitk.sitkInt16)
    writing.write_image(image, Path("m.nii.gz"))
    writing.write_image(fixed.empty_image(sitk.sitkUInt8), Path("f.nii.gz"))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05, 0.1, 0, -0.1, 0.95, 0.05, 0, 0, 1.02))
    affine.SetTranslation((3, -2, 4))
    affine.SetCenter((5, 6, 7))
    sitk.WriteTransform(affine, "a.mat")
    words = ("-i", "m.nii.gz", "-r", "f.nii.gz", "-t", turn, "-n", how, "-o", "{}")
    assert away(*both(ants, *words)) < 1e-6


def test_two_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ants: Ants) -> None:
    from ants.internal import get_lib_fn

    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(scan(MOVING)[:, :, 5], "m.nii.gz")
    sitk.WriteTransform(sitk.Euler2DTransform((1, 2), 0.2, (3, -2)), "a.mat")
    words = ("-d", "2", "-i", "m.nii.gz", "-r", "m.nii.gz", "-t", "a.mat", "-n", "Gaussian", "-o")
    assert get_lib_fn("antsApplyTransforms")([*words, "ants.nii.gz"]) == 0
    assert run(["ants", "apply", *words, "hsyn.nii.gz"]) == 0
    assert away(sitk.ReadImage("hsyn.nii.gz"), sitk.ReadImage("ants.nii.gz")) < 1e-6
    assert apply("-i", "m.nii.gz", "-r", "m.nii.gz", "-t", "a.mat", "-o", "o.nii.gz") == 2


def test_it_replaces_what_exists_and_is_silent_unless_asked(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("-i", "m.nii.gz", *CHAIN, "-o", "o.nii.gz")
    assert apply(*words) == 0
    assert capfd.readouterr() == ("", "")
    assert apply(*words, "-v", "1") == 0
    assert capfd.readouterr() == ("m.nii.gz w.nii.gz [a.mat,0] -> o.nii.gz\n", "")
    assert apply(*words, "-n", "MultiLabel[1,2]") == 3  # no labels
    assert "fractional" in capfd.readouterr().err


REFUSED = {
    "a series": (3, "s.nii.gz holds 3 volumes", ["-i", "s.nii.gz", *CHAIN]),
    "vectors": (3, "holds 3 numbers per voxel", ["-i", "v.nii.gz", *CHAIN]),
    "no vectors": (3, "holds one number per voxel", ["-i", "m.nii.gz", "-e", "1", *CHAIN]),
    "two channels": (3, "holds 2 numbers", ["-i", "c.nii.gz", "-e", "6", *CHAIN]),
    "tensors": (2, "-e 2: hsyn cannot move", ["-i", "v.nii.gz", "-e", "2", *CHAIN]),
    "no input": (2, "-i is missing", [*CHAIN]),
    "no reference": (2, "-r is missing", ["-i", "m.nii.gz", "-t", "a.mat"]),
    "a field turned round": (2, "only linear", ["-im.nii.gz", "-rf.nii.gz", "-t[w.nii.gz,1]"]),
    "no number": (2, "give 0, or 1 to invert", ["-im.nii.gz", "-rf.nii.gz", "-t[a.mat,true]"]),
    "an open bracket": (2, "[a.mat,1: the bracket is not", ["-t", "[a.mat,1", "-o", "b.nii"]),
    "a small type": (2, "do not fit into int8", ["-i", "mi.nii.gz", *CHAIN, "-u", "char"]),
    "a fraction for labels": (2, "is no value", ["-i", "l.nii.gz", *CHAIN, "-n", "GenericLabel",
                                                 "-f", "0.5"]),
    "no sigma": (2, "cannot have the sigma 0", ["-i", "m.nii.gz", *CHAIN, "-n", "Gaussian[0]"]),
    "NaN": (2, "no sigma and alpha", ["-i", "m.nii.gz", *CHAIN, "-n", "Gaussian[nan]"]),
    "endless": (2, "no sigma and alpha", ["-i", "m.nii.gz", *CHAIN, "-n", "Gaussian[inf]"]),
    "no number for labels": (2, "no sigma and alpha", ["-i", "l.nii.gz", *CHAIN, "-n",
                                                       "MultiLabel[nan]"]),
    "too far": (2, "reaches 3.1", ["-i", "l.nii.gz", *CHAIN, "-n", "MultiLabel[1e30]"]),
    "too near": (2, "it reaches", ["-i", "m.nii.gz", *CHAIN, "-n", "Gaussian[1e-30]"]),
    "a composite": (2, "has no such output", [*CHAIN, "-o", "CompositeTransform[c.h5]"]),
    "a field named like a transform": (2, "does not end as an image", [*CHAIN, "-o", "[f.h5,1]"]),
    "a field as linear": (2, "is not linear", [*CHAIN, "-o", "Linear[o.mat]"]),
    "linear as an image": (2, "no name of a linear", ["-t", "a.mat", "-o", "Linear[o.nii.gz]"]),
    "an unknown flag": (2, "No such option", ["-i", "m.nii.gz", *CHAIN, "--time-index", "1"]),
    "an unknown type": (2, "is not one of", ["-i", "m.nii.gz", *CHAIN, "-u", "long"]),
    "two inputs": (2, "unexpected extra argument", ["-i", "m.nii.gz", "l.nii.gz", *CHAIN]),
    "itself": (5, "is an input", ["-i", "m.nii.gz", *CHAIN, "-o", "m.nii.gz"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, text, words = REFUSED[name]
    before = sorted(os.listdir())
    assert apply(*([] if "-o" in words else ["-o", "o.nii.gz"]), *words) == code
    captured = capfd.readouterr()
    assert text in captured.err
    assert captured.out == ""
    assert sorted(os.listdir()) == before
