"""index.html of a template: what it says, and as a browser shows it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import SimpleITK as sitk
import templates
from browsers import in_browser, needs_browser

from hsyn_cli.cli import run
from hsyn_cli.cli.commands.template import COMMAND
from hsyn_cli.cohort.outliers import LEAST_PAIRS, find
from hsyn_cli.cohort.thumbnail import MOST_BYTES
from hsyn_cli.config.template import Settings
from hsyn_cli.errors import OutputError
from hsyn_cli.results.page import volumes as page_volumes
from hsyn_cli.space import Grid
from hsyn_cli.template import carry, page
from hsyn_cli.template.build import template_files
from hsyn_cli.template.page import pictures, plots, subjects, words
from hsyn_cli.template.page.pictures import Pictures, Volumes

BAD = "</script><b onclick='x'>&\""


def study() -> dict[str, Any]:
    """Twelve subjects: one far away, one doubtful; and one left out."""
    told = templates.record(12)
    told["subjects"][4] = templates.subject("far", 9.0)
    told["subjects"][7] = templates.subject("odd", 1.0, problems=["unlike the template"])
    told["left_out"] = [templates.left_out("lost")]
    told["warnings"] = ["the scans of a and b are the same; the template counts both"]
    return told


def longitudinal() -> dict[str, Any]:
    """Two subjects: one with two visits, of which one is doubtful, and one lost; one with one."""
    within = {
        "log_det_mean": 0.03, "log_det_sd": 0.0512, "displacement_mm": {"mean": 0.123, "max": 1.0},
        "correlation": 0.9876, "problems": [], "outputs": {},
    }  # fmt: skip

    def visit(name: str, **more: Any) -> dict[str, Any]:
        scans = {"scans": [f"/scans/{name}.nii.gz"], "mask": None}
        return {"id": name, "visit": name, **scans, "within": within, "problems": [], **more}

    later = visit("month 12", within={**within, "log_det_mean": -0.02}, problems=["it folds"])
    told = templates.record(2)
    told["longitudinal"] = {
        "key": "4567",
        "subjects": [
            {"id": "sub-000", "subject": "0", "visits": [visit("first"), later]},
            {"id": "sub-001", "subject": "1", "visits": [visit("only", within=None)]},
        ],
        "left_out": [{"id": "sub-000", "visit": "lost", "stage": "round-1", "error": "no overlap"}],
    }
    return told


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'id="data">(.*?)</script>', text, flags=re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def written(out: Path, told: dict[str, Any], size: tuple[int, ...] = templates.SIZE) -> str:
    return page.write(templates.write(out, told, size), told, fresh=True)


def test_the_page_is_one_file_that_refers_to_nothing_outside(tmp_path: Path) -> None:
    text = written(tmp_path / "tpl", study())
    assert text == (tmp_path / "tpl" / "index.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert "default-src 'none'; img-src data:;" in text
    assert not re.search(r"url\(|@import|\bimport\b|fetch\(|XMLHttpRequest|srcset", text)
    assert re.findall(r"\ssrc=.{11}", text) == [' src="data:image'] * 3
    for row in data_of(text)["list"]["rows"]:
        assert row["picture"].startswith("data:image/png;base64,") or row["id"] == "lost"
        assert row["page"] == ("" if row["id"] == "lost" else f"./subjects/{row['id']}/")


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    told = study()
    told["warnings"] = [BAD]
    told["subjects"][0]["scans"] = told["left_out"][0]["scans"] = [BAD]
    told["left_out"][0] |= {"id": BAD, "error": BAD}
    told["settings"]["model"] = told["key"] = BAD
    drawn = pictures.read(templates.write(tmp_path / "tpl", told), told, lambda name, part: None)
    text = page.make_page(BAD, told, drawn, BAD)
    assert "<b " not in text
    assert text.count("</script>") == 2
    assert any(row["id"] == BAD for row in data_of(text)["list"]["rows"])


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            templates.record(3),
            "Template of 3 subjects after 2 rounds. It has converged: the last round changed it by "
            "1.5 %, less than 2 %.",
        ),
        (
            templates.record(2, 1),
            "Template of 2 subjects after 1 round. The round changed it by 3 %; one round cannot "
            "tell whether it has converged.",
        ),
        (
            templates.record(3, ended="rounds"),
            "Template of 3 subjects after 2 rounds. It still changed by 1.5 % in the last round, "
            "not less than 2 %; that was the last one allowed, and more rounds may sharpen it.",
        ),
        (
            study(),
            "Left out: lost. Not to be trusted: odd. Template of 12 subjects after 2 rounds. It "
            "has converged: the last round changed it by 1.5 %, less than 2 %. 1 warning, below.",
        ),
    ],
)
def test_the_verdict(told: dict[str, Any], line: str) -> None:
    assert words.headline(told) == line


def test_the_visits_of_a_longitudinal_template_have_a_section(tmp_path: Path) -> None:
    told = longitudinal()
    text = written(tmp_path / "tpl", told)
    section = text[text.index('<h2 id="visits">') : text.index('<h2 id="lines">')]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in section.split("<tr>")[2:]]
    assert rows == [
        ["0", "first", "+3.05 %", "5.25 %", "0.12 mm", "0.988", ""],
        ["0", "month 12", "-1.98 %", "5.25 %", "0.12 mm", "0.988", "it folds"],
        ["1", "only", "the only one", "", "", "", ""],
        ["sub-000", "lost", "", "", "", "", "left out in round-1: no overlap"],
    ]
    assert words.headline(told).startswith(
        "Left out: sub-000 lost. Not to be trusted: sub-000 month 12. Template of 2 subjects"
    )
    assert all(f"visits/SUBJECT/VISIT/{file}" in text for file in carry.FILES.values())
    assert page.stands(tmp_path / "tpl", told)
    assert not page.stands(tmp_path / "tpl", templates.record(2))  # the page before the visits
    assert "Visits" not in written(tmp_path / "other", templates.record(2))


def test_without_a_tolerance_nothing_is_judged_by_it() -> None:
    told = templates.record(3, ended="rounds")
    told["settings"]["tolerance"] = 0.0
    assert words.headline(told).endswith("after 2 rounds. The last round changed it by 1.5 %.")
    assert "dashed" not in plots.figures(told)
    assert 'class="limit"' not in plots.figures(told)


def test_of_many_doubtful_subjects_the_verdict_names_some() -> None:
    told = templates.record(9)
    for entry in told["subjects"]:
        entry["problems"] = ["unlike"]
    assert "sub-000, sub-001, sub-002, sub-003, sub-004, sub-005 and 3 more." in words.headline(
        told
    )


def test_the_subjects_stand_by_distance_and_those_left_out_last() -> None:
    told = study()
    rows = subjects.rows(told)
    lengths = [row.values["displacement_mean"] for row in rows[:-1]]
    assert lengths == sorted(lengths, reverse=True)
    assert (rows[0].id, rows[-1].id) == ("far", "lost")
    assert rows[0].values["volume"] == pytest.approx(1.1 * 0.9)
    assert rows[-1].failed
    assert rows[-1].trouble == "left out in round-2: no overlap"


def test_the_rule_of_cohorts_finds_the_subject_that_stands_out() -> None:
    found = find(subjects.rows(study()), subjects.MEASURES)
    assert [finding.row.id for finding in found] == ["lost", "odd", "far"]
    assert found[2].texts[1].startswith("mean displacement 9 mm, ")
    few = templates.record(LEAST_PAIRS - 1)
    few["subjects"][0] = templates.subject("far", 9.0)
    assert not find(subjects.rows(few), subjects.MEASURES)


def test_every_measure_has_its_own_key_and_limit() -> None:
    keys = [measure.key for measure in subjects.MEASURES]
    assert len(set(keys)) == len(keys)
    assert all((m.least > 0) == (m.bad != "none") for m in subjects.MEASURES)
    assert set(keys) == set(subjects.rows(templates.record(2))[0].values)


def test_the_command_on_the_page_has_all_settings_and_its_list_all_scans(tmp_path: Path) -> None:
    told = templates.record(2, channels=2)
    used = Settings(
        "rigid", 6, 0.01, 0.0, 2.5, "best", "default", "a b", "mind", "wide", 2.0, 7, "cpu",
        leave_out=True, keep_rounds=True,
    )  # fmt: skip
    told["settings"] = {**used.plain(), "threads": 3}
    for entry in told["subjects"]:
        entry["scans"].append(f"/scans/{entry['id']}, T2.nii.gz")
        entry["mask"] = "/m.nii.gz"
    with click.Context(COMMAND, info_name="template") as context:
        line = ["scans.csv", "-o", "x", *words.options(told)]
        values, rest, _ = COMMAND.make_parser(context).parse_args(line)
    assert rest == []
    for name, value in {**used.plain(), "threads": 3}.items():
        assert str(values.get(name)) == str(value), name
    assert words.options(templates.record(2)) == ["--threads", "1"]
    rows = list(csv.DictReader(words.scans(told).splitlines()))
    assert rows[1] == {
        "id": "sub-001", "scan": "/scans/sub-001.nii.gz", "scan_2": "/scans/sub-001, T2.nii.gz",
        "mask": "/m.nii.gz",
    }  # fmt: skip


def test_the_command_of_a_longitudinal_template_takes_its_table_of_visits() -> None:
    line = words.again(longitudinal(), "x")
    assert "hsyn template --longitudinal subjects.csv -o x " in line
    assert "scans.csv" not in line
    assert "hsyn template scans.csv -o x " in words.again(templates.record(2), "x")


def test_values_lie_in_a_plot_where_the_scale_says() -> None:
    figure = plots.of_record(templates.record(3, 3))[0]
    assert figure.values == pytest.approx({1: 3.0, 2: 1.5, 3: 1.0})
    html = plots.figures(templates.record(3, 3))
    first = html[: html.index("</svg>")]
    heights = [float(y) for y in re.findall(r'<circle [^>]*cy="([\d.]+)"', first)]
    limit = float(re.findall(r'class="limit"[^>]* y1="([\d.]+)"', first)[0])
    floor = plots.HEIGHT - plots.BOTTOM
    shares = [(floor - y) / (floor - heights[0]) for y in [*heights, limit]]
    assert shares == pytest.approx([1, 1 / 2, 1 / 3, 2 / 3], abs=0.01)
    assert heights[0] > plots.TOP
    assert html.count("<svg") == 4


@pytest.mark.parametrize("change", [0.0, 0.5])
def test_a_single_round_is_a_dot(change: float) -> None:
    told = templates.record(2, 1)
    told["rounds"][0]["change"] = change
    told["rounds"][0]["displacements_mm"] = {}
    html = plots.figures(told)
    assert "nan" not in html
    assert html.count("<circle") == 1 + 1 + 2 + 1


def test_the_rounds_are_kept_for_a_page_that_is_made_when_work_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "tpl"
    written(out, templates.record(2, 3))
    kept = {path.name for path in (out / "pictures").iterdir()}
    assert kept == {"frame-2.png", "round-1.png", "round-2.png", "round-3.png"}
    (out / "pictures" / "mine.png").write_bytes(b"mine")
    told = templates.record(2, 2)
    text = page.write(out, told, fresh=True)
    kept = {path.name for path in (out / "pictures").iterdir()}
    assert kept == {"frame-2.png", "round-1.png", "round-2.png", "mine.png"}
    shutil.rmtree(out / "work")
    assert page.write(out, told) == text
    shutil.rmtree(out / "pictures")
    assert "The pictures of the rounds are gone." in page.write(out, told)


def test_the_rounds_show_their_grey_values_on_the_scale_of_the_template(tmp_path: Path) -> None:
    out = templates.write(tmp_path / "tpl", templates.record(2, 1))
    pictures.store(out, templates.record(2, 1))
    means = []
    for name in ("frame-2", "round-1"):
        image = sitk.ReadImage(str(out / "pictures" / f"{name}.png"))
        values = sitk.GetArrayFromImage(image)
        assert values.shape[0] > 2 * values.shape[1]  # three planes, one below the other
        means.append(values.mean())
    assert means[1] / means[0] == pytest.approx(7 / 6, rel=0.02)  # 70 to 60, see templates.write


def test_the_mask_and_the_template_lie_on_one_another(tmp_path: Path) -> None:
    told = templates.record(2, 1)
    shown = pictures.volumes_of(templates.write(tmp_path / "tpl", told), told)
    inside, bright = shown.mask >= 128, shown.images[0] > 20
    assert (inside == bright).mean() > 0.97
    z, y, x = (axis.mean() for axis in np.nonzero(shown.images[0] > 200))
    assert (shown.grid.points(np.array([x, y, z])) > 1).all()  # left, back, head


def test_a_page_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    told = templates.record(2, 1)
    out = templates.write(tmp_path / "tpl", told)
    mine = out / "index.html"
    mine.write_text("<title>mine</title>")
    with pytest.raises(OutputError, match=r"index.html is not of hsyn template"):
        page.write(out, told, fresh=True)
    assert run(["report", str(out), "--force", "--quiet"]) == 5
    assert mine.read_text() == "<title>mine</title>"
    assert not (out / "pictures").exists()
    scans = [tmp_path / f"{k}.nii.gz" for k in range(2)]
    for k, scan in enumerate(scans):
        sitk.WriteImage(templates.head(value=100 + k), str(scan))
    before = sorted(out.rglob("*"))
    with pytest.raises(OutputError, match="would be replaced"):
        template_files(scans, out)
    assert sorted(out.rglob("*")) == before


def test_a_page_knows_its_record(tmp_path: Path) -> None:
    told = templates.record(2, 1)
    written(tmp_path / "tpl", told)
    assert page.stands(tmp_path / "tpl", told)
    assert not page.stands(tmp_path / "tpl", {**told, "key": "other"})
    assert not page.stands(tmp_path / "none", told)


def test_report_makes_the_page_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = templates.write(tmp_path / "tpl", study())
    assert run(["report", str(out)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("Left out: lost.")
    assert lines[1].startswith(f"{out}/index.html (")
    assert run(["report", str(out)]) == 5
    assert "exists already" in capfd.readouterr().err
    assert run(["report", str(out), "--force", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["bytes"] == (out / "index.html").stat().st_size
    assert run(["report", str(out), "--force", "--moving", "x.nii.gz"]) == 2
    (out / "subjects" / "far" / "warped.nii.gz").unlink()
    before = (out / "index.html").read_bytes()
    assert run(["report", str(out), "--force"]) == 3
    assert (out / "index.html").read_bytes() == before


def test_a_hundred_subjects_and_four_channels_stay_under_10_mb() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((100, 100, 75), (1.6,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))
    assert np.prod(grid.size) * 4 <= pictures.MOST_OF_CHANNELS
    assert pictures.MOST_OF_CHANNELS >= page_volumes.MAX_VOXELS
    volume = rng.integers(0, 256, grid.size[::-1], np.uint8)
    told = templates.record(100, 10, channels=4)
    noise = {entry["id"]: rng.bytes(MOST_BYTES) for entry in told["subjects"]}
    rounds = {stage: rng.bytes(60_000) for stage in pictures.shown(told)}
    drawn = Pictures(Volumes(grid, (volume,) * 4, volume, ((0.0, 1.0),) * 4), rounds, noise)
    assert len(page.make_page("study", told, drawn, "tpl").encode()) < 10_000_000


# ---- in a browser

HELPERS = """
const all = (s) => [...document.querySelectorAll(s)], one = (s) => document.querySelector(s);
const column = (name) => all("#table thead th").findIndex((th) => th.textContent.startsWith(name));
const lines = () => all("#table tbody tr[data-row]");
const cells = (name) => lines().map((tr) => tr.cells[column(name)].textContent);
const sort = (name) => all("#table thead th")[column(name)].querySelector("button").click();
const pixels = (fits) => all("#rows canvas").map((c) => {
  const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  let n = 0;
  for (let k = 0; k < data.length; k += 4) n += fits(data[k], data[k + 1], data[k + 2]);
  return n;
});
const orange = (r, g, b) => r > 200 && g > 120 && g < 210 && b < 90;
const tick = (name) => one(`[name=${name}]`).click();
"""
LISTEN = (
    "<head><script>window.errors = []; "
    "addEventListener('error', (e) => errors.push(e.message)); "
    "addEventListener('unhandledrejection', (e) => errors.push(String(e.reason)));</script>"
)


def seen(folder: Path, text: str, body: str, width: int = 1280) -> dict[str, Any]:
    found = in_browser(folder, text.replace("<head>", LISTEN), HELPERS + body, width)
    assert found.pop("errors") == []
    return found


@needs_browser
@pytest.mark.parametrize("width", [420, 1280])
def test_a_browser_shows_all_parts(tmp_path: Path, width: int) -> None:
    found = seen(
        tmp_path, written(tmp_path / "tpl", study()),
        """const out = {wide: document.documentElement.scrollWidth, width: innerWidth};
        out.grey = pixels((r, g, b) => r > 100 && r === g && g === b);
        tick("cross"); out.outline = pixels(orange); tick("outline"); out.none = pixels(orange);
        out.rounds = all(".rounds img").map((i) => i.naturalHeight > 2 * i.naturalWidth);
        out.names = all(".rounds figcaption").map((f) => f.textContent);
        out.svgs = all(".plot svg").map((s) => s.getBoundingClientRect().width > 150);
        out.first = all(".finding .name").map((p) => p.firstChild.textContent);
        dispatchEvent(new Event("beforeprint")); out.ids = cells("subject");
        out.state = cells("state");
        sort("volume"); sort("subject");
        dispatchEvent(new Event("beforeprint")); out.sorted = cells("subject");
        out.pictures = all("#table .picture img").every((i) => i.naturalWidth > 20);
        lines()[0].cells[2].click();
        out.chosen = one("#chosen strong").textContent;
        out.files = one("#chosen .files").textContent;
        out.link = one("#chosen a").getAttribute("href"); out.open = one("#chosen a").textContent;
        const key = (key) => one("#scroller").dispatchEvent(
          new KeyboardEvent("keydown", {key, bubbles: true}));
        key("ArrowDown"); out.down = one("#chosen strong").textContent;
        one("#rows canvas").dispatchEvent(new MouseEvent("click", {
          clientX: one("#rows canvas").getBoundingClientRect().left + 9, clientY: 0}));
        out.readout = one("#readout").textContent; one("#to-middle").click();
        out.middle = one("#readout").textContent; out.errors = errors; return out;""",
        width,
    )  # fmt: skip
    assert found["wide"] <= found["width"] == width
    assert len(found["grey"]) == 3
    assert min(found["grey"]) > 500
    assert min(found["outline"]) > 100
    assert found["none"] == [0, 0, 0]
    assert found["rounds"] == [True] * 3
    assert found["names"] == ["After the affine passes", "Round 1", "Round 2"]
    assert found["svgs"] == [True] * 4
    assert found["first"] == ["lost", "odd", "far"]
    assert (found["ids"][0], found["ids"][-1], found["state"][-1]) == ("far", "lost", "failed")
    assert found["sorted"] == sorted(found["ids"])
    assert found["pictures"]
    assert found["chosen"] == "far"
    assert found["files"] == "/scans/far.nii.gz; its files: subjects/far/"
    assert (found["link"], found["open"]) == ("./subjects/far/", "Open folder")
    assert found["down"] == "lost"
    assert "grey value 0" in found["readout"]
    assert "grey value 7" in found["middle"]


@needs_browser
@pytest.mark.parametrize(
    ("told", "size", "panels"),
    [
        (templates.record(2, 1), templates.SIZE, [3]),
        (templates.record(2, 1), templates.SIZE[:2], [1]),
        (templates.record(2, 1, channels=2), templates.SIZE, [6, 3]),
    ],
)
def test_small_flat_and_many_channels(
    tmp_path: Path, told: dict[str, Any], size: tuple[int, ...], panels: list[int]
) -> None:
    found = seen(
        tmp_path, written(tmp_path / "tpl", told, size),
        """const out = {panels: [all("#rows canvas").length], grey: pixels((r) => r > 100)};
        const second = one("[name=channel][value='2']");
        if (second) { second.click(); out.panels.push(all("#rows canvas").length); }
        out.titles = all("#rows h3").map((h) => h.textContent); out.ids = cells("subject");
        out.note = one(".first").textContent; out.errors = errors; return out;""",
    )  # fmt: skip
    assert found["panels"] == panels
    assert min(found["grey"]) > 500
    assert found["titles"] == ["template" if told["channels"] == 1 else "channel 2"]
    assert found["ids"] == ["sub-001", "sub-000"]
    assert "fewer than 10 results" in found["note"]
