"""index.html of a cohort: one file, nothing from outside, and as a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import NAMES, in_browser, needs_browser
from cohorts import PLANTED, changed, cohort, failed, plain, write_study

from hsyn_cli.cohort import page
from hsyn_cli.cohort.page import words
from hsyn_cli.cohort.rows import Row
from hsyn_cli.cohort.thumbnail import MOST_BYTES, palette, png

PICTURE = png(np.arange(600, dtype=np.uint8).reshape(20, 30) % 29, palette())
PAIRS = 40  # of the cohort below


def some() -> list[Row]:
    """A cohort with one failed pair, one doubtful and one that stands out."""
    rows = cohort(PAIRS)
    rows[3] = failed(rows[3], 4, "do not overlap in space")
    rows[11] = dataclasses.replace(rows[11], state="failed", exit_code=10, trouble="unlike")
    rows[25] = changed(rows[25], PLANTED[0])
    return rows


def written(study: Path, rows: list[Row], picture: bytes = PICTURE) -> str:
    page.write(study, write_study(study, rows, picture))
    return (study / "index.html").read_text(encoding="utf-8")


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'id="data">(.*?)</script>', text, flags=re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    text = written(tmp_path / "study", some())
    assert "://" not in text
    assert "default-src 'none'; img-src data:;" in text
    assert not re.search(r"url\(|@import|\bimport\b|fetch\(|XMLHttpRequest|\ssrc=|srcset", text)
    for row in data_of(text)["rows"]:
        assert row["picture"].startswith("data:image/png;base64,") or row["state"] == "failed"
        assert row["page"] in ("", f"./pairs/{row['id']}/report.html")


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    bad = "</script><b onclick='x'>&\""
    rows = some()
    rows[3] = dataclasses.replace(rows[3], trouble=bad, moving=bad)
    text = page.make_page(bad, rows, page.find(rows), {}, plain(rows))
    assert "<b " not in text
    assert text.count("</script>") == 2
    assert data_of(text)["rows"][3]["note"] == bad


def test_the_headline_counts_every_pair() -> None:
    rows = some()
    for k in (30, 31):
        rows[k] = Row(f"w{k}", "m", "f", "w", "running" if k == 30 else "waiting")
    found = page.find(rows)
    line = "36 of 40 pairs done, 1 failed, 1 doubtful, 1 stands out, 1 running, 1 waiting."
    assert words.headline(rows, found, plain(rows)) == line
    assert words.headline(rows[:1], [], plain(rows)) == "1 of 1 pair done."


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([Row("a", "m", "f", "a")], "No pair has a result yet."),
        ([failed(Row("a", "m", "f", "a", "done"))], "No pair has a result."),
        (cohort(9), "With fewer than 10 results, hsyn does not say"),
        (cohort(10), "No pair stands out"),
        (some(), ""),
    ],
)
def test_what_cannot_be_said_is_said(rows: list[Row], note: str) -> None:
    text = words.first(rows, page.find(rows), {row.id: k for k, row in enumerate(rows)})
    assert (note in text) if note else text.startswith("<ol>")


def test_many_findings_fold_away() -> None:
    rows = [failed(row) for row in cohort(30)]
    text = words.first(rows, page.find(rows), {row.id: k for k, row in enumerate(rows)})
    assert f"<summary>{30 - words.AT_ONCE} more</summary>" in text
    assert text.count('class="finding failed"') == 30


def test_thumbnails_beyond_the_room_are_linked_the_first_ones_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(base64.b64encode(PICTURE))
    monkeypatch.setattr(page, "MOST_EMBEDDED", 3 * size)
    rows = some()
    rows[5] = dataclasses.replace(rows[5], folder="pairs/5 %ü#")
    text = written(tmp_path / "study", rows)
    pictures = {row["id"]: row["picture"] for row in data_of(text)["rows"]}
    held = {name for name, source in pictures.items() if source.startswith("data:")}
    assert {"sub-0011", "sub-0025"} <= held
    assert len(held) == 3
    assert pictures["sub-0005"] == "./pairs/5%20%25%C3%BC%23/thumbnail.png"
    assert "img-src data: file:" in text


def test_a_thousand_pairs_stay_under_20_mb(tmp_path: Path) -> None:
    rows = cohort(1000)
    noise = np.random.default_rng(0).bytes(MOST_BYTES)
    pictures = {r.id: f"data:image/png;base64,{base64.b64encode(noise).decode()}" for r in rows}
    text = page.make_page("study", rows, page.find(rows), pictures, plain(rows))
    assert len(text.encode()) < 20_000_000
    assert 1000 * len(base64.b64encode(noise)) < page.MOST_EMBEDDED


def test_ci_installs_what_the_tests_look_for() -> None:
    script = Path(__file__).parents[1] / ".ci" / "run"
    assert f"for name in {' '.join(NAMES)}; do" in script.read_text(encoding="utf-8")


# ---- in a browser

HELPERS = """
const all = (s) => [...document.querySelectorAll(s)], one = (s) => document.querySelector(s);
const column = (name) => all("#table thead th").findIndex((th) => th.textContent.startsWith(name));
const lines = () => all("#table tbody tr[data-row]");
const cells = (name) => lines().map((tr) => tr.cells[column(name)].textContent);
const sort = (name) => all("#table thead th")[column(name)].querySelector("button").click();
const type = (text) => {
  one("#find").value = text;
  one("#find").dispatchEvent(new Event("input"));
};
"""


@needs_browser
@pytest.mark.parametrize("width", [480, 1280])
def test_a_browser_shows_what_to_look_at_and_a_table_of_all(tmp_path: Path, width: int) -> None:
    found = in_browser(
        tmp_path, written(tmp_path / "study", some()),
        HELPERS + """return {
        wide: document.documentElement.scrollWidth, width: innerWidth,
        first: all(".finding .name").map((p) => p.firstChild.textContent),
        pictures: all(".finding img").map((i) => i.naturalWidth),
        links: all(".finding a").map((a) => a.getAttribute("href")),
        plots: all(".plot").length, drawn: all(".plot canvas").every((c) => {
          const pixels = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          return pixels.some((v) => v > 0); }),
        ids: cells("pair"), ranks: cells("rank"), rows: one("#table").getAttribute("aria-rowcount"),
        far: all("td.far").map((td) => td.title)};""",
        width,
    )  # fmt: skip
    assert found["wide"] <= found["width"] == width
    assert found["first"] == ["sub-0003", "sub-0011", "sub-0025"]
    assert found["pictures"] == [30, 30]
    assert found["links"] == [f"./pairs/sub-00{k}/report.html" for k in (11, 25)]
    assert found["plots"] == 20
    assert found["drawn"]
    assert found["ids"][:4] == ["sub-0003", "sub-0011", "sub-0025", "sub-0000"]
    assert found["ranks"][:4] == ["1", "2", "3", ""]
    assert found["rows"] == str(PAIRS + 1)
    assert len(found["far"]) == 1
    assert found["far"][0].startswith("affine scale, front to back 1.45, ")


@needs_browser
def test_sorting_and_filtering(tmp_path: Path) -> None:
    rows = some()
    rows[3] = dataclasses.replace(rows[3], trouble=f"{rows[3].trouble}, {'and so on ' * 40}")
    found = in_browser(
        tmp_path, written(tmp_path / "study", rows),
        HELPERS + """const out = {heights: lines().map((tr) => tr.offsetHeight)};
        sort("similarity"); out.low = cells("similarity");
        sort("similarity"); out.high = cells("similarity");
        out.way = all("#table thead th")[column("similarity")].getAttribute("aria-sort");
        sort("affine scale, front"); out.scale = cells("affine scale, front");
        sort("pair"); sort("pair"); out.last = cells("pair")[0];
        type("TEMPLATE B-002"); out.text = cells("pair"); out.count = one("#count").textContent;
        type("overlap in"); out.note = cells("pair");
        type("nothing like it"); out.none = one("#table tbody").textContent;
        type("");
        const states = all("[name=state]").map((i) => i.value); out.states = states;
        one("[name=state][value=doubtful]").click(); out.doubtful = cells("pair");
        one("[name=state][value='stands out']").click(); out.far = cells("pair");
        return out;""",
    )  # fmt: skip
    known = sorted(row.values["similarity"] for row in rows if row.values)
    assert float(found["low"][0]) == pytest.approx(known[0], abs=5e-4)
    assert float(found["high"][0]) == pytest.approx(known[-1], abs=5e-4)
    assert set(found["heights"]) == {52}
    assert found["way"] == "descending"
    assert found["scale"][0] == "1.45"
    assert found["last"] == "sub-0039"
    assert found["text"] == [f"sub-002{k}" for k in range(9, -1, -1)]
    assert found["count"] == "10 of 40 pairs"
    assert found["note"] == ["sub-0003"]
    assert found["none"] == "No pair fits."
    assert found["states"] == ["all", "stands out", "done", "doubtful", "failed"]
    assert found["doubtful"] == ["sub-0011"]
    assert found["far"] == ["sub-0025"]


@needs_browser
def test_a_dot_a_row_and_the_keys_choose_a_pair(tmp_path: Path) -> None:
    found = in_browser(
        tmp_path, written(tmp_path / "study", some()),
        HELPERS + """const out = {};
        const chosen = () => one("#chosen").hidden ? null : one("#chosen strong").textContent;
        const key = (on, key) =>
          on.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        const plot = all(".plot").find((p) => p.textContent.startsWith("affine scale, front"));
        const canvas = plot.querySelector("canvas"), box = canvas.getBoundingClientRect();
        const at = {clientX: box.right - 7, clientY: box.bottom - 7, bubbles: true};
        canvas.dispatchEvent(new PointerEvent("pointermove", at));
        out.readout = plot.querySelector(".value").textContent;
        canvas.dispatchEvent(new MouseEvent("click", at)); out.dot = chosen();
        out.why = one("#chosen .why").textContent; out.open = one("#chosen a").getAttribute("href");
        key(document, "Escape"); out.closed = chosen();
        for (const name of ["End", "ArrowLeft", "ArrowRight", "Enter"]) key(canvas, name);
        out.keys = chosen();
        one("#table tbody tr[data-row]").cells[2].click(); out.row = chosen();
        key(one("#scroller"), "ArrowDown"); key(one("#scroller"), "ArrowDown");
        key(one("#scroller"), "ArrowDown"); out.down = chosen();
        out.marked = one("tr.chosen .id").textContent;
        type("sub-0003"); one(".finding:nth-child(3) button").click(); out.first = chosen();
        all("#chosen button")[0].click(); out.shown = one("tr.chosen .id").textContent;
        return out;""",
    )  # fmt: skip
    assert found["readout"] == "sub-0025: 1.45"
    assert found["dot"] == found["keys"] == found["first"] == found["shown"] == "sub-0025"
    assert found["why"].startswith("affine scale, front to back 1.45, ")
    assert found["open"] == "./pairs/sub-0025/report.html"
    assert found["closed"] is None
    assert found["row"] == "sub-0003"
    assert found["down"] == found["marked"] == "sub-0000"


@needs_browser
def test_of_a_thousand_rows_only_those_in_view_are_built(tmp_path: Path) -> None:
    found = in_browser(
        tmp_path, page.make_page("study", cohort(1000), [], {}, plain(cohort(1000))),
        HELPERS + """const out = {};
        const height = one("#scroller").scrollHeight; out.height = height;
        out.few = cells("pair").length; out.first = cells("pair")[0];
        one("#scroller").scrollTop = height; one("#scroller").onscroll();
        out.last = cells("pair").at(-1);
        out.index = lines().at(-1).getAttribute("aria-rowindex");
        sort("pair"); out.top = one("#scroller").scrollTop;
        dispatchEvent(new Event("beforeprint")); out.printed = cells("pair").length;
        return out;""",
    )  # fmt: skip
    assert found["height"] > 1000 * 40
    assert found["few"] < 60
    assert (found["first"], found["last"], found["index"]) == ("sub-0000", "sub-0999", "1001")
    assert found["top"] == 0
    assert found["printed"] == 1000


@needs_browser
@pytest.mark.parametrize(
    ("rows", "plots", "columns"),
    [
        ([Row(f"w{k}", "m", "f", f"w{k}") for k in range(3)], 0, ["pair", "state", "attempts"]),
        (
            [failed(row) for row in cohort(3)],
            0,
            ["pair", "rank", "state", "problem", "attempts"],
        ),
        ([], 0, []),
        ([changed(cohort(1)[0], {"seconds": 3.0})], 20, None),
    ],
)
def test_small_and_empty_cohorts(
    tmp_path: Path, rows: list[Row], plots: int, columns: list[str] | None
) -> None:
    found = in_browser(
        tmp_path, written(tmp_path / "study", rows),
        HELPERS + """return {plots: all(".plot").length, hidden: one("#plots").hidden,
        all: one("#all").hidden, heads: all("#table thead th").map((th) => th.textContent),
        ids: cells("pair")};""",
    )  # fmt: skip
    assert found["plots"] == plots
    assert found["hidden"] == (plots == 0)
    assert found["all"] == (not rows)
    if columns and rows:
        assert found["heads"] == columns
    assert len(found["ids"]) == len(rows)
