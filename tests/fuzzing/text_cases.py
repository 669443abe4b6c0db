"""Strategies for whole cases of NRRD and MetaImage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from fuzzing import texts
from fuzzing.contents import FLOATS, INTEGERS, volumes
from fuzzing.damage import damaged
from fuzzing.expect import USES, Make, Uses, accepted_for, turned
from fuzzing.metas import metas
from fuzzing.model import Case, Damaged, Expected, Kind, Volume
from fuzzing.nrrds import nrrds

Draw = Callable[[st.SearchStrategy[Any]], Any]
VOXELS = (".raw", ".nrrd", ".mha")
KINDS: tuple[Kind, ...] = ("scalar", "scalar", "labels", "field", "field", "rgb", "series")
CHANGES = ("", "", "text", "text", "text", "bytes", "bytes", "modeling")


@st.composite
def text_cases(draw: Draw, make: Make = volumes, uses: Uses = USES) -> Case:
    """NRRD and MetaImage."""
    form = draw(st.sampled_from(("nrrd", "meta")))
    volume = draw(make(KINDS, (*INTEGERS, *FLOATS), False))
    other = [use for use in uses[volume.kind] if use not in ("form", "series")]
    use = draw(st.sampled_from(other or ["any"]))
    encoding = draw(
        st.sampled_from(("raw", "gzip", "ascii") if form == "nrrd" else ("raw", "zlib", "ascii"))
    )
    detached = draw(st.booleans())
    stem = draw(st.sampled_from(("x", "a b", "ä", "1Warp")))
    endings = (".nrrd", ".nhdr") if form == "nrrd" else (".mha", ".mhd")
    name, beside = stem + endings[detached], stem + ".raw" if detached else ""
    text = draw((nrrds if form == "nrrd" else metas)(volume, encoding, beside))
    affine = volume.affine if text.oriented else None
    # MetaImage does not say that it is colour.
    right_for = "any" if form == "meta" and volume.kind == "rgb" and use == "field" else use
    accepted = list(accepted_for(right_for, volume, affine))
    if accepted and volume.kind == "field" and not text.says_lps:
        accepted.append(Expected(turned(volume, "ras"), affine))
    change = draw(st.sampled_from(CHANGES))
    done, extra, known, oracle = Damaged(""), "", True, ""
    if change == "text":
        told, extra, oracle = draw(texts.changed_text(text, form))
        done = Damaged(told, oracle == "none")
        known = oracle != "any"
        if oracle == "itk":
            accepted = [Expected(item.values, None) for item in accepted]
    elif change == "modeling" and form == "nrrd":
        extra = "displacement field type:=modeling"
        done = Damaged(extra)
        accepted = [] if use == "field" else accepted
    files = {name: text.header(extra)}
    files[beside or name] = files.get(beside or name, b"") + text.data
    if change == "bytes":
        files, done, known, values = draw(_text_bytes(files, text, volume, encoding))
        if values is not None and accepted:
            changed = dataclasses.replace(volume, stored=values, slope=1.0, inter=0.0)
            accepted += accepted_for(right_for, changed, affine)
            if volume.kind == "field":
                accepted.append(Expected(turned(changed, "ras"), affine))
    sure = bool(accepted) and (not done.change or done.neutral)
    sure = sure and (use != "mask" or affine is not None)
    return Case(
        form=f"{form} {encoding}{' detached' * detached}",
        change=done.change,
        files=files,
        name=name,
        use=use,
        accepted=tuple(accepted) if known else None,
        must=sure and (_clear(text) or "field" not in (use, volume.kind)),
        grids=((volume.stored.shape[:3], volume.affine),) * 2,
        kind=volume.kind,
        unit=text.unit,
    )


def _clear(text: texts.Text) -> bool:
    """Whether the file says in which unit and along which axes the vectors of a field are."""
    return text.unit == 1 and text.says_lps


@st.composite
def _text_bytes(
    draw: Draw, files: dict[str, bytes], text: texts.Text, volume: Volume, encoding: str
) -> tuple[dict[str, bytes], Damaged, bool, Any]:
    """One file with some bytes changed; whether the accepted contents still say what may be read.

    The last: the values of raw voxels as they are now; None if there are too few or if they stand
    encoded.
    """
    victim = draw(st.sampled_from(sorted(files)))
    old = files[victim]
    new, done = draw(damaged(old))
    start = len(old) - len(text.data) if victim.endswith(VOXELS) else len(old)
    same = new[:start] == old[:start]
    values = None
    if encoding == "raw" and same:
        values = texts.reread(volume, text, new[start:])
    known = (same and encoding != "ascii") or done.change.startswith("truncated")
    return {**files, victim: new}, Damaged(f"{victim[-5:]} {done.change}"), known, values
