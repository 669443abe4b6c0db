"""What the words of ANTs' command lines mean: plain text in, plain values out."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from hsyn_cli.cli.options import GroupedCommand
from hsyn_cli.errors import UsageError

FLAG = re.compile(r"-+[A-Za-z]")
OPENS = re.compile(r"\w*\[")
CALL = re.compile(r"(\w*)\[(.*)\]")  # Name[a,b]


@dataclass(frozen=True)
class Kind:
    """A type of transform, -t of antsRegistrationSyN.sh: `transform` and `affine` of hsyn.

    `start`: what the initial transforms must be together. `stages`: of ANTs.
    """

    transform: Literal["translation", "rigid", "affine", "deformable"]
    affine: Literal["affine", "rigid", "none"]
    start: Literal["translation", "rigid", "affine"]
    stages: int


KINDS = {
    "t": Kind("translation", "affine", "translation", 1),
    "r": Kind("rigid", "affine", "rigid", 1),
    "a": Kind("affine", "affine", "affine", 2),
    "s": Kind("deformable", "affine", "affine", 3),
    "sr": Kind("deformable", "rigid", "rigid", 2),
    "so": Kind("deformable", "none", "affine", 1),
}
SPLINES = {"b": "s", "br": "sr", "bo": "so"}  # and what comes nearest
LINEAR_FILES = ("ants_affine", "ants_warped", "ants_inverse_warped")
FILES = (*LINEAR_FILES, "ants_warp", "ants_inverse_warp")
TYPES = {
    "char": "int8", "uchar": "uint8", "short": "int16", "int": "int32", "float": "float32",
    "double": "float64", "default": "",
}  # fmt: skip
HOLDS = {  # of -e, by number and name
    "0": "scalar", "1": "vector", "3": "series", "4": "channels", "6": "physical",
    "scalar": "scalar", "vector": "vector", "time-series": "series", "multichannel": "channels",
    "physical-vector": "physical",
}  # fmt: skip
INTERPOLATIONS = {
    "linear": "linear", "nearestneighbor": "nearest", "genericlabel": "label",
    "cosinewindowedsinc": "cosine", "welchwindowedsinc": "welch", "hammingwindowedsinc": "hamming",
    "lanczoswindowedsinc": "lanczos",
}  # fmt: skip


class AntsCommand(GroupedCommand):
    """A command that takes `[ a, b ]` as one word, and `-t a b` as `-t a -t b`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {
            name
            for p in self.params
            if isinstance(p, click.Option) and p.multiple
            for name in p.opts
        }
        return super().parse_args(ctx, repeated(joined(args), several))


def repeated(words: Iterable[str], several: Collection[str]) -> list[str]:
    """The words of a command line, each value of a flag of `several` after that flag."""
    found: list[str] = []
    flag, taken = "", False
    for word in words:
        if FLAG.match(word):
            flag, taken = word, False
        elif taken and flag in several:
            found.append(flag)
        else:
            taken = True
        found.append(word)
    return found


def joined(words: Iterable[str]) -> list[str]:
    """The words of a command line, each bracket with all that it holds in one word."""
    found: list[str] = []
    for word in words:
        last = found[-1] if found else ""
        if OPENS.match(last) and last.count("[") > last.count("]"):
            found[-1] += word
        else:
            found.append(word)
    return found


def call(text: str) -> tuple[str, list[str]]:
    """`Name[a, b]` as its name and its parts; of other text, all is the name."""
    found = CALL.fullmatch(text.strip())
    if found is None:
        return text.strip(), []
    return found[1], [part.strip() for part in found[2].split(",")]


def kind(text: str) -> Kind:
    """The type of transform called `text`. Raises UsageError."""
    if text in SPLINES:
        raise UsageError(f"-t {text}: hsyn has no B-spline SyN", f"give -t {SPLINES[text]}")
    if text not in KINDS:
        raise UsageError(f"-t {text}: no such type of transform", f"give one of {' '.join(KINDS)}")
    return KINDS[text]


def masks(texts: Sequence[str], stages: int) -> tuple[Path | None, Path | None, str]:
    """The fixed and the moving mask of -x, and a note if they differ between ANTs' stages.

    Raises UsageError.
    """
    if len(texts) not in (0, 1, stages):
        text = f"-x is given {len(texts)} times, and the registration has {stages} stages"
        raise UsageError(text, "give it once, or once for each stage")
    each = [[None if p in ("", "NULL") else Path(p) for p in t.split(",")] for t in texts]
    for text, parts in zip(texts, each, strict=True):
        if len(parts) > 2:
            raise UsageError(f"-x {text} names more than two masks", "give FIXED,MOVING")
    used = [(parts[0], parts[1] if len(parts) > 1 else None) for parts in each]
    real = [pair for pair in used if pair != (None, None)]
    if not real:
        return None, None, ""
    note = "" if len(set(used)) == 1 else "the masks of the last -x count from the first step on"
    return (*real[-1], note)


def starts(texts: Sequence[str], kind: Kind) -> tuple[tuple[str, ...] | None, str]:
    """The initial transforms of -i as `chain.parse` takes them, and a note; None: there are none.

    Raises UsageError for the alignment of centres where nothing else aligns.
    """
    found, note = [], ""
    for text in texts:
        if len(call(text)[1]) == 3:  # [fixed,moving,feature]
            if kind.affine == "none":
                hint = "leave -i out, and give -t s or -t sr, or name a transform"
                raise UsageError(f"-i {text}: hsyn does not align centres alone", hint)
            note = f"-i {text} is left out: hsyn tries the centres itself"
        elif text.lower() != "identity":
            found.append(text)
    return (None if note and not found else tuple(found)) if texts else None, note


@dataclass(frozen=True)
class Interpolation:
    """hsyn's `name`, `sigma` (mm; none: a voxel) and `alpha` of a Gaussian, and a `note`."""

    name: str
    sigma: tuple[float, ...] = ()
    alpha: float | None = None
    note: str = ""


def interpolation(text: str) -> Interpolation:
    """Read -n. Raises UsageError for interpolations that hsyn lacks."""
    name, parts = call(text)
    name = name.lower()
    if name in ("gaussian", "multilabel") and len(parts) <= 2:
        try:
            sigma = tuple(float(number) for number in parts[0].split("x")) if parts else ()
            alpha = float(parts[1]) if len(parts) > 1 else None
            if not all(math.isfinite(number) for number in (*sigma, alpha or 0.0)):
                raise ValueError
        except ValueError:
            hint = "give numbers, as in MultiLabel[0.8,4]"
            raise UsageError(f"-n {text}: no sigma and alpha", hint) from None
        if name == "gaussian" or alpha in (None, 4):
            return Interpolation(name, sigma, alpha)
        note = f"-n {text} is cut off at 4 sigmas, as ANTs does whatever its alpha"
        return Interpolation(name, sigma, note=note)
    if name == "bspline" and parts in ([], *([str(k)] for k in range(1, 6))):
        return Interpolation(f"bspline{(parts or ['3'])[0]}")
    if name == "genericlabel" and [part.lower() for part in parts] not in ([], ["linear"]):
        raise UsageError(f"-n {text}: hsyn has linear weights alone", "give -n GenericLabel")
    if name in INTERPOLATIONS and (not parts or name == "genericlabel"):
        return Interpolation(INTERPOLATIONS[name])
    known = "Linear, NearestNeighbor, GenericLabel, MultiLabel, Gaussian, BSpline[1] to BSpline[5]"
    hint = f"give {known}, or Cosine-, Welch-, Hamming- or LanczosWindowedSinc"
    raise UsageError(f"-n {text}: hsyn has no such interpolation", hint)


def holds(text: str) -> str:
    """What the input holds, -e, as `held.HOLDS` names it. Raises UsageError."""
    if text not in HOLDS:
        hint = "give 0 (scalar), 1 (vector), 3 (time-series), 4 (multichannel) or 6"
        raise UsageError(f"-e {text}: hsyn cannot move such images", f"{hint} (physical-vector)")
    return HOLDS[text]


@dataclass(frozen=True)
class Output:
    """What -o of antsApplyTransforms asks for: an "image", a "field", or a "linear" transform."""

    what: str
    path: Path
    inverse: bool = False


def output(text: str) -> Output:
    """Read -o. Raises UsageError for forms that hsyn does not write."""
    name, parts = call(text)
    form, flag = name.lower(), parts[1] if len(parts) == 2 else "0"
    if not parts and not text.rstrip().endswith("]"):
        return Output("image", Path(text))
    if form == "" and len(parts) == 2 and flag in ("0", "1"):
        return Output("field" if flag == "1" else "image", Path(parts[0]))
    if form == "displacementfield" and len(parts) == 1:
        return Output("field", Path(parts[0]))
    if form == "linear" and len(parts) in (1, 2) and flag in ("0", "1"):
        return Output("linear", Path(parts[0]), flag == "1")
    hint = "give FILE, [FILE,1], DisplacementField[FILE] or Linear[FILE]"
    raise UsageError(f"-o {text}: hsyn has no such output", hint)
