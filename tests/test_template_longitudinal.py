"""Longitudinal templates: made-up subjects whose visits differ by fields that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import groups
import numpy as np
import pytest
import SimpleITK as sitk
from test_template import ALONE, ENVIRONMENT, QUICK, contents, values

from hsyn_cli.cli import run
from hsyn_cli.cli.commands import template as template_command
from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.drivers import Driver, driving
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.errors import FailedError, InputError, UsageError
from hsyn_cli.fields.images import as_transform
from hsyn_cli.template import carry, rounds, visits, within
from hsyn_cli.template.build import Template
from hsyn_cli.template.longitudinal import longitudinal_files
from hsyn_cli.template.page.words import scans
from hsyn_cli.template.run import Run
from hsyn_cli.template.stages import Stage
from hsyn_cli.template.within import Study

ROWS = (
    ("one", "before", "sub-0.nii.gz"),
    ("one", "after", "sub-1.nii.gz"),
    ("two", "", "sub-2.nii.gz"),
)
KILLED = """
import os, sys
from pathlib import Path
import pytest, groups
from hsyn_cli.cohort.batch import Work
from hsyn_cli.config.template import Settings
from hsyn_cli.template import carry, longitudinal

real, count = carry.carry, [0]


def counted(its):
    count[0] += 1
    if count[0] > 1:
        os._exit(9)
    return real(its)


carry.carry = counted
groups.here(pytest.MonkeyPatch())
settings = Settings(rounds=1, preset="fast", sharpen=0.0)
longitudinal.longitudinal_files(Path(sys.argv[1]), Path(sys.argv[2]), settings, Work(threads=1))
"""


def table(folder: Path, rows: Sequence[tuple[str, ...]], name: str = "subjects.csv") -> Path:
    lines = [",".join(row) for row in (("subject", "visit", "scan"), *rows)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("visits")
    groups.group(made, 4)
    return made


@pytest.fixture(scope="module")
def made(folder: Path) -> Iterator[Template]:
    with pytest.MonkeyPatch.context() as patch:
        groups.here(patch)
        yield longitudinal_files(table(folder, ROWS), folder / "tpl", QUICK, ALONE)


def link(made: Template, subject: str, visit: str, name: str) -> sitk.Transform:
    place = made.out / "visits" / subject / visit / f"{name}_field.nii.gz"
    return as_transform(sitk.ReadImage(str(place)))


def test_every_visit_has_its_files_and_its_entry(made: Template) -> None:
    found = made.record["longitudinal"]
    assert [one["id"] for one in found["subjects"]] == ["one", "two"]
    assert found["left_out"] == []
    for one in found["subjects"]:
        for visit in one["visits"]:
            named = [
                *visit["outputs"].values(),
                *(visit["within"] or {}).get("outputs", {}).values(),
            ]
            assert all((made.out / file).is_file() for file in named)
            assert visit["inverse_error_template"]["mean_mm"] < 0.1
            assert visit["inverse_error_visit"]["mean_mm"] < 0.1
            assert visit["folding"]["voxels"] == 0
    (line,) = made.record["warnings"]
    assert line.startswith("two has one scan, which is its own template")
    assert not values(made.out / "visits/two/sub-2/within_log_jacobian.nii.gz").any()


def test_the_table_on_the_page_lists_the_same_visits(made: Template, tmp_path: Path) -> None:
    listed = tmp_path / "subjects.csv"
    listed.write_text(scans(made.record))
    first, second = visits.read(made.out.parent / "subjects.csv"), visits.read(listed)
    assert [(one.id, one.subject, one.names) for one in second] == [
        (one.id, one.subject, one.names) for one in first
    ]
    hashes = [
        [visit.sha256 for one in people for visit in one.visits] for people in (first, second)
    ]
    assert hashes[0] == hashes[1]


def test_the_fields_are_those_of_their_parts_composed(made: Template) -> None:
    whole = link(made, "one", "after", "forward")
    part = made.out / "subjects/one/forward_field.nii.gz"
    between = as_transform(sitk.ReadImage(str(part)))
    own = made.out / "within/one/subjects/after/forward_field.nii.gz"
    within = as_transform(sitk.ReadImage(str(own)))
    inside = np.argwhere(values(made.out / "template_mask.nii.gz") > 0)[::97, ::-1]
    template = sitk.ReadImage(str(made.out / "template.nii.gz"))
    for index in inside.tolist():
        point = template.TransformIndexToPhysicalPoint(index)
        composed = within.TransformPoint(between.TransformPoint(point))
        assert np.allclose(whole.TransformPoint(point), composed, atol=0.004)  # as rounded


def test_the_way_there_and_back_ends_where_it_began(made: Template) -> None:
    there, back = (link(made, "one", "before", name) for name in ("forward", "inverse"))
    template = sitk.ReadImage(str(made.out / "template.nii.gz"))
    inside = np.argwhere(values(made.out / "template_mask.nii.gz") > 0)[::97, ::-1]
    points = [template.TransformIndexToPhysicalPoint(index) for index in inside.tolist()]
    ends = [back.TransformPoint(there.TransformPoint(point)) for point in points]
    assert np.linalg.norm(np.subtract(ends, points), axis=1).mean() < 0.1


def test_the_change_within_a_subject_is_carried_to_the_group(made: Template) -> None:
    own = made.out / "within/one/subjects/after/log_jacobian.nii.gz"
    part = as_transform(sitk.ReadImage(str(made.out / "subjects/one/forward_field.nii.gz")))
    template = sitk.ReadImage(str(made.out / "template.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(own)), template, part))
    found = values(made.out / "visits/one/after/within_log_jacobian.nii.gz")
    inside = values(made.out / "template_mask.nii.gz") > 0
    assert np.abs(found - expected)[inside].max() < 1e-4
    between = values(made.out / "subjects/one/log_jacobian.nii.gz")
    total = values(made.out / "visits/one/after/total_log_jacobian.nii.gz")
    assert np.abs(total - found - between)[inside].mean() < 0.01  # det (W o G) = det W det G


def test_a_second_run_does_nothing(
    made: Template, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.here(monkeypatch)
    before = contents(made.out)
    again = longitudinal_files(table(folder, ROWS[::-1]), made.out, QUICK, ALONE)
    assert again.before
    assert again.record["longitudinal"] == made.record["longitudinal"]
    assert contents(made.out) == before


@pytest.mark.slow
def test_swapped_visits_in_turned_rows_swap_their_files_and_change_no_byte(
    made: Template, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the change from one to the other has the other sign, and the same size."""
    groups.here(monkeypatch)
    swap = {"before": "after", "after": "before", "": ""}
    rows = [(subject, swap[visit], scan) for subject, visit, scan in ROWS[::-1]]
    swapped = longitudinal_files(table(folder, rows, "s.csv"), folder / "swapped", QUICK, ALONE)
    names = {"before": "after", "after": "before"}
    turned = {
        "/".join(names.get(part, part) for part in file.split("/")): sha256
        for file, sha256 in contents(swapped.out).items()
    }
    assert turned == contents(made.out)
    first, second = (
        values(made.out / f"within/one/subjects/{visit}/log_jacobian.nii.gz")
        for visit in ("before", "after")
    )
    assert np.abs(second - first).max() > 0.05


def test_only_the_rounds_of_one_person_are_rigid_and_sampled_evenly(
    made: Template, folder: Path
) -> None:
    person = visits.read(table(folder, ROWS))[0]
    place = made.out / "within/one/work/frame-2"
    before = Stage(place, json.loads((place / "stage.json").read_text()))
    for settings, expected in ((QUICK.within, ("rigid", True)), (QUICK, (None, None))):
        run = Run(person.visits, made.out, settings, ALONE)
        for job in rounds.jobs_of_round(run, before, 1):
            assert (job.options.get("affine"), job.options.get("even")) == expected


@pytest.mark.parametrize("lives", [False, True])
def test_shards_that_try_again_believe_no_failure_of_an_earlier_run(
    folder: Path, tmp_path: Path, lives: bool
) -> None:
    """A failure that a dead shard left is about to be tried again; that of a living one counts."""
    people = visits.read(table(folder, (*ROWS[:2], ("two", "", "sub-2.nii.gz"))))
    first, second = Shard(1, 2), Shard(2, 2)
    once, again = (
        Study(people, Run((), tmp_path, QUICK, Work(threads=1, shard=second, again=more)))
        for more in (False, True)
    )
    with driving(once.signs, first), driving(once.signs, second) as (_, others):
        driver = asdict(Driver.here(first))
        if not lives:
            driver["born"] += 1
        told = {"exit_code": 11, "error": "it is odd"}
        plain = {"wanted": once.wanted(people[0]), "key": None, "failed": told, "driver": driver}
        (once.signs / "one.json").write_text(json.dumps(plain))
        assert within.sign(once, people[0], others) == plain
        assert within.sign(again, people[0], others) == (plain if lives else None)


def test_composed_fields_that_fold_or_miss_are_not_to_be_trusted(made: Template) -> None:
    one, two = made.record["longitudinal"]["subjects"]
    assert not any(visit["problems"] for visit in (*one["visits"], *two["visits"]))
    bad = dict(one["visits"][0])
    bad["inverse_folding"] = {**bad["inverse_folding"], "percent": 0.25}
    bad["inverse_error_visit"] = {**bad["inverse_error_visit"], "mean_mm": 1.7}
    assert carry.problems(bad, groups.VOXEL) == [
        "its composed inverse field folds in 0.25 % of the voxels",
        "its composed fields miss by 1.7 mm on the way from the visit and back",
    ]
    bad["problems"] = carry.problems(bad, groups.VOXEL)
    found = {"left_out": [], "subjects": [{**one, "visits": [bad]}]}
    record = {**made.record, "longitudinal": found}
    with pytest.raises(FailedError, match="is not to be trusted: its composed inverse field"):
        template_command._judge(replace(made, record=record))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(
    made: Template, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "killed"
    words = [sys.executable, "-c", KILLED, str(table(folder, ROWS)), str(out)]
    assert subprocess.run(words, env=ENVIRONMENT, check=False).returncode == 9
    assert not (out / "visits/two/sub-2/visit.json").exists()
    groups.here(monkeypatch)
    resumed = longitudinal_files(table(folder, ROWS), out, QUICK, ALONE)
    assert contents(out) == contents(made.out)
    key = resumed.record["longitudinal"]["key"]
    assert key == made.record["longitudinal"]["key"]


FAULTS = {
    "line 3: visit a of s is that of line 2, too": [
        ("s", "a", "sub-0.nii.gz"), ("s", "a", "sub-1.nii.gz"),
    ],
    "visits 'a/b' and 'a b' of s .line 2. would get one folder": [
        ("s", "a b", "sub-0.nii.gz"), ("s", "a/b", "sub-1.nii.gz"),
    ],
    "subjects 'S' and 's' .line 2. would get one folder": [
        ("s", "a", "sub-0.nii.gz"), ("S", "a", "sub-1.nii.gz"),
    ],
    "no subject is given": [("", "a", "sub-0.nii.gz"), ("s", "a", "sub-1.nii.gz")],
    "no scan is given": [("s", "a", ""), ("t", "a", "sub-1.nii.gz")],
    "does not exist": [("s", "a", "none.nii.gz"), ("t", "a", "sub-1.nii.gz")],
    "is given twice": [("s", "a", "sub-0.nii.gz"), ("t", "a", "sub-0.nii.gz")],
    "is 2-D, and": [("s", "a", "sub-0.nii.gz"), ("s", "b", "flat.nii.gz")],
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_tables(fault: str, folder: Path) -> None:
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkFloat32) + 1.0, str(folder / "flat.nii.gz"))
    with pytest.raises(InputError, match=fault):
        visits.read(table(folder, FAULTS[fault], "wrong.csv"))


def test_one_subject_and_strange_columns_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="lists one subject"):
        visits.read(table(folder, ROWS[:2], "one.csv"))
    path = folder / "strange.csv"
    path.write_text("subject,age,scan\ns,1,sub-0.nii.gz\n")
    with pytest.raises(InputError, match="unknown column age"):
        visits.read(path)
    path.write_text("visit,scan\n1,sub-0.nii.gz\n")
    with pytest.raises(InputError, match="lacks the column subject"):
        visits.read(path)


def test_files_beside_a_table_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["a.nii.gz", "--longitudinal", "t.csv"], []):
        assert run(["template", *words, "-o", str(folder / "none")]) == 2
    assert "--longitudinal" in capsys.readouterr().err
    assert not (folder / "none").exists()
