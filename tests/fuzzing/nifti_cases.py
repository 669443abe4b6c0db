"""Strategies for whole cases of NIfTI, Analyze, SPM and FreeSurfer's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from fuzzing import nifti
from fuzzing.contents import volumes
from fuzzing.damage import gzipped
from fuzzing.expect import USES, Make, Uses, accepted_for, turned
from fuzzing.fields import STYLES, positions
from fuzzing.model import LPS, Array, Case, Damaged, Expected, Volume

Draw = Callable[[st.SearchStrategy[Any]], Any]
STEMS = ("x", "a b", "ä", "x.nii", "1Warp", "%s", "-x")
CHANGES = ("", *["field"] * 6, *["bytes"] * 4, "extension", "twin", "renamed")


def _accepted(
    use: str, volume: Volume, affines: Sequence[Array | None], style: str
) -> tuple[Expected, ...]:
    """As `accepted_for`, for every affine that a header gives, and for the style of a field."""
    if volume.kind != "field" or use in ("grid", "image"):
        return tuple(e for affine in affines for e in accepted_for(use, volume, affine))
    values = [turned(volume, style)]
    if use == "any" and style == "ras":
        values.append(volume.values)
    return tuple(Expected(v, affine) for v in values for affine in affines)


@st.composite
def styled(draw: Draw, volume: Volume, use: str) -> tuple[Volume, str, str | None]:
    """A field in one of the styles of `fields`, its name, and what someone calls it, if anyone."""
    if use != "form":
        return volume, draw(st.sampled_from(("itk", "ras"))), None
    style = draw(st.sampled_from(tuple(STYLES)))
    if STYLES[style].absolute:
        stored = positions(volume.values, LPS @ volume.affine, style)
        volume = Volume("field", stored.astype("f4"), 1.0, 0.0, volume.affine)
    named = not STYLES[style].speaks or draw(st.booleans())
    return volume, style, STYLES[style].option if named else None


@st.composite
def nifti_cases(draw: Draw, make: Make = volumes, uses: Uses = USES) -> Case:
    """NIfTI-1 and 2, Analyze, SPM, FreeSurfer. `make`: the strategy of what they hold."""
    form = draw(st.sampled_from(nifti.FORMS))
    volume = draw(make(*nifti.content_of(form)))
    use = draw(st.sampled_from(uses[volume.kind]))
    style, option = "itk", None
    if volume.kind == "field":
        volume, style, option = draw(styled(volume, use))
    draft = nifti.draft(draw, volume, form, STYLES[style])
    accepted = _accepted(use, volume, draft.affines, style)
    zipped = draw(st.booleans())
    change = draw(st.sampled_from(CHANGES))
    done = None
    if change == "field":
        done = draw(nifti.changed_header(draft))
    elif change == "extension" and form.startswith("nifti"):
        done = draw(nifti.changed_extension(draft))
    single = ".nii" if form != "mgh" else ".mgz" if zipped else ".mgh"
    parts = draft.parts(single)
    contents, broken = draw(nifti.packed(parts, zipped, change if change == "bytes" else ""))
    stem = draw(st.sampled_from(STEMS))
    files = {stem + ending: content for ending, content in contents.items()}
    named = [name for name in files if not name.endswith((".mat", ".mat.gz"))]
    name = draw(st.sampled_from(named))
    done = done or broken
    if change == "twin":
        files, done = draw(_with_twin(files, stem))
    elif change == "renamed":
        files, name, done = draw(_renamed(files, name, stem))
    own = draft.affines[0]
    grids = ((volume.stored.shape[:3], volume.affine if own is None else own),)
    # nibabel looks for x.mat.gz beside x.img.gz; x.mat there may be refused, not overlooked.
    beside_it = form != "spm" or not zipped or stem + ".mat.gz" in files
    return Case(
        form=f"{form}{'.gz' if zipped else ''}",
        change=done.change if done else "",
        files=files,
        name=name,
        use=use,
        accepted=accepted if beside_it or done is None or done.neutral else None,
        must=_sure(accepted, use) and (done is None or done.neutral) and beside_it,
        oracle=_by_oracle(done, change) and beside_it,
        grids=grids * 2,
        option=option,
        kind=volume.kind,
    )


def _sure(accepted: tuple[Expected, ...], use: str) -> bool:
    """Whether something is right, and the grid of a mask is known."""
    return bool(accepted) and (use != "mask" or accepted[0].affine is not None)


def _by_oracle(done: Damaged | None, change: str) -> bool:
    """Whether nibabel says what a change means; it overlooks what is wrong with a gzip stream."""
    sure = done is None or done.neutral
    return not sure and "gzip" not in str(done) and change != "renamed"


@st.composite
def _with_twin(draw: Draw, files: dict[str, bytes], stem: str) -> tuple[dict[str, bytes], Damaged]:
    """Beside the files, others of the same stem that other programs would take for them."""
    out = dict(files)
    ending = draw(st.sampled_from((".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".mat", ".txt")))
    pair = any(name.endswith((".hdr", ".hdr.gz")) for name in files)
    twin = stem + ending
    same = {name.removesuffix(".gz") for name in files}
    # The partner of a pair, compressed or not, and SPM's .mat are part of the image.
    if twin in files or (pair and (twin.removesuffix(".gz") in same or ending == ".mat")):
        return out, Damaged("no twin", True)
    content = draw(st.sampled_from((b"", b"rubbish", bytes(4000))))
    out[twin] = gzipped(content) if ending.endswith(".gz") else content
    return out, Damaged(f"a twin={ending}", True)


@st.composite
def _renamed(
    draw: Draw, files: dict[str, bytes], name: str, stem: str
) -> tuple[dict[str, bytes], str, Damaged]:
    """The file under a name that promises another format."""
    ending = draw(st.sampled_from((".nii", ".nii.gz", ".nrrd", ".mha", ".mgz", ".hdr", ".img", "")))
    new = stem + ending
    out = {(new if old == name else old): content for old, content in files.items()}
    return out, new, Damaged(f"renamed={ending}", new == name)
