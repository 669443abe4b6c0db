"""Damaged files: refused in one line, or read as what they mean. examples/fuzz.py runs longer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from fuzzing import runs, verdict
from fuzzing.cases import reader_cases
from fuzzing.model import LPS, Array, Case, Expected
from fuzzing.warm import Outcome, Warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and limits as on Linux")
SHOWN = 5


@pytest.fixture(scope="module")
def reader() -> Iterator[Warm]:
    warm = Warm("reader")
    yield warm
    warm.close()


def failures(examples: Iterator[runs.Example]) -> str:
    """The first failing seeds; python examples/fuzz.py --seed N --reader 1 makes one again."""
    found = (str(example) for example in examples if example.problem)
    return "\n".join(line for line, _ in zip(found, range(SHOWN), strict=False))


@pytest.mark.slow
def test_the_reader_takes_no_damage(reader: Warm) -> None:
    assert failures(runs.reader(reader, range(450))) == ""


@pytest.mark.slow
def test_commands_take_no_damage() -> None:
    warm = Warm("commands")
    assert failures(runs.command_lines(warm, range(20))) == ""
    warm.close()


def test_a_seed_makes_the_same_example_again() -> None:
    first, again = (runs.maker(reader_cases())(7) for _ in range(2))
    assert first.files == again.files
    assert repr(first) == repr(again)


VALUES: Array = np.arange(60.0, dtype=np.float64).reshape(3, 4, 5)
CASE = Case("nifti1", "", {"x.nii": b"1"}, "x.nii", "any", (Expected(VALUES, np.eye(4)),), True)
ANSWER = {"state": "read", "values": VALUES, "affine": LPS, "size": (3, 4, 5), "said": ""}


def test_what_was_written_is_fine() -> None:
    assert verdict.judge(CASE, Outcome(ANSWER)) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"values": VALUES + 1e-3}, "wrong values"),
        ({"values": VALUES * np.nan}, "read values that are not finite"),
        ({"values": VALUES[..., None]}, "wrong shape"),
        ({"size": (5, 4, 3)}, "wrong size"),
        ({"affine": np.eye(4)}, "wrong geometry"),
        ({"sha256": "of a twin"}, "hash of something else"),
        ({"said": "** ERROR"}, "says something besides"),
        ({"state": "raised", "error": "KeyError", "where": "x.py:f", "message": ""}, "raised"),
        ({"state": "refused", "message": "x.nii", "hint": "", "code": 3}, "refused what is right"),
    ],
)
def test_each_fault_is_noticed(answer: dict[str, object], kind: str) -> None:
    problem = verdict.judge(CASE, Outcome({**ANSWER, **answer}))
    assert problem is not None
    assert problem.kind.startswith(kind)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"message": "x.nii is\nbad"}, "message of several lines, or long"),
        ({"message": "the file is bad"}, "message without the file"),
        ({"code": 1}, "exit code"),
        ({"error": "MemoryLimitError"}, "memory"),
    ],
)
def test_each_fault_of_a_refusal_is_noticed(answer: dict[str, object], kind: str) -> None:
    refusal = {"state": "refused", "error": "InputError", "message": "x.nii", "hint": "", "code": 3}
    case = dataclasses.replace(CASE, must=False)
    assert verdict.judge(case, Outcome(refusal)) is None
    problem = verdict.judge(case, Outcome({**refusal, **answer}))
    assert problem is not None
    assert problem.kind == kind


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome({}, signal=11), "died of signal 11"),
        (Outcome({}, signal=14, seconds=21), "hang"),
        (Outcome(ANSWER, memory_mb=2000), "memory"),
    ],
)
def test_each_end_is_noticed(outcome: Outcome, kind: str) -> None:
    problem = verdict.judge(CASE, outcome)
    assert problem is not None
    assert problem.kind == kind


def test_a_child_that_hangs_or_dies_harms_no_other(reader: Warm) -> None:
    """A file that is no file of a case makes the child fail; a limit of no time ends it."""
    good = runs.maker(reader_cases())(7)
    assert reader(good, seconds=0.0).signal == 14
    assert reader(dataclasses.replace(good, name="no such file")).answer["state"] == "refused"
    assert reader(good).answer["state"] in ("read", "refused")
