"""What is unusual about the header of an image, and whether it can be repaired without a guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hsyn_cli.io import files, nifti
from hsyn_cli.io.headers import HEAD_BYTES, STRAIGHTENED, Header

UNITS = {1: "metres", 3: "micrometres"}  # NIfTI's codes; 2: mm; 0: all programs take mm
FORMS = ("qform", "sform")


@dataclass(frozen=True)
class Finding:
    """A line about a header.

    Attributes:
        told: whether hsyn warns of it when it reads the image.
        guess: whether a repair would have to guess.
        repaired: what a repair writes instead.
    """

    text: str
    told: bool
    guess: bool = False
    repaired: str = ""


def findings(header: Header) -> tuple[Finding, ...]:
    """What is unusual about a header that hsyn can read."""
    return tuple(_findings(header))


def _findings(header: Header) -> Iterator[Finding]:
    for note in header.notes:
        straight = note.startswith(STRAIGHTENED)
        mended = "the perpendicular axes" if straight else ""
        yield Finding(note, told=True, guess=not straight, repaired=mended)
    if header.kind.startswith("NIfTI"):
        yield from _of_nifti(header)
    elif header.mm != 1:
        text = f"the lengths are in units of {header.mm:g} mm; hsyn converts them"
        yield Finding(text, told=False, repaired="lengths in mm")


def _of_nifti(header: Header) -> Iterator[Finding]:
    with files.content(header.parts[0]) as stream:
        head = stream.read(HEAD_BYTES)
    raw = nifti.raw(head, str(nifti.order_of(head)))
    given = [name for name in FORMS if raw[f"{name}_code"] > 0]
    if len(given) == 1:
        (other,) = set(FORMS) - set(given)
        text = f"only the {given[0]} tells where the image lies; some programs read the {other}"
        yield Finding(text, told=False, repaired="the same qform and sform")
    unit = UNITS.get(int(raw["xyzt_units"]) & 7)
    if unit:
        text = f"the lengths are in {unit}; hsyn converts them, other programs take mm"
        yield Finding(text, told=False, repaired="lengths in mm")
    count = int(raw["dim"][0])
    if count > 3 and len(header.dim) < count:
        text = (
            f"the header has {count} axes; those after the first {len(header.dim)} hold one voxel"
        )
        yield Finding(text, told=False, repaired=f"{len(header.dim)} axes")
