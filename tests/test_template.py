"""A whole template of a made-up group whose mean shape is known."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import groups
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import hsyn_cli
from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.supervisor import News
from hsyn_cli.cohort.tasks import Outcome, Task
from hsyn_cli.config.template import Settings
from hsyn_cli.errors import BatchError, OutputError
from hsyn_cli.fields.grids import affine_displacement, sample_mm
from hsyn_cli.fields.images import as_transform, from_image, to_image
from hsyn_cli.fields.sampling import length
from hsyn_cli.io.images import read_field
from hsyn_cli.space import Grid
from hsyn_cli.template import shape
from hsyn_cli.template.build import Template, template_files
from hsyn_cli.template.page import words
from hsyn_cli.template.run import Tell
from hsyn_cli.template.subjects import read
from hsyn_cli.tools.invert import invert

QUICK = Settings(rounds=1, preset="fast", sharpen=0.0)
ALONE = Work(threads=1)
PLACES = (Path(hsyn_cli.__file__).parents[1], Path(__file__).parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PLACES))}
KILLED = """
import os, sys
from pathlib import Path
import pytest, groups
from hsyn_cli.cohort.batch import Work
from hsyn_cli.config.template import Settings
from hsyn_cli.template import averages, finish
from hsyn_cli.template.build import template_files

kind, number = sys.argv[3], int(sys.argv[4])
place, name = {
    "pair": (groups.InThisProcess, "start"),
    "average": (averages.Average, "add"),
    "fields": (finish, "_write"),
}[kind]
real, count = getattr(place, name), [0]


def counted(*arguments):
    count[0] += 1
    if count[0] > number:
        os._exit(9)
    return real(*arguments)


setattr(place, name, counted)
groups.here(pytest.MonkeyPatch())
settings = Settings(rounds=1, preset="fast", sharpen=0.0)
scans = sorted(Path(sys.argv[1]).glob("*.nii.gz"))
template_files(scans, Path(sys.argv[2]), settings, Work(threads=1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("group")
    groups.group(made / "in", 2)
    return made


@pytest.fixture(scope="module")
def news() -> list[News]:
    """What `made` tells of pairs."""
    return []


@pytest.fixture(scope="module")
def made(folder: Path, news: list[News]) -> Iterator[Template]:
    tell = Tell(pairs=lambda: nullcontext(lambda tally: news.append))
    with pytest.MonkeyPatch.context() as patch:
        groups.here(patch)
        yield template_files(scans(folder), folder / "tpl", QUICK, ALONE, tell)


def scans(folder: Path) -> list[Path]:
    return sorted((folder / "in").glob("*.nii.gz"))


def values(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def fields(made: Template, name: str = "forward_field") -> dict[str, sitk.Image]:
    return {
        entry["id"]: read_field(made.out / entry["outputs"][name]).image
        for entry in made.record["subjects"]
    }


def mask(made: Template) -> np.ndarray:
    return values(made.out / "template_mask.nii.gz") > 0


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def contents(out: Path) -> dict[str, str]:
    """{file: the hash of what is packed in it} of all images and affines but those of work/."""
    return {
        str(path.relative_to(out)): hashlib.sha256(unpacked(path)).hexdigest()
        for pattern in ("*.nii.gz", "*.mat")
        for path in sorted(out.rglob(pattern))
        if "work" not in path.relative_to(out).parts
    }


def test_a_pair_that_ended_is_told_once(made: Template, news: list[News]) -> None:
    ended = [event.status.id for event in news if event.kind == "ended"]
    assert sorted(ended) == sorted(3 * [entry["id"] for entry in made.record["subjects"]])
    assert not [event for event in news if event.kind == "found"]  # none is of an earlier run


def test_all_files_that_the_record_names_are_there_and_work_holds_no_fields(made: Template) -> None:
    named = {*made.record["outputs"].values()}
    for entry in made.record["subjects"]:
        named |= {*entry["outputs"].values()}
    assert len(named) == 2 + 2 * 5
    assert set(contents(made.out)) == named
    assert not list((made.out / "work").rglob("*_field.nii.gz"))


def test_the_mean_displacement_of_the_fields_as_written_is_zero(made: Template) -> None:
    found = fields(made)
    grid = Grid.of(next(iter(found.values())))
    sums = shape.MeanShape(grid, mask(made))
    for field in found.values():
        sums.add(from_image(field))
    norm = float(shape.within(sums.mean(), mask(made)).mean())
    assert norm < 0.05
    assert made.record["left_mm"] == pytest.approx(norm, abs=0.005)
    assert all(entry["displacement_mm"]["mean"] > 0.4 for entry in made.record["subjects"])


def test_the_template_has_the_shape_that_is_the_mean_of_the_group(made: Template) -> None:
    """Template -> scan -> anatomy is the identity but for a rigid motion."""
    total = None
    for field, bend in zip(
        (field for _, field in sorted(fields(made).items())), groups.bends(2), strict=True
    ):
        back = from_image(invert(to_image(bend, groups.GRID), tolerance=0.01).inverse)
        grid, u = Grid.of(field), from_image(field)
        ends = affine_displacement(grid, np.eye(3), np.zeros(3), u.device, absolute=True) + u
        way = u + sample_mm(back, groups.GRID, ends)
        total = way / 2 if total is None else total + way / 2
    off = shape.within(shape.beyond_rigid(total, grid, mask(made)), mask(made))
    bent = length(groups.bends(2)[0])[0][torch.from_numpy(values_of(groups.anatomy()) > 0)]
    assert float(bent.mean()) > 0.7
    assert float(off.mean()) < 0.15


def values_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_both_fields_are_inverses_and_the_record_says_how_well(made: Template) -> None:
    inverses, inside = fields(made, "inverse_field"), mask(made)
    for entry in made.record["subjects"]:
        forward = fields(made)[entry["id"]]
        grid = Grid.of(forward)
        there = as_transform(forward)
        back = as_transform(inverses[entry["id"]])
        index = np.argwhere(inside)[::97, ::-1]
        points = grid.points(index.astype(float))
        ends = [back.TransformPoint(there.TransformPoint(p)) for p in points.tolist()]
        errors = np.linalg.norm(np.array(ends) - points, axis=1)
        assert errors.mean() < 0.05
        told = entry["inverse_error_template"]["mean_mm"]
        assert errors.mean() == pytest.approx(told, abs=0.01)


def test_the_log_jacobian_is_that_of_itk(made: Template) -> None:
    for entry in made.record["subjects"]:
        field = fields(made)[entry["id"]]
        det = sitk.DisplacementFieldJacobianDeterminant(field)  # right on a grid along L, P, S
        found = values(made.out / entry["outputs"]["log_jacobian"])
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(found[inner], np.log(values_of(det))[inner], atol=1e-3)


def test_the_template_is_the_mean_of_the_warped_scans(made: Template) -> None:
    warped = [values(made.out / entry["outputs"]["warped"]) for entry in made.record["subjects"]]
    template = values(made.out / "template.nii.gz")
    assert template.max() == pytest.approx(100, abs=15)
    np.testing.assert_allclose(template, np.mean(warped, axis=0), atol=0.1)


def test_the_same_command_finds_all_done(
    made: Template, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Work, "source", lambda *_: pytest.fail("it registers again"))
    again = template_files(scans(folder)[::-1], folder / "tpl", QUICK, ALONE)
    assert again.before
    assert again.record == made.record


def test_settings_that_end_with_the_same_files_are_told_and_nothing_else_changes(
    made: Template, folder: Path
) -> None:
    before = contents(made.out / "subjects")
    page = made.out / "index.html"
    other = template_files(
        scans(folder), folder / "tpl", dataclasses.replace(QUICK, tolerance=0.5), ALONE
    )
    assert other.before
    assert other.record["settings"] == {**made.record["settings"], "tolerance": 0.5}
    assert json.loads((made.out / "template.json").read_text()) == other.record
    assert "50&nbsp;%" in page.read_text(encoding="utf-8") or "50 %" in page.read_text("utf-8")
    assert template_files(scans(folder), folder / "tpl", QUICK, ALONE).record == made.record
    assert contents(made.out / "subjects") == before


def test_the_list_on_the_page_is_that_of_the_scans(made: Template, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text(words.scans(made.record), encoding="utf-8")
    told = [(entry["id"], entry["sha256"]) for entry in made.record["subjects"]]
    assert [(s.id, list(s.sha256)) for s in read([tmp_path / "scans.csv"])] == told


def test_the_page_is_written_and_again_where_it_is_missing_or_old(
    made: Template, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = made.out / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "Template of 2 subjects after 1 round." in text
    assert {path.name for path in (made.out / "pictures").iterdir()} == {
        "frame-2.png", "round-1.png",
    }  # fmt: skip
    for other in ("", text.replace(made.record["key"], "another")):
        page.unlink()
        if other:
            page.write_text(other, encoding="utf-8")
        template_files(scans(folder), folder / "tpl", QUICK, ALONE)
        assert page.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_order_and_brightness_do_not_matter(
    made: Template, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.here(monkeypatch)
    first, second = scans(folder)
    bright = tmp_path / "in" / second.name
    bright.parent.mkdir()
    sitk.WriteImage(sitk.ReadImage(str(second)) * 2, str(bright))
    other = template_files([bright, first], tmp_path / "tpl", QUICK, ALONE)
    there, here = fields(other), fields(made)
    for name, field in here.items():
        apart = length(from_image(there[name]) - from_image(field))
        assert float(apart.max()) < 0.02
    difference = values(made.out / "template.nii.gz") - values(other.out / "template.nii.gz")
    assert np.abs(difference).max() < 0.1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="follows a killed driver at once")
def test_killed_and_resumed_it_is_the_same_template(
    made: Template, folder: Path, tmp_path: Path
) -> None:
    kills = [("pair", 3), ("average", 3), ("fields", 1), ("pair", 1000)]
    for kind, number in kills:
        words = [sys.executable, "-c", KILLED, str(folder / "in"), str(tmp_path / "tpl")]
        ended = subprocess.run([*words, kind, str(number)], env=ENVIRONMENT, check=False)
        assert ended.returncode == (0 if number == 1000 else 9)
    assert contents(tmp_path / "tpl") == contents(made.out)
    assert not list(tmp_path.rglob(".hsyn-*"))


class EnoughError(Exception):
    """Ends a run."""


def test_a_scan_that_fails_stops_the_template_or_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(task: Task, tell: Callable[..., None]) -> Outcome:
        return Outcome(3, "it is odd") if task.id == "odd" else real(task, tell)

    real = groups.carry_out
    groups.here(monkeypatch)
    monkeypatch.setattr(groups, "carry_out", carry_out)
    sitk.WriteImage(groups.anatomy(), str(tmp_path / "odd.nii.gz"))
    files = [*scans(folder), tmp_path / "odd.nii.gz"]
    told: list[str] = []
    with pytest.raises(BatchError, match="frame-1: 1 of 3 scans failed, odd: it is odd") as error:
        template_files(files, tmp_path / "tpl", QUICK, ALONE, Tell(told.append))
    assert "--leave-out" in error.value.hint
    assert told == ["reading the scans", "affine pass 1 of 2"]
    assert not (tmp_path / "tpl" / "template.json").exists()

    def stage(text: str) -> None:
        if text == "affine pass 2 of 2":
            raise EnoughError

    settings = dataclasses.replace(QUICK, leave_out=True)
    with pytest.raises(EnoughError):
        template_files(files, tmp_path / "tpl", settings, ALONE, Tell(stage))
    entry = json.loads((tmp_path / "tpl" / "work" / "frame-1" / "stage.json").read_text())
    assert [left["id"] for left in entry["left_out"]] == ["odd"]
    assert entry["subjects"] == 2
    with pytest.raises(BatchError, match="odd"):  # without the option, it is not left out silently
        template_files(files, tmp_path / "tpl", QUICK, ALONE)


@pytest.mark.slow
def test_a_scan_that_was_left_out_comes_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails in the last round, the files of the others belong to another mean shape."""
    failing = {"odd"}

    def carry_out(task: Task, tell: Callable[..., None]) -> Outcome:
        fails = task.id in failing and "round-1" in str(task.study)
        return Outcome(3, "it is odd") if fails else real(task, tell)

    real = groups.carry_out
    groups.here(monkeypatch)
    monkeypatch.setattr(groups, "carry_out", carry_out)
    sitk.WriteImage(groups.anatomy(), str(tmp_path / "odd.nii.gz"))
    files, out = [*scans(folder), tmp_path / "odd.nii.gz"], tmp_path / "tpl"
    settings = dataclasses.replace(QUICK, leave_out=True, rounds=1)
    first = template_files(files, out, settings, ALONE).record
    assert [entry["id"] for entry in first["left_out"]] == ["odd"]
    before = contents(out)
    failing.clear()
    again = dataclasses.replace(ALONE, again=True)
    second = template_files(files, out, settings, again).record
    assert second["left_out"] == []
    assert len(second["subjects"]) == 3
    name = f"subjects/{first['subjects'][0]['id']}/forward_field.nii.gz"
    assert contents(out)[name] != before[name]
    assert template_files(files, out, settings, ALONE).before


def test_files_of_the_users_are_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in ("template.nii.gz", "template_mask.nii.gz", "visits"):
        path = tmp_path / name
        path.write_text("mine")
        with pytest.raises(OutputError, match="is not of hsyn template"):
            template_files(scans(folder), tmp_path, QUICK, ALONE)
        assert path.read_text() == "mine"
        path.unlink()
