"""Strategies for whole command lines: one input is fuzzed, the others are a small phantom's."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st

from fuzzing import transforms
from fuzzing.contents import SLOPES, turn
from fuzzing.damage import gzipped
from fuzzing.expect import Uses
from fuzzing.model import Array, Case, Kind, Volume
from fuzzing.nifti_cases import nifti_cases
from fuzzing.text_cases import text_cases
from fuzzing.verdict import Problem
from fuzzing.warm import ALLOWED_MB, MB, Outcome

Draw = Callable[[st.SearchStrategy[Any]], Any]
SHAPE = (17, 19, 16)
SECONDS = 60.0  # a registration takes 3 alone; other work may fill the machine
OUTPUTS = frozenset(("out.nii.gz", "out.nrrd", "out.npz", "out.txt", "out.json", "out.csv", "out"))
LINES = re.compile(r"^(error|hint|warning|note): ")
# Commands, by what the fuzzed file is: X stands for it, other names for the phantom's files.
WITH_IMAGE = (
    "apply-field -i X -t field.nii.gz -o out.nii.gz",
    "apply-field -i f.nii.gz -t field.nii.gz -r X -o out.nii.gz",
    "register -m X -f f.nii.gz -o out --preset fast --no-html",
)
WITH_LABELS = (
    "apply-field -i X -t field.nii.gz -n label -o out.nii.gz",
    "evaluate --forward field.nii.gz --fixed f.nii.gz --fixed-labels l.nii.gz --moving m.nii.gz "
    "--moving-labels X --json-file out.json",
    "evaluate --forward field.nii.gz --fixed f.nii.gz --fixed-mask X --json-file out.json",
)
WITH_FIELD = (
    "apply-field -i m.nii.gz -t X -o out.nii.gz",
    "apply-field -i X -t field.nii.gz -o out.nii.gz --reorient",
    "apply-field --points p.csv -t X -o out.csv",
    "invert X -o out.nii.gz",
    "jacobian X -o out.nii.gz",
    "convert X out.nrrd",
    "convert X out.npz",
    "compose -t X -t a.mat -o out.nii.gz",
    "evaluate --forward X --fixed f.nii.gz --fixed-labels l.nii.gz --moving m.nii.gz "
    "--moving-labels l.nii.gz --json-file out.json",
)
WITH_SERIES = ("apply-field -i X -t field.nii.gz -o out.nii.gz",)
WITH_TRANSFORM = (
    "apply-field -i m.nii.gz -t X -r f.nii.gz -o out.nii.gz",
    "compose -t X -t field.nii.gz -r f.nii.gz -o out.nii.gz",
    "convert X out.txt --to itk -r f.nii.gz -m m.nii.gz",
    "register -m m.nii.gz -f f.nii.gz -o out --preset fast --no-html --initial-transform X",
)
USES: Uses = {
    "scalar": ("image",),
    "labels": ("labels",),
    "field": ("field",),
    "series": ("series",),
    "rgb": ("any",),
}
BY_KIND: dict[Kind, tuple[str, ...]] = {
    "scalar": WITH_IMAGE,
    "labels": WITH_LABELS,
    "field": WITH_FIELD,
    "series": WITH_SERIES,
    "rgb": WITH_SERIES,
    "transform": WITH_TRANSFORM,
}


@dataclass(frozen=True, repr=False)
class Command:
    """A case and the command line that reads it among other files."""

    case: Case
    arguments: tuple[str, ...]

    @property
    def files(self) -> dict[str, bytes]:
        """All inputs."""
        return {**phantom(), **self.case.files}

    def write(self, folder: Path) -> None:
        """Write all inputs."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def __repr__(self) -> str:
        return f"{' '.join(self.arguments)}: {self.case}"


def affine() -> Array:
    """(4, 4), index -> RAS, mm, of the phantom; oblique."""
    out = np.eye(4)
    out[:3, :3] = turn(0.1, -0.15, 0.2) * 4.0
    out[:3, 3] = (-30, -40, -28)
    return out


def picture(kind: Kind, seed: int = 0) -> Array:
    """An ellipsoid with structure, its label map, or smooth vectors; (X, Y, Z[, 3])."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    shift = rng.uniform(-0.1, 0.1, 3)
    inside = ((x - shift[0]) / 0.75) ** 2 + ((y - shift[1]) / 0.8) ** 2 + (z / 0.78) ** 2 < 1
    waves = [np.sin(3 * x + k + seed) * np.cos(2 * y - k) + np.sin(2 * z + k) for k in range(3)]
    if kind == "labels":
        return np.asarray(np.where(inside, 1 + (x > shift[2]), 0), float)
    if kind == "field":
        return np.stack(waves, -1)
    return np.asarray(np.where(inside, np.clip(60 + 20 * waves[0] + 15 * (x > 0.2), 5, 120), 0))


@functools.cache
def phantom() -> dict[str, bytes]:
    """The inputs that are not fuzzed."""
    scale = sitk.AffineTransform([1.02, 0, 0, 0, 0.98, 0, 0, 0, 1], [0.0] * 3)

    def nifti(values: Any, intent: int = 0) -> bytes:
        image: Any = nibabel.Nifti1Image(values, affine())
        image.header["intent_code"] = intent
        return bytes(image.to_bytes())

    field = picture("field").astype("f4")[:, :, :, None]
    return {
        "f.nii.gz": gzipped(nifti(picture("scalar", 1).astype("f4"))),
        "m.nii.gz": gzipped(nifti(picture("scalar", 2).astype("i2"))),
        "l.nii.gz": gzipped(nifti(picture("labels", 1).astype("u1"))),
        "field.nii.gz": gzipped(nifti(field, 1007)),
        "a.mat": transforms.written(scale, ".mat"),
        "p.csv": b"x,y,z,t,label\n10,-4,3,0,1\n-8,6,2.5,0,2\n",
    }


@st.composite
def volumes(draw: Draw, kinds: Sequence[Kind], types: Sequence[str], scaled: bool) -> Volume:
    """As `contents.volumes`, of pictures on the phantom's grid."""
    kind = draw(st.sampled_from([*kinds, *["field"] * 5] if "field" in kinds else list(kinds)))
    values = picture(kind, draw(st.integers(0, 9)))
    slope = 1.0
    if scaled and kind in ("scalar", "series", "field") and draw(st.booleans()):
        slope = draw(st.sampled_from([s for s in SLOPES if s]))
    if kind == "rgb":
        return Volume(kind, np.stack([values] * 3, -1).astype("u1"), 1.0, 0.0, affine())
    dtype = draw(st.sampled_from([t for t in types if kind != "field" or t[0] == "f"]))
    stored = np.stack([values, values + 1, values], -1) if kind == "series" else values
    if np.dtype(dtype).kind != "f":
        stored = np.clip(stored, 0, np.iinfo(dtype).max)
    stored = stored / slope if kind == "field" else stored
    return Volume(kind, stored.astype(dtype), float(np.float32(slope)), 0.0, affine())


@st.composite
def commands(draw: Draw) -> Command:
    """A command line with one fuzzed input."""
    if draw(st.integers(0, 4)) == 0:
        case = draw(transforms.itk_cases() | transforms.matrix_cases())
    else:
        make = draw(st.sampled_from((nifti_cases, nifti_cases, text_cases)))
        case = draw(make(volumes, USES))
    line = draw(st.sampled_from(BY_KIND[case.kind]))
    name = f"./{case.name}" if case.name.startswith("-") else case.name
    first, *words = [name if word == "X" else word for word in line.split(" ")]
    threads = ["--threads", "1"] if first in ("register", "invert") else []
    return Command(case, (first, "--quiet", *threads, *words))


def judge(command: Command, outcome: Outcome) -> Problem | None:
    """The first thing that is wrong with a run."""
    return next(iter(_problems(command, outcome)), None)


def _problems(command: Command, outcome: Outcome) -> Iterator[Problem]:
    answer = outcome.answer
    if not answer:
        kind = "hang" if outcome.signal == 14 else f"died of signal {outcome.signal}"
        yield Problem(kind, f"{outcome.seconds:.1f} s; {outcome.said[-300:]}")
        return
    if answer["state"] == "raised":
        yield Problem(f"raised {answer['error']} in {answer['where']}", answer["message"])
        return
    code, files = answer["code"], answer["files"]
    lines = outcome.said.splitlines()
    new = sorted(set(files) - set(command.files))
    if code not in (0, *range(2, 10)):
        yield Problem(f"exit code {code}", outcome.said[-300:])
    if code and sum(line.startswith("error: ") for line in lines) != 1:
        yield Problem("not one error line", outcome.said[-500:])
    others = [line for line in lines if not LINES.match(line)]
    if others:
        yield Problem("says something besides", others[0][:300])
    if answer["left"] or (code not in (0, 9) and new) or not set(new) <= OUTPUTS:
        yield Problem("left behind", f"{new} {answer['left']}")
    if code == 0 and not new:
        yield Problem("no output", outcome.said[-300:])
    for name, content in command.files.items():
        if files.get(name) != hashlib.sha256(content).hexdigest():
            yield Problem("input changed", name)
    if outcome.memory_mb > ALLOWED_MB + sum(map(len, command.files.values())) / MB:
        yield Problem("memory", f"{outcome.memory_mb:.0f} MB")
    placed = all(choice.affine is not None for choice in command.case.accepted or ())
    if code and command.case.must and command.case.kind != "transform" and placed:
        yield Problem("refused what is right", outcome.said[-400:])
