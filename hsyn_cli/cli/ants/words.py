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
STAGED = re.compile(  # what only antsRegistration has
    r"--(dimensionality|transform|metric|convergence|shrink-factors|smoothing-sigmas|output|masks|"
    r"initial-(moving|fixed)-transform|interpolation|collapse-output-transforms|float|"
    r"write-composite-transform|winsorize-image-intensities|use-histogram-matching|"
    r"restrict-deformation|random-seed|verbose)(=.*)?|"
    r"(Translation|Rigid|Similarity|Affine|SyN|BSplineSyN|MI|CC|Mattes|MeanSquares|GC)\[.*",
    re.IGNORECASE,
)
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


def check_staged(words: Iterable[str]) -> None:
    """Raise UsageError for a flag or a stage of antsRegistration itself."""
    for word in words:
        if STAGED.fullmatch(word):
            text = f"{word} belongs to antsRegistration, and hsyn does not take its stages"
            line = "hsyn ants register -d 3 -f FIXED -m MOVING -t s -o PREFIX"
            raise UsageError(text, f"give the line of antsRegistrationSyN.sh: {line}")


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
    """The words of a command line, each bracket with all that it holds in one word.

    Raises UsageError for a bracket that is still open at the next flag, or at the end.
    """
    found: list[str] = []
    for word in (*words, ""):
        last = found[-1] if found else ""
        if not (OPENS.match(last) and last.count("[") > last.count("]")):
            found.append(word)
        elif word and not FLAG.match(word):
            found[-1] += word
        else:
            raise UsageError(f"{last}: the bracket is not closed", f"give {last}]")
    return found[:-1]


def call(text: str) -> tuple[str, list[str]]:
    """`Name[a, b]` as its name and its parts; of other text, all is the name."""
    found = CALL.fullmatch(text.strip())
    if found is None:
        return text.strip(), []
    return found[1], [part.strip() for part in found[2].split(",")]


def is_identity(text: str) -> bool:
    """Whether `text` is identity, [identity,0] or [identity,1]."""
    name, parts = call(text)
    alone = not name and len(parts) == 2 and parts[1] in ("0", "1")
    return (parts[0] if alone else text).strip().lower() == "identity"


def kind(text: str) -> Kind:
    """The type of transform called `text`. Raises UsageError."""
    if text in SPLINES:
        raise UsageError(f"-t {text}: hsyn has no B-spline SyN", f"give -t {SPLINES[text]}")
    if text not in KINDS:
        raise UsageError(f"-t {text}: no such type of transform", f"give one of {' '.join(KINDS)}")
    return KINDS[text]


def masks(texts: Sequence[str], stages: int) -> tuple[Path | None, Path | None, str]:
    """The fixed and the moving mask of -x, and a note if they differ between ANTs' stages.

    The last ones count. Raises UsageError.
    """
    if len(texts) not in (0, 1, stages):
        text = f"-x is given {len(texts)} times, and the registration has {stages} stages"
        raise UsageError(text, "give it once, or once for each stage")
    each = [[None if p in ("", "NULL") else Path(p) for p in t.split(",")] for t in texts]
    for text, parts in zip(texts, each, strict=True):
        if len(parts) > 2:
            raise UsageError(f"-x {text} names more than two masks", "give FIXED,MOVING")
    used = [(parts[0], parts[1] if len(parts) > 1 else None) for parts in each]
    if not used:
        return None, None, ""
    named = zip(("fixed", "moving"), used[-1], strict=True)
    told = " and ".join(f"the {role} mask {path}" for role, path in named if path) or "no mask"
    note = f"the last -x counts in all {stages} stages: {told}" if len(set(used)) > 1 else ""
    return (*used[-1], note)


def starts(texts: Sequence[str], kind: Kind) -> tuple[tuple[str, ...] | None, str]:
    """The initial transforms of -i as `chain.parse` takes them, and a note; None: there are none.

    Raises UsageError for the alignment of centres where nothing else aligns, or beside a transform.
    """
    found, note = [], ""
    moved = [text for text in texts if not is_identity(text)]
    for text in moved:
        if len(call(text)[1]) == 3:  # [fixed,moving,feature]
            if kind.affine == "none":
                hint = "leave -i out, and give -t s or -t sr, or name a transform"
                raise UsageError(f"-i {text}: hsyn does not align centres alone", hint)
            if len(moved) > 1:
                hint = "give one -i: the transform alone, or none, for hsyn tries the centres then"
                raise UsageError(f"-i {text}: hsyn aligns no centres beside another -i", hint)
            note = f"-i {text} is left out: hsyn tries the centres itself"
        else:
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
