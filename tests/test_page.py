"""report.html: the right numbers at the right places on every grid, one file.

Nothing from outside, and as a browser shows it.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from browsers import in_browser, needs_browser
from samples import DIRECTIONS, EXAMPLES, field_image, turned, voxel_points
from stand_ins import FACTS, assembled

from hsyn_cli.fields import folding, grids
from hsyn_cli.results import page
from hsyn_cli.results import report as reports
from hsyn_cli.results.page import tables, volumes
from hsyn_cli.results.page.volumes import CODE_FOLDED, CODE_NOTHING, CODE_TOP, OCTAVES, Volumes
from hsyn_cli.space import Grid, affine_parts

CENTRE = np.array([-20.0, 35.0, 50.0])
BLOB = CENTRE + np.array([5.5, 4.5, 3.5])  # to the left, the back, the head of the centre
AFFINE = sitk.AffineTransform(turned(0.1, -0.2, 0.15), (3.0, -2.0, 4.0), tuple(CENTRE.tolist()))


@dataclass(frozen=True)
class Run:
    moving: sitk.Image
    fixed: sitk.Image
    warped: sitk.Image
    affine: sitk.AffineTransform
    forward_field: sitk.Image
    inverse_field: sitk.Image


def centred(direction: str, size: tuple[int, int, int] = (26, 32, 15)) -> Grid:
    """An anisotropic grid (an isotropic one for LPS) about CENTRE."""
    spacing = (1.5, 1.5, 1.5) if direction == "LPS" else (1.2, 0.8, 2.5)
    size = (20, 22, 24) if direction == "LPS" else size
    grid = Grid(size, spacing, (0.0, 0.0, 0.0), DIRECTIONS[direction])
    x, y, z = CENTRE - grid.points((np.array(size) - 1) / 2)
    return dataclasses.replace(grid, origin=(float(x), float(y), float(z)))


def head(grid: Grid, at: np.ndarray = BLOB) -> sitk.Image:
    """A ball about CENTRE, 0 around it, brightest at `at`."""
    points = voxel_points(grid)
    ball = 40.0 * (np.linalg.norm(points - CENTRE, axis=-1) < 12)
    blob = 160 * np.exp(-0.5 * (np.linalg.norm(points - at, axis=-1) / 1.5) ** 2)
    image = sitk.GetImageFromArray((ball + blob * (ball > 0)).astype(np.float32))
    return grid.stamp(image)


def make_run(direction: str = "oblique", **more: Any) -> Run:
    """Fixed grid of that direction, moving grid another; no displacement unless given."""
    fixed, moving = centred(direction), centred("sagittal")
    still = [field_image(grid, np.zeros((*grid.size[::-1], 3))) for grid in (fixed, moving)]
    parts = {
        "affine": sitk.AffineTransform(3),
        "forward_field": still[0],
        "inverse_field": still[1],
    }
    images = {"moving": head(moving), "fixed": head(fixed), "warped": head(fixed)}
    return Run(**(images | parts | more))


def place(shown: Volumes, codes: np.ndarray) -> np.ndarray:
    """The middle of what is bright, mm LPS."""
    z, y, x = (axis.mean() for axis in np.nonzero(codes > 200))
    return shown.grid.points(np.array([x, y, z]))


def determinants(codes: np.ndarray) -> np.ndarray:
    return np.asarray(2 ** ((2 * codes.astype(float) / CODE_TOP - 1) * OCTAVES))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pictures_lie_where_they_should_on_every_grid(direction: str) -> None:
    shown = volumes.page_volumes(make_run(direction, affine=AFFINE))
    assert (np.diag(shown.grid.axes) > 0.5).all()
    assert len(set(shown.grid.spacing)) == 1
    for name in ("fixed", "moving", "warped"):
        assert np.linalg.norm(place(shown, shown.images[name]) - BLOB) < 0.8, name
    a, t = affine_parts(AFFINE)
    assert (
        np.linalg.norm(place(shown, shown.images["aligned"]) - np.linalg.solve(a, BLOB - t)) < 0.8
    )
    high_end = (
        shown.grid.indices(place(shown, shown.images["fixed"])) > np.array(shown.grid.size) / 2
    )
    assert high_end.all()  # of left, back and head


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_determinants_are_those_of_the_closed_form(direction: str) -> None:
    m = np.array([[0.2, 0.1, -0.05], [0.0, -0.3, 0.1], [0.15, 0.05, 0.1]])
    grid = centred(direction)
    run = make_run(direction, forward_field=field_image(grid, (voxel_points(grid) - CENTRE) @ m.T))
    shown = volumes.page_volumes(run)
    expected = np.linalg.det(np.eye(3) + m)
    step = 2 ** (2 * OCTAVES / CODE_TOP)
    inner = determinants(shown.determinant)[2:-2, 2:-2, 2:-2]
    assert inner.min() * step > expected > inner.max() / step
    assert shown.folded == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_bent_grid_has_no_affine_and_the_axes_of_the_page(direction: str) -> None:
    shift = np.array([1.5, -0.5, 2.0])  # LPS, on top of the affine
    grid = centred(direction)
    a, t = affine_parts(AFFINE)
    points = voxel_points(grid)
    run = make_run(
        direction,
        affine=AFFINE,
        forward_field=field_image(grid, (points + shift) @ a.T + t - points),
    )
    shown = volumes.page_volumes(run)
    bend = shown.bend * shown.bend_mm
    expected = (shown.grid.axes.T @ shift)[:, None, None, None]
    assert np.abs(bend - expected).max() <= shown.bend_mm
    assert bend.shape == (3, *(-(-n // volumes.BEND_STRIDE) for n in shown.grid.size[::-1]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_inverse_errors_are_told_in_mm_over_the_content(direction: str) -> None:
    there, off = np.array([2.0, -1.0, 1.5]), np.array([0.03, -0.04, 0.12])
    grid, other = centred(direction), centred("sagittal", (40, 50, 24))
    run = make_run(
        direction,
        moving=head(other),
        forward_field=field_image(grid, np.broadcast_to(there, (*grid.size[::-1], 3))),
        inverse_field=field_image(other, np.broadcast_to(off - there, (*other.size[::-1], 3))),
    )
    shown = volumes.page_volumes(run)
    known = shown.error != CODE_NOTHING
    told = shown.error_max * (shown.error[known] / CODE_TOP) ** 2
    assert np.abs(told - 0.13).max() < 1e-3
    assert shown.error_shown == pytest.approx(0.2)
    z, y, x = np.nonzero(known)
    away = np.linalg.norm(shown.grid.points(np.stack((x, y, z), -1).astype(float)) - CENTRE, axis=1)
    assert away.max() < 12 + 1.5
    assert known.sum() * shown.grid.spacing[0] ** 3 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.1)


def test_errors_are_not_told_where_the_point_leaves_the_moving_image() -> None:
    grid = centred("LPS")
    away = field_image(grid, np.broadcast_to([500.0, 0, 0], (*grid.size[::-1], 3)))
    shown = volumes.page_volumes(make_run("LPS", forward_field=away))
    assert (shown.error == CODE_NOTHING).all()
    json.dumps(shown.to_dict(), allow_nan=False)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_folded_voxels_are_marked_one_by_one(direction: str) -> None:
    grid = centred(direction)
    values = np.zeros((*grid.size[::-1], 3))
    at = grid.points(np.array([12.0, 15.0, 7.0]))
    values[7, 15, 12] = -12 * grid.axes[:, 0]  # its neighbours along x fold, it does not
    shown = volumes.page_volumes(make_run(direction, forward_field=field_image(grid, values)))
    z, y, x = np.nonzero(shown.determinant == CODE_FOLDED)
    marks = shown.grid.points(np.stack((x, y, z), -1).astype(float))
    assert shown.folded >= 1
    assert 1 <= len(marks) <= shown.folded
    assert np.linalg.norm(marks - at, axis=1).max() < grid.spacing[0] + shown.grid.spacing[0]


def test_the_page_keeps_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    grid = volumes.page_grid(fixed)
    assert 0.8 * volumes.MAX_VOXELS < np.prod(grid.size) < 1.2 * volumes.MAX_VOXELS
    monkeypatch.setattr(volumes, "MAX_VOXELS", 60_000)
    small = volumes.page_grid(fixed)
    assert 0.7 * 60_000 < np.prod(small.size) < 1.3 * 60_000
    corner = np.array(small.points(np.array(small.size) - 1.0)) - grid.points(
        np.array(grid.size) - 1.0
    )
    assert np.abs(corner).max() <= 2 * small.spacing[0]


def test_intensities_fill_the_window_of_their_own_image() -> None:
    run = make_run("LPS")
    brighter = dataclasses.replace(run, moving=run.moving * 7 + 100, warped=run.warped * 7 + 100)
    one, two = volumes.page_volumes(run), volumes.page_volumes(brighter)
    for name in ("fixed", "moving", "warped"):
        assert np.abs(one.images[name].astype(int) - two.images[name]).max() <= 1
    assert two.windows["moving"][0] == pytest.approx(100)
    assert one.images["warped"].max() == 255


def test_fine_voxels_are_averaged() -> None:
    noise = np.random.default_rng(0).normal(100, 30, (40, 40, 40)).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    coarse = Grid((8, 8, 8), (4.0, 4.0, 4.0), (5.5, 5.5, 5.5), DIRECTIONS["LPS"])
    got = volumes.picture(image, coarse, (0.0, 255.0))
    assert got.std() < 30 / 4
    assert got[0, 0, 0] == pytest.approx(noise[4:8, 4:8, 4:8].mean(), abs=0.6)


# ---- the file


VOID = {"meta", "input", "br"}


class Reader(HTMLParser):
    """Open elements, every attribute, and the text of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.text = self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data


def told(**changes: Any) -> dict[str, Any]:
    return reports.to_dict(assembled(dataclasses.replace(FACTS, **changes)))


def unpacked(text: str, kind: type = np.uint8) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), kind)


def test_the_page_is_whole_and_refers_to_nothing_outside() -> None:
    shown = volumes.page_volumes(make_run(affine=AFFINE))
    text = page.make_page(told(), shown)
    reader = Reader(text)
    assert reader.open == []
    assert not {name for _, name, _ in reader.attributes} & {
        "src",
        "href",
        "action",
        "srcset",
        "background",
    }
    assert not re.search(
        r"url\(|@import|\bimport\b|fetch\(|XMLHttpRequest|//\w", reader.scripts[1] + reader.style
    )
    assert "://" not in text
    assert "default-src 'none'" in text
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "$" not in reader.text
    data = json.loads(reader.scripts[0])
    nx, ny, nz = data["size"]
    for name, image in shown.images.items():
        np.testing.assert_array_equal(unpacked(data["images"][name]).reshape(nz, ny, nx), image)
    np.testing.assert_array_equal(unpacked(data["determinant"]), shown.determinant.ravel())
    np.testing.assert_array_equal(unpacked(data["error"]), shown.error.ravel())
    np.testing.assert_array_equal(unpacked(data["bend"], np.int8), shown.bend.ravel())
    bx, by, bz = data["bend_size"]
    assert shown.bend.shape == (3, bz, by, bx)
    assert data["lowest"] == list(FACTS.folding.min_det_at_mm)


def test_names_cannot_break_out_of_the_page() -> None:
    report = told()
    bad = "</script><b onclick='x'>&\".nii.gz"
    report["inputs"]["moving"]["path"] = bad
    report["warnings"] = [bad]
    report["apply"] = {"ANTs": bad}
    text = page.make_page(report, volumes.page_volumes(make_run()))
    reader = Reader(text)
    assert len(reader.scripts) == 2
    assert not [tag for tag, _, _ in reader.attributes if tag == "b"]
    assert reader.text.count(bad) == 3  # the title and the heading have what follows the slash


def test_every_number_of_the_tables_is_there() -> None:
    text = Reader(page.make_page(told(), volumes.page_volumes(make_run()))).text
    for piece in (
        "0.081",
        "-31.5, 20, 104.2",
        "0.0042",
        "1.04, 0.97, 1.12",
        "3.21°",
        "9.38 mm",
        "local NCC",
        "0.81",
        "9.75",
        "1.83 GB",
        "ab" * 32,
        "it's f.nii.gz",
    ):
        assert piece in text
    assert "sform and qform disagree" in text
    assert "antsApplyTransforms -d 3" in text


def test_the_verdict() -> None:
    assert tables.verdict(told()) == (
        True,
        "No voxel folds. Inverse error mean 0.0042 mm, largest 0.21 mm.",
    )
    folded = told(folding=folding.Folding(3, 0.00012, 9, -0.2, (1.0, 2.0, 3.0)))
    good, sentence = tables.verdict(folded)
    assert not good
    assert sentence.startswith("Folding: 3 voxels of the forward field (0.00012 %). Inverse error")
    one = told(inverse_folding=folding.Folding(1, 0.5, 9, -0.2, (1.0, 2.0, 3.0)))
    assert tables.verdict(one)[1].startswith("Folding: 1 voxel of the inverse field (0.5 %).")
    blank = told(inverse_error_fixed=grids.ErrorStats(float("nan"), float("nan"), float("nan")))
    assert tables.verdict(blank) == (
        True,
        "No voxel folds. The inverse error could not be measured.",
    )
    assert tables.folds(folded, 1).endswith("(1 here, 2 outside the part shown).")
    assert tables.folds(folded, 3).endswith("(3 here).")
    assert "there is none" in tables.folds(told(), 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0042, "0.0042"), (0.0, "0"), (123.4, "123"), (1.2e-5, "0.000012"), (None, "not known"),
        (-0.25, "-0.25"), (1e5, "100000"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_plain(value: float | None, text: str) -> None:
    assert tables.number(value) == text


# ---- in a browser

PROBE = """
  const blob = BLOB;
  document.querySelectorAll("#sliders input").forEach((slider, k) => {
    slider.value = blob[2 - k];
    slider.dispatchEvent(new Event("input"));
  });
  document.querySelector("[name=cross]").click();
  const bright = [...document.querySelectorAll("#rows canvas")].slice(0, 3).map((canvas) => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const m = 24 * devicePixelRatio; // without the letters
    let [n, across, down] = [0, 0, 0];
    for (let y = m; y < canvas.height - m; y++) for (let x = m; x < canvas.width - m; x++) {
      if (data[4 * (y * canvas.width + x)] <= 200) continue;
      n += 1;
      across += (x + 0.5) / canvas.width;
      down += (y + 0.5) / canvas.height;
    }
    return [n, across / n, down / n];
  });
  return {bright, wide: document.documentElement.scrollWidth, width: innerWidth,
    panels: document.querySelectorAll("#rows canvas").length,
    readout: document.querySelector("#readout").textContent};"""


def shown_in_browser(
    folder: Path, text: str, blob: list[int], width: int, view: str = "compare"
) -> dict[str, Any]:
    """What the probe finds in the page shown `width` px wide, its sliders at `blob` (x, y, z)."""
    return in_browser(folder, text, PROBE.replace("BLOB", json.dumps(blob)), width, view)


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_the_blob_where_its_letters_say(tmp_path: Path, width: int) -> None:
    shown = volumes.page_volumes(make_run("oblique mirror"))
    index = np.rint(shown.grid.indices(BLOB)).astype(int)
    found = shown_in_browser(tmp_path, page.make_page(told(), shown), index.tolist(), width)
    assert found["wide"] <= found["width"] == width
    assert found["panels"] == 9
    x, y, z = (index + 0.5) / shown.grid.size  # shares from right, front, feet
    expected = {"axial": (x, y), "coronal": (x, 1 - z), "sagittal": (y, 1 - z)}
    assert x > 0.5
    for (count, *middle), (name, place) in zip(found["bright"], expected.items(), strict=True):
        assert count > 10, name
        np.testing.assert_allclose(middle, place, atol=0.04, err_msg=name)
    at = shown.grid.points(index.astype(float))
    assert f"x {at[0]:.1f}".replace("-", "\u2212") in found["readout"]


@needs_browser
@pytest.mark.parametrize(
    ("view", "panels"), [("grid", 3), ("jacobian", 6), ("error", 6), ("difference", 6)]
)
def test_every_view_draws_in_a_browser(tmp_path: Path, view: str, panels: int) -> None:
    shown = volumes.page_volumes(make_run("RAS", affine=AFFINE))
    found = shown_in_browser(tmp_path, page.make_page(told(), shown), [5, 5, 5], 400, view)
    assert found["panels"] == panels
    assert found["wide"] <= 400
