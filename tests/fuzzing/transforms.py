"""Strategies for files of transforms: ITK's, plain matrices and numpy's arrays of displacements."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st

from fuzzing.contents import affines, shape_of, turn
from fuzzing.damage import damaged, gzipped
from fuzzing.model import LPS, Array, Case, Damaged, Expected

Draw = Callable[[st.SearchStrategy[Any]], Any]
LINEAR = ("affine", "affine", "euler", "similarity", "versor", "translation")
WORDS = ("nan", "inf", "1e400", "x", "", "1,5", "-", "ä", "9" * 400, "y" * 100_000)
POINTS = np.array([[0, 0, 0], [30, 0, 0], [0, -40, 0], [0, 0, 50], [-17, 23, 11.0]])


@st.composite
def matrices(draw: Draw) -> Array:
    """(4, 4): a turn, a little shear and scale, and a shift; mm."""
    out = np.eye(4)
    angles = draw(st.tuples(*[st.floats(-0.5, 0.5, width=16)] * 3))
    shear = draw(st.tuples(*[st.floats(-0.125, 0.125, width=16)] * 9))
    out[:3, :3] = turn(*angles) @ (np.eye(3) + np.reshape(shear, (3, 3)))
    out[:3, 3] = draw(st.tuples(*[st.floats(-50, 50, width=16)] * 3))
    return out


@st.composite
def itk_transforms(draw: Draw, ending: str) -> Any:
    """A SimpleITK transform that `ending` can hold."""
    angles = draw(st.tuples(*[st.floats(-0.5, 0.5, width=16)] * 3))
    centre = draw(st.tuples(*[st.floats(-50, 50, width=16)] * 3))
    shift = draw(st.tuples(*[st.floats(-50, 50, width=16)] * 3))
    kinds = {
        ".xfm": ("affine",),
        ".mat": (*LINEAR, "2-D"),
        ".h5": (*LINEAR, "chain", "spline", "field", "2-D"),
    }.get(ending, (*LINEAR, "chain", "spline", "2-D"))
    kind = draw(st.sampled_from(kinds))
    if kind == "2-D":
        return sitk.Euler2DTransform(centre[:2], angles[0], shift[:2])
    if kind in ("euler", "chain"):
        euler = sitk.Euler3DTransform(centre, *angles, shift)
        if kind == "euler":
            return euler
        return sitk.CompositeTransform([euler, sitk.TranslationTransform(3, shift)])
    if kind == "translation":
        return sitk.TranslationTransform(3, shift)
    if kind == "spline":
        out = sitk.BSplineTransform(3, 3)
        out.SetTransformDomainPhysicalDimensions((200.0, 200, 200))
        out.SetTransformDomainOrigin((-100.0, -100, -100))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        out.SetParameters(rng.normal(0, 2, len(out.GetParameters())).tolist())
        return out
    if kind == "field":
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        image = sitk.GetImageFromArray(rng.normal(0, 2, (5, 6, 7, 3)), isVector=True)
        image.SetSpacing((20.0, 25, 30))
        image.SetOrigin((-60.0, -70, -55))
        return sitk.DisplacementFieldTransform(image)
    out = {
        "affine": sitk.AffineTransform(3),
        "similarity": sitk.Similarity3DTransform(),
        "versor": sitk.VersorRigid3DTransform(),
    }[kind]
    out.SetCenter(centre if ending != ".xfm" else (0, 0, 0))
    out.SetMatrix((turn(*angles) * (1.0 if kind != "affine" else 1.125)).ravel().tolist())
    out.SetTranslation(shift)
    return out


def written(transform: Any, ending: str) -> bytes:
    """What ITK writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x" + ending)
        sitk.WriteTransform(transform, str(path))
        return path.read_bytes()


@st.composite
def itk_cases(draw: Draw) -> Case:
    """Transforms of ITK, ANTs and Slicer."""
    ending = draw(st.sampled_from((".mat", ".tfm", ".txt", ".h5", ".xfm")))
    transform = draw(itk_transforms(ending))
    content = written(transform, ending)
    d = transform.GetDimension()
    points = POINTS.copy()  # a 2-D transform leaves z
    points[:, :d] = [transform.TransformPoint(p) for p in POINTS[:, :d].tolist()]
    accepted = (Expected(points, None),)
    linear = transform.IsLinear()
    use = draw(st.sampled_from(("transform", "form") if linear else ("transform",)))
    content, done, known = draw(_changed(content, ending))
    return Case(
        form=ending,
        change=done.change,
        files={"x" + ending: content},
        name="x" + ending,
        use=use,
        accepted=accepted if known else None,
        must=bool(accepted) and (not done.change or done.neutral),
        option="itk" if use == "form" else None,
    )


@st.composite
def _changed(draw: Draw, content: bytes, ending: str) -> tuple[bytes, Damaged, bool]:
    """The content of a file, maybe changed, and whether it is known what may be read from it."""
    how = draw(st.sampled_from(("", "bytes", "words", "words")))
    if not how:
        return content, Damaged(""), True
    if how == "words" and ending == ".mat":
        return *draw(_changed_mat(content)), True
    if how == "words" and ending != ".h5":
        return *draw(changed_words(content)), True
    out, done = draw(damaged(content))
    return out, done, done.change.startswith("truncated")


@st.composite
def changed_words(draw: Draw, content: bytes) -> tuple[bytes, Damaged]:
    """A text with a line dropped or doubled, or with a word that is no such number."""
    lines = content.decode().splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(("drop", "twice", "word", "word", "word", "ends", "more")))
    if how == "drop":
        done = Damaged(f"line dropped at {at}={lines.pop(at)[:40]!r}")
    elif how == "twice":
        lines.insert(at, lines[at])
        done = Damaged(f"line twice at {at}={lines[at][:40]!r}")
    elif how == "ends":
        return "\r\n".join([*lines, ""]).encode(), Damaged("lines end in CRLF")
    elif how == "more":
        lines[at] += draw(st.sampled_from((" 1", " x", "  ", "\t", " " * 5000)))
        done = Damaged(f"more in line {at}")
    else:
        words = lines[at].split(" ")
        word = draw(st.integers(0, len(words) - 1))
        old, words[word] = words[word], draw(st.sampled_from(WORDS))
        lines[at] = " ".join(words)
        done = Damaged(f"word {old[:20]!r}={words[word][:20]!r}")
    return "\n".join([*lines, ""]).encode(), done


@st.composite
def _changed_mat(draw: Draw, content: bytes) -> tuple[bytes, Damaged]:
    """A field of a header of MATLAB's version 4: type, rows, columns, imaginary, length of name."""
    first = content.find(b"\0", 20) + 1
    matrix = 20 + struct.unpack_from("<i", content, 16)[0]
    rows, columns = struct.unpack_from("<2i", content, 4)
    second = matrix + rows * columns * 8
    start = draw(st.sampled_from([s for s in (0, second) if s + 20 <= len(content)]))
    assert first <= matrix
    place = draw(st.integers(0, 4))
    value = draw(st.sampled_from((0, 1, -1, 2, 10, 50, 1000, 2**31 - 1, -(2**31), 13)))
    out = bytearray(content)
    struct.pack_into("<i", out, start + 4 * place, value)
    return bytes(out), Damaged(f"mat header {place}={value}", bytes(out) == content)


def grid_matrix(size: tuple[int, ...], affine: Array, form: str) -> Array:
    """(4, 4): index -> the coordinates of `form`."""
    if form != "fsl":
        return {"ras": affine, "voxel": np.eye(4), "itk": LPS @ affine}[form]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    out = np.diag([*spacing, 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        out[0] = (-spacing[0], 0, 0, (size[0] - 1) * spacing[0])
    return out


@st.composite
def matrix_cases(draw: Draw) -> Case:
    """Four lines of four numbers, mm RAS or FLIRT's."""
    matrix = draw(matrices())
    form, ending = draw(st.sampled_from((("ras", ".txt"), ("fsl", ".mat"), ("fsl", ".txt"))))
    grids = tuple((shape_of(draw), draw(affines())) for _ in range(2))
    fixed, moving = (grid_matrix(*grid, form) @ np.linalg.inv(LPS @ grid[1]) for grid in grids)
    there = moving @ matrix @ np.linalg.inv(fixed) if form == "fsl" else LPS @ matrix @ LPS
    there = np.linalg.inv(there) if form == "fsl" else there
    text = "".join(" ".join(f"{v:.17g}" for v in row) + "\n" for row in there.tolist())
    content, done = text.encode(), Damaged("")
    how = draw(st.sampled_from(("", "words", "words", "bytes")))
    known = True
    if how == "words":
        content, done = draw(changed_words(content))
    elif how == "bytes":
        content, done = draw(damaged(content))
        known = False
    points = POINTS @ matrix[:3, :3].T + matrix[:3, 3]
    return Case(
        form=f"matrix {form}",
        change=done.change,
        files={"x" + ending: content},
        name="x" + ending,
        use="form",
        accepted=(Expected(points, None),) if known else None,
        must=not done.change or done.neutral,
        grids=grids if form == "fsl" else (),
        option=form,
    )


@st.composite
def numpy_cases(draw: Draw) -> Case:
    """Voxel displacements in .npy and .npz, (X, Y, Z, 3) or (3, X, Y, Z)."""
    size = shape_of(draw)
    grids = tuple((size, draw(affines())) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(("f4", "f8", "f2", ">f4")))
    values = rng.normal(0, 2, (*size, 3)).astype(dtype)
    array = np.moveaxis(values, -1, 0) if draw(st.booleans()) else values
    stream = io.BytesIO()
    ending = draw(st.sampled_from((".npy", ".npz")))
    if ending == ".npy":
        np.save(stream, array)
    else:
        (np.savez_compressed if draw(st.booleans()) else np.savez)(stream, arr_0=array)
    content, done, known = stream.getvalue(), Damaged(""), True
    how = draw(st.sampled_from(("", "bytes", "header")))
    if how == "bytes":
        content, done = draw(damaged(content))
        known = ending == ".npz" or done.change.startswith("truncated")
    elif how == "header" and ending == ".npy":
        content, done = draw(_changed_npy(content, size))
    elif how == "header":
        content, done = gzipped(content), Damaged("gzipped")
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    fixed, moving = (LPS @ affine for _, affine in grids)
    lps = (index + values) @ moving[:3, :3].T + moving[:3, 3]
    lps = lps - index @ fixed[:3, :3].T - fixed[:3, 3]
    return Case(
        form=ending,
        change=done.change,
        files={"x" + ending: content},
        name="x" + ending,
        use="form",
        accepted=(Expected(lps, grids[0][1]),) if known else None,
        must=not done.change or done.neutral,
        grids=grids,
        option=draw(st.sampled_from(("voxel", None))),
    )


@st.composite
def _changed_npy(draw: Draw, content: bytes, size: tuple[int, ...]) -> tuple[bytes, Damaged]:
    """A header of .npy that lies."""
    shapes = ("(3,)", "(10**12, 3)", "(99999, 99999, 99999, 3)", "(-1, 3)", "()", "x", "")
    shape = draw(st.sampled_from(shapes))
    kind = draw(st.sampled_from(("<f4", "|O", "<c8", "x", "<U1000000", "<f4,<f4")))
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text = draw(st.sampled_from((text, "", "{" * 300, "__import__('os')", text[:-3])))
    head = text.ljust(117) + "\n"
    out = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + content[128:]
    return out, Damaged(f"npy header={text[:60]}")
