"""How the page of a cohort looks where that is easily missed."""

from __future__ import annotations

from pathlib import Path

from browsers import in_browser, needs_browser
from cohorts import changed, cohort, plain

from hsyn_cli.cohort import page


@needs_browser
def test_a_shadow_tells_of_columns_beyond_the_edge(tmp_path: Path) -> None:
    found = in_browser(
        tmp_path, page.make_page("study", cohort(30), [], {}, plain(cohort(30))),
        """const [frame, table] = ["#frame", "#scroller"].map((s) => document.querySelector(s));
        const shadow = () => getComputedStyle(frame, "::after").content !== "none";
        const out = {first: shadow(), bar: table.offsetHeight - table.clientHeight};
        table.scrollLeft = table.scrollWidth; table.onscroll(); out.last = shadow();
        return out;""",
    )  # fmt: skip
    assert found["first"]
    assert not found["last"]
    assert found["bar"] > 4


@needs_browser
def test_the_median_of_equal_values_is_in_the_middle_of_their_dots(tmp_path: Path) -> None:
    rows = [changed(row, {"folding_forward_percent": 0.0}) for row in cohort(30)]
    found = in_browser(
        tmp_path, page.make_page("study", rows, [], {}, plain(rows)),
        """const data = JSON.parse(document.querySelector("#data").textContent), { columns } = data;
        const k = columns.findIndex((column) => column.key === "folding_forward_percent");
        const plot = new Plot(columns[k], k, data, () => {});
        return {off: [200, 201, 205, 210].map((width) => {
          plot.place(width);
          return Math.max(...plot.dots.map(([x]) => Math.abs(x - plot.x(plot.median))));
        })};""",
    )  # fmt: skip
    assert max(found["off"]) < 1e-6


@needs_browser
def test_paper_shows_the_table_with_all_columns(tmp_path: Path) -> None:
    text = page.make_page("study", cohort(30), [], {}, plain(cohort(30)))
    found = in_browser(
        tmp_path, text.replace("@media print", "@media all"),
        """const box = (s) => document.querySelector(s).getBoundingClientRect();
        return {rows: box("#table").height, filter: box("#filter").height,
          wide: box("#table").width / box("main").width};""",
    )  # fmt: skip
    assert found["rows"] > 100
    assert found["filter"] == 0
    assert found["wide"] <= 1
