"""The words of ANTs' command lines, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsyn_cli.cli.ants import words
from hsyn_cli.errors import UsageError


def test_brackets_are_one_word_and_a_flag_stands_before_each_value() -> None:
    typed = ["-o", "[", "a.nii.gz,", "1", "]", "-t", "[a.mat,", "1]", "w.nii.gz", "-f", "-3"]
    assert words.joined(typed) == ["-o", "[a.nii.gz,1]", "-t", "[a.mat,1]", "w.nii.gz", "-f", "-3"]
    several = words.repeated(["-t", "a", "b", "-i", "c", "-t", "d", "-f", "-3"], {"-t"})
    assert several == ["-t", "a", "-t", "b", "-i", "c", "-t", "d", "-f", "-3"]
    for typed in (["-t", "[a.mat,1", "-o", "b.nii.gz"], ["-o", "b.nii.gz", "-t", "[a.mat,", "1"]):
        with pytest.raises(UsageError, match=r"^\[a.mat,1: the bracket is not closed"):
            words.joined(typed)
    assert words.repeated(["-i", "c", "d"], {"-t"}) == ["-i", "c", "d"]  # click refuses it


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("o.nii.gz", ("image", "o.nii.gz", False)),
        ("[o.nii.gz, 0]", ("image", "o.nii.gz", False)),
        ("[o.nii.gz,1]", ("field", "o.nii.gz", False)),
        ("DisplacementField[o.nii.gz]", ("field", "o.nii.gz", False)),
        ("Linear[o.mat]", ("linear", "o.mat", False)),
        ("linear[ o.mat, 1 ]", ("linear", "o.mat", True)),
    ],
)
def test_outputs(typed: str, meant: tuple[str, str, bool]) -> None:
    assert words.output(typed) == words.Output(meant[0], Path(meant[1]), meant[2])


@pytest.mark.parametrize(
    "typed", ["[o.nii.gz]", "[o.nii.gz,2]", "CompositeTransform[o.h5]", "X[o]"]
)
def test_outputs_that_hsyn_lacks(typed: str) -> None:
    with pytest.raises(UsageError, match="hsyn has no such output"):
        words.output(typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Linear", ("linear",)),
        ("nearestneighbor", ("nearest",)),
        ("GenericLabel[Linear]", ("label",)),
        ("BSpline", ("bspline3",)),
        ("BSpline[5]", ("bspline5",)),
        ("HammingWindowedSinc", ("hamming",)),
        ("Gaussian[1x2x3,0.5]", ("gaussian", (1.0, 2.0, 3.0), 0.5)),
        ("MultiLabel[0.8,4.0]", ("multilabel", (0.8,), 4.0)),
    ],
)
def test_interpolations(typed: str, meant: tuple[object, ...]) -> None:
    assert words.interpolation(typed) == words.Interpolation(*meant)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "typed",
    [
        "BSpline[9]", "Cubic", "Linear[2]", "Gaussian[a]", "Gaussian[inf]", "Gaussian[1,nan]",
        "MultiLabel[]", "MultiLabel[1xnan]", "MultiLabel[1,inf]",
    ],
)  # fmt: skip
def test_interpolations_that_hsyn_lacks(typed: str) -> None:
    with pytest.raises(UsageError, match=r"^-n "):
        words.interpolation(typed)


def test_multilabel_has_the_cut_of_ants_and_says_so() -> None:
    told = words.interpolation("MultiLabel[0.8,2]")
    assert (told.sigma, told.alpha) == ((0.8,), None)
    assert "cut off at 4 sigmas" in told.note


def test_masks() -> None:
    a, b = Path("a"), Path("b")
    assert words.masks([], 3) == (None, None, "")
    assert words.masks(["a"], 3) == (a, None, "")
    assert words.masks(["a,b"], 3) == (a, b, "")
    assert words.masks(["NULL,b"], 3) == (None, b, "")
    assert words.masks(["a", "a"], 2) == (a, None, "")
    assert words.masks(["NULL", "NULL"], 2) == (None, None, "")
    counts = "the last -x counts in all 2 stages: "
    assert words.masks(["a,b", "NULL"], 2) == (None, None, counts + "no mask")
    assert words.masks(["NULL,b", "a"], 2) == (a, None, counts + "the fixed mask a")
    for each in (["NULL", "a,b"], ["b", "a,b"]):
        both = "the fixed mask a and the moving mask b"
        assert words.masks(each, 2) == (a, b, counts + both)
    with pytest.raises(UsageError, match="given 2 times, and the registration has 3 stages"):
        words.masks(["a", "b"], 3)
    with pytest.raises(UsageError, match="more than two masks"):
        words.masks(["a,b,c"], 3)


def test_starts() -> None:
    s, so = words.kind("s"), words.kind("so")
    assert words.starts([], s) == (None, "")
    assert words.starts(["Identity"], s) == words.starts(["[ identity, 1 ]"], s) == ((), "")
    assert words.starts(["[identity,2]"], s) == (("[identity,2]",), "")  # `chain.parse` refuses it
    assert words.starts(["a.mat", "[b.mat,1]"], so) == (("a.mat", "[b.mat,1]"), "")
    found, note = words.starts(["[f.nii,m.nii,1]"], s)
    assert found is None
    assert "tries the centres itself" in note
    assert words.starts(["Identity", "[f,m,1]"], s)[0] is None
    for typed in (["[f,m,1]", "r.mat"], ["r.mat", "[f,m,1]"], ["[f,m,1]", "[f,m,0]"]):
        with pytest.raises(UsageError, match="no centres beside another -i"):
            words.starts(typed, s)
    with pytest.raises(UsageError, match="does not align centres alone"):
        words.starts(["[f.nii,m.nii,1]"], so)


def test_kinds_that_hsyn_lacks_are_named() -> None:
    for text, instead in words.SPLINES.items():
        with pytest.raises(UsageError, match=f"-t {text}: hsyn has no B-spline SyN") as caught:
            words.kind(text)
        assert caught.value.hint == f"give -t {instead}"
    with pytest.raises(UsageError, match="-t S: no such type"):
        words.kind("S")


@pytest.mark.parametrize("typed", ["2", "5", "tensor", "7"])
def test_images_that_hsyn_cannot_move(typed: str) -> None:
    with pytest.raises(UsageError, match=f"-e {typed}: hsyn cannot move such images"):
        words.holds(typed)
