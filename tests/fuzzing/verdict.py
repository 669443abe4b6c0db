"""What is wrong with an outcome, as a kind and a detail; None if nothing is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuzzing.model import LPS, Array, Case, Expected
from fuzzing.oracle import by_nibabel, corners_apart
from fuzzing.warm import ALLOWED_MB, HANG_SECONDS, MB, Outcome

FIELD_MM = 1e-3


@dataclass(frozen=True)
class Problem:
    """`kind`: for the summary. `detail`: one line."""

    kind: str
    detail: str


def judge(case: Case, outcome: Outcome) -> Problem | None:
    """The first thing that is wrong with a reading."""
    with np.errstate(all="ignore"):
        return next(_problems(case, outcome), None)


def _problems(case: Case, outcome: Outcome) -> Iterator[Problem]:
    answer = outcome.answer
    size_mb = sum(map(len, case.files.values())) / MB
    if outcome.seconds > HANG_SECONDS or outcome.signal == 14:
        yield Problem("hang", f"{outcome.seconds:.1f} s")
    if not answer:
        yield Problem(f"died of signal {outcome.signal}", outcome.said[-300:])
        return
    if answer["state"] == "raised":
        yield Problem(f"raised {answer['error']} in {answer['where']}", answer["message"])
    if outcome.memory_mb > ALLOWED_MB + size_mb or answer.get("error") in (
        "MemoryLimitError",
        "MemoryError",
    ):
        yield Problem("memory", f"{outcome.memory_mb:.0f} MB; {answer.get('message', '')}")
    if answer.get("said"):
        yield Problem("says something besides", answer["said"][:300])
    if answer["state"] == "refused":
        yield from _refused(case, answer)
    elif answer["state"] == "read":
        yield from _read(case, outcome)


def _refused(case: Case, answer: dict[str, Any]) -> Iterator[Problem]:
    text = answer["message"]
    if case.must:
        yield Problem("refused what is right", f"{text} | {answer['hint']}")
    if "\n" in text or "\n" in answer["hint"] or len(text) > 700:
        yield Problem("message of several lines, or long", repr(text[:300]))
    if not any(name in text for name in (*case.files, case.name, case.name.split(".")[0] + ".")):
        yield Problem("message without the file", repr(text[:300]))
    if answer["code"] not in range(2, 10):
        yield Problem("exit code", str(answer["code"]))


def _read(case: Case, outcome: Outcome) -> Iterator[Problem]:
    answer = outcome.answer
    if answer.get("no_series"):
        if case.must:
            yield Problem("refused what is right", "no series")
        return
    own = hashlib.sha256(case.files[case.name]).hexdigest()
    if "sha256" in answer and len(case.files) == 1 and answer["sha256"] != own:
        yield Problem("hash of something else", answer["sha256"])
    for number in ("values", "affine", "points"):
        if number in answer and not np.isfinite(answer[number]).all():
            yield Problem(f"read {number} that are not finite", "")
            return
    if case.accepted is None:
        return
    if "points" in answer:
        yield from _points(case, answer["points"])
        return
    choices = list(case.accepted)
    if case.oracle and outcome.oracles.get("nibabel"):
        choices = by_nibabel(case, outcome.oracles)
    elif case.oracle:  # ITK may take a header that nibabel refuses
        choices += [Expected(choice.values, None) for choice in choices]
        if case.use == "grid" or ", " in case.change:
            return  # the voxels may be missing; another change may have its meaning
    if not choices:
        yield Problem("read what must be refused", f"size {answer['size']}")
        return
    reasons = [_differs(case, answer, choice, outcome.oracles) for choice in choices]
    if all(reasons):
        origin = "" if not case.oracle else _origin(outcome.oracles)
        yield Problem(f"{reasons[0].split(':')[0]}{origin}", "; ".join(dict.fromkeys(reasons)))


def _origin(oracles: dict[str, Any]) -> str:
    return " (nibabel reads it)" if oracles.get("nibabel") else " (nibabel refuses it)"


def _points(case: Case, points: Array) -> Iterator[Problem]:
    assert case.accepted is not None
    apart = [float(np.abs(points - choice.values).max()) for choice in case.accepted]
    if not apart:
        yield Problem("read what must be refused", str(points[0]))
    elif min(apart) > 1e-3:
        yield Problem("wrong transform", f"{min(apart):.4g} mm at its best")


def _differs(case: Case, answer: dict[str, Any], choice: Expected, oracles: dict[str, Any]) -> str:
    """Why an answer is not `choice`; "" if it is."""
    size = choice.values.shape[:3]
    if tuple(answer["size"]) != tuple(size):
        return f"wrong size: {answer['size']}, not {size}"
    affine = case.by_itk(oracles) if choice.affine is None else LPS @ choice.affine
    if affine is not None:
        apart, allowed = corners_apart(answer["affine"], affine, size)
        if not apart <= max(allowed, _rounded_by_itk(answer["affine"], affine, size, oracles)):
            return f"wrong geometry: corners {apart:.4g} mm apart"
    if "values" not in answer:
        return ""
    values = answer["values"].astype(np.float64)
    if values.shape != choice.values.shape:
        return f"wrong shape: {values.shape}, not {choice.values.shape}"
    wanted = np.where(np.isfinite(choice.values), choice.values, values)
    error = np.abs(values - wanted)
    scale = float(np.abs(wanted).max())
    if case.use == "mask":
        return "wrong values: mask" if (error > 0).mean() > 0.001 else ""
    allowed_error = FIELD_MM if case.use in ("field", "form") else 0.0
    if not error.max() <= max(allowed_error, scale * 2e-6):
        share = float((error > scale * 1e-6).mean())
        return f"wrong values: by up to {error.max():.4g} of {scale:.4g}, {share:.0%} of them"
    return ""


def _rounded_by_itk(own: Array, affine: Array, size: tuple[int, ...], oracles: Any) -> float:
    """What ITK's quaternions in float32 explain, mm: 0 if `own` is not ITK's geometry."""
    if "itk" not in oracles:
        return 0.0
    apart, allowed = corners_apart(own, oracles["itk"], size)
    return 0.05 if apart <= allowed else 0.0
