"""The rows of a study: what is read of its files, and cohort.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest
from cohorts import cohort, failed, plain, write_study

from hsyn_cli.cohort import page
from hsyn_cli.cohort.measures import MEASURES, values_of
from hsyn_cli.cohort.page.table import to_csv
from hsyn_cli.cohort.page.words import state
from hsyn_cli.cohort.rows import Row, read_row


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = cohort(3)
    rows[1] = failed(rows[1], 4)
    rows[2] = dataclasses.replace(
        rows[2], state="failed", exit_code=10, trouble="unlike", attempts=2, lesions={"fixed": 0.5}
    )
    jobs = write_study(tmp_path, rows, b"picture")
    got = [read_row(tmp_path, job) for job in jobs]
    for row, written in zip(got, rows, strict=True):
        picture = "" if written.failed else f"{written.folder}/thumbnail.png"
        values = {key: pytest.approx(value) for key, value in written.values.items()}
        assert row == dataclasses.replace(written, thumbnail=picture, values={**values})
    assert [state(row) for row in got] == ["done", "failed", "doubtful"]


def test_a_pair_without_a_status_waits_and_a_damaged_one_too(tmp_path: Path) -> None:
    jobs = write_study(tmp_path, cohort(3))
    jobs[0].status(tmp_path).unlink()
    jobs[1].status(tmp_path).write_text("{")
    jobs[2].status(tmp_path).write_text('{"id": "x"}')
    assert [read_row(tmp_path, job).state for job in jobs] == ["waiting"] * 3


@pytest.mark.parametrize(
    "change", [{"problems": None}, {"state": "odd"}, {"attempts": "x"}, {"schema_version": 0}]
)
def test_a_status_that_is_none_of_this_version_waits(
    change: dict[str, object], tmp_path: Path
) -> None:
    (job,) = write_study(tmp_path, cohort(1))
    path = job.status(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_row(tmp_path, job).state == "waiting"


@pytest.mark.parametrize(
    "odd",
    [None, "x", True, [], [[1.0], "x"], {"a": 1}, math.nan, pytest.param(10**400, id="huge")],
)
def test_values_that_are_no_numbers_are_empty_and_the_page_is_written(
    odd: object, tmp_path: Path
) -> None:
    jobs = write_study(tmp_path, cohort(12))
    path, report = jobs[0].status(tmp_path), tmp_path / jobs[0].folder / "report.json"
    changes = {"peak_memory_mb": None if isinstance(odd, list | dict) else odd, "error": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    content = json.loads(report.read_text())
    content |= {"lesions": {"moving": odd, "fixed": 0.5}, "overlap": {"after": odd}}
    content |= {"peak_memory_mb": odd}
    report.write_text(json.dumps(content))
    row = read_row(tmp_path, jobs[0])
    assert row.lesions == {"fixed": 0.5}
    assert {"overlap", "peak_memory_mb"}.isdisjoint(row.values)
    assert "similarity" in row.values
    page.write(tmp_path, jobs)
    first = read((tmp_path / "cohort.csv").read_bytes().decode("utf-8"))[0]
    assert (first["lesion_moving_volume_factor"], first["overlap"]) == ("", "")


def test_a_damaged_or_older_report_leaves_cells_empty(tmp_path: Path) -> None:
    jobs = write_study(tmp_path, cohort(2))
    (tmp_path / jobs[0].folder / "report.json").write_text("[")
    (tmp_path / jobs[1].folder / "report.json").write_text(
        json.dumps({"overlap": {"after": 0.5}, "similarity": None, "change": {"max_mm": None}})
    )
    assert read_row(tmp_path, jobs[0]).values == {}
    assert read_row(tmp_path, jobs[1]).values == {"overlap": 0.5}


def test_the_status_knows_time_and_memory_better_than_the_report(tmp_path: Path) -> None:
    (job,) = write_study(tmp_path, cohort(1))
    path = job.status(tmp_path)
    content = json.loads(path.read_text()) | {"seconds": 3.5, "peak_memory_mb": 70.0, "new": 1}
    path.write_text(json.dumps(content))
    values = read_row(tmp_path, job).values
    assert (values["seconds"], values["peak_memory_mb"]) == (3.5, 70.0)


def test_outputs_of_an_earlier_run_are_not_those_of_one_that_failed(tmp_path: Path) -> None:
    rows = cohort(2)
    jobs = write_study(tmp_path, rows)
    for job, change in zip(
        jobs, ({"state": "failed", "exit_code": 8}, {"state": "running"}), strict=True
    ):
        path = job.status(tmp_path)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        row = read_row(tmp_path, job)
        assert (row.values, row.page) == ({}, "")


def test_a_message_is_one_line(tmp_path: Path) -> None:
    jobs = write_study(tmp_path, [failed(cohort(1)[0], 1, "one\n  two")])
    assert read_row(tmp_path, jobs[0]).trouble == "one two"


def test_other_names_of_outputs_are_followed(tmp_path: Path) -> None:
    (job,) = write_study(tmp_path, cohort(1), b"picture")
    names = {"report": "a_report.json", "page": "a_report.html", "thumbnail": "a.png"}
    folder = tmp_path / job.folder
    for old, new in zip(
        ("report.json", "report.html", "thumbnail.png"), names.values(), strict=True
    ):
        (folder / old).rename(folder / new)
    row = read_row(tmp_path, dataclasses.replace(job, names=names))
    assert row.page == f"{job.folder}/a_report.html"
    assert row.thumbnail == f"{job.folder}/a.png"
    assert row.values["overlap"]


def test_vectors_count_by_their_length_and_nonsense_not_at_all() -> None:
    report = {
        "linear": {"translation_mm": [3.0, 4.0, 12.0], "scales": [1.1, "x"], "shear": float("nan")},
        "folding": {"percent": True},
    }
    assert values_of(report) == {"translation_mm": 13.0, "affine_scale_x": 1.1}


def test_every_measure_has_its_own_column() -> None:
    keys = [measure.key for measure in MEASURES]
    assert len(set(keys)) == len(keys)
    assert all((m.least > 0) == (m.bad != "none") for m in MEASURES)


def test_the_guide_explains_every_column() -> None:
    guide = Path(page.__file__).parents[2] / "guide" / "batch-page.md"
    told = set(re.findall(r"`(\w+)`", guide.read_text(encoding="utf-8")))
    (line, *_) = csv.reader(io.StringIO(to_csv([], {}), newline=""))
    assert set(line) <= told
    assert {"waiting", "running", "done", "doubtful", "failed"} <= told


def test_the_table_keeps_what_is_hard_to_write(tmp_path: Path) -> None:
    odd = '=HYPERLINK("x"), "so"'
    row = dataclasses.replace(cohort(1)[0], id=odd, lesions={"moving": 0.75})
    broken = failed(Row("ünï", "m, 1.nii", "f.nii", "b", "done"), 3, "one line")
    rows = [row, broken, Row("w", "m", "f", "w")]
    text = to_csv(rows, plain(rows))
    assert text.count("\r\n") == 4 == len(text.splitlines())
    one, two, three = read(text)
    assert one["id"] == odd
    assert float(one["lesion_moving_volume_factor"]) == 0.75
    assert float(one["similarity"]) == row.values["similarity"]
    assert (two["id"], two["moving"], two["problem"]) == ("ünï", "m, 1.nii", "one line")
    assert (two["rank"], two["exit_code"], two["similarity"]) == ("1", "3", "")
    assert two["why"] == "failed (exit code 3): one line"
    assert (three["state"], three["exit_code"], three["rank"]) == ("waiting", "", "")
    assert {"folding_forward_percent", "peak_memory_mb", "rotation_degrees"} <= one.keys()


def test_the_table_of_a_study_lies_beside_its_page(tmp_path: Path) -> None:
    rows = cohort(12)
    jobs = write_study(tmp_path, rows)
    page.write(tmp_path, jobs)
    table = read((tmp_path / "cohort.csv").read_bytes().decode("utf-8"))
    assert [line["id"] for line in table] == [row.id for row in rows]
    assert {line["state"] for line in table} == {"done"}
    assert {p.name for p in tmp_path.iterdir()} == {"status", "pairs", "cohort.csv", "index.html"}
