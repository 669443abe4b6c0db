"""The page and the table hold every pair of a study, with the warnings of each."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from browsers import in_browser, needs_browser
from cohorts import cohort, failed, report_of, write_study

from hsyn_cli.cohort import page
from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.page.pairs import About, read_pairs
from hsyn_cli.cohort.rows import Row
from hsyn_cli.cohort.status import Status


def add(study: Path, row: Row, start: str = "") -> None:
    """A pair as a run leaves it; its files begin with `start`."""
    names = [f"{row.folder}/{start}{name}" for name in ("warped.nii", "report.json", "report.html")]
    status = Status(
        row.id, "k", row.state, row.folder, exit_code=row.exit_code or 0, error=row.trouble,
        files=() if row.failed else tuple(names),
    )  # fmt: skip
    statuses.write(study / "status" / f"{row.id}.json", status)
    if row.failed:
        return
    (study / row.folder).mkdir(parents=True)
    inputs = {"moving": {"path": row.moving}, "fixed": {"path": row.fixed}}
    report = {**report_of(row), "inputs": inputs, "warnings": ["thin", "old"]}
    (study / names[1]).write_text(json.dumps(report))
    (study / names[2]).write_text("")
    (study / row.folder / f"{start}thumbnail.png").write_bytes(b"picture")


def some(study: Path) -> list[Row]:
    """A study with four pairs, of which the last list has two."""
    rows = cohort(4)
    rows[2] = dataclasses.replace(rows[2], folder="sub-2/anat")
    rows[3] = failed(rows[3])
    jobs = write_study(study, rows[:2])
    add(study, rows[2], "sub-2_")
    add(study, rows[3])
    page.write(study, [jobs[1], jobs[0]])
    return rows


def test_pairs_of_earlier_lists_stay_after_the_others(tmp_path: Path) -> None:
    rows = some(tmp_path)
    with (tmp_path / "cohort.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [line["id"][-1] for line in table] == list("1023")
    assert [line["in_last_list"] for line in table] == ["yes", "yes", "no", "no"]
    assert [line["state"] for line in table] == ["done", "done", "done", "failed"]
    assert [line["moving"] for line in table[2:]] == [rows[2].moving, ""]
    assert [line["warnings"] for line in table] == ["", "", "thin; old", ""]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "3 of 4 pairs done, 1 failed, 2 not in the last list." in text


def test_files_of_other_names_are_found(tmp_path: Path) -> None:
    some(tmp_path)
    got, abouts = read_pairs(tmp_path, [])
    (row,) = [row for row in got if row.id == "sub-0002"]
    assert row.page == "sub-2/anat/sub-2_report.html"
    assert row.thumbnail == "sub-2/anat/sub-2_thumbnail.png"
    assert row.values["overlap"]
    assert abouts[row.id] == About(False, ("thin", "old"))


def test_a_status_that_cannot_be_read_is_no_pair(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "a.json").write_text("{")
    assert read_pairs(tmp_path, []) == ([], {})


@needs_browser
def test_the_page_tells_which_pairs_are_of_earlier_lists(tmp_path: Path) -> None:
    some(tmp_path)
    found = in_browser(
        tmp_path, (tmp_path / "index.html").read_text(encoding="utf-8"),
        """const all = (s) => [...document.querySelectorAll(s)];
        all("[name=state]").find((i) => i.value === "not in the last list").click();
        const text = all("#table tbody tr[data-row]").map((tr) => tr.textContent);
        all("#table tbody tr[data-row]")[1].cells[1].click();
        return {text, chosen: document.querySelector("#chosen").textContent};""",
    )  # fmt: skip
    assert len(found["text"]) == 2
    assert all("not in the last list" in line for line in found["text"])
    assert "Warnings: thin; old" in found["chosen"]
