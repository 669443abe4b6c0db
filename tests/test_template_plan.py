"""What `hsyn template --dry-run` counts, and that it writes nothing."""

import json
from pathlib import Path

import groups
import pytest
from click.testing import CliRunner

from hsyn_cli import cli
from hsyn_cli.cohort import speed
from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.speed import Speed
from hsyn_cli.config.template import Settings
from hsyn_cli.template import plan


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure", lambda *_: Speed(1.0, 1.0))


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    groups.group(tmp_path / "in", 4)
    return sorted((tmp_path / "in").glob("*.nii.gz"))


def test_all_passes_and_rounds_of_all_scans_count(scans: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tpl"
    found = plan.plan_files(scans, out, Settings(rounds=3, keep_rounds=True), Work(threads=1))
    assert found.pairs == 4 * (2 + 3)
    assert found.problems == ()
    less = plan.plan_files(scans, out, Settings(rounds=3), Work(threads=1))
    assert less.disk_all_mb == pytest.approx(found.disk_all_mb * 3 / 4)
    assert not out.exists()


def test_visits_count_in_their_own_template(scans: list[Path], tmp_path: Path) -> None:
    rows = [
        f"{name},{visit},{scan}" for name, visit, scan in zip("aaa", "123", scans, strict=False)
    ]
    rows.append(f"b,1,{scans[3]}")
    table = tmp_path / "visits.csv"
    table.write_text("\n".join(["subject,visit,scan", *rows]) + "\n")
    found = plan.plan_longitudinal(table, tmp_path / "tpl", Settings(rounds=2), Work(threads=1))
    assert found.pairs == 2 * (2 + 2) + 3 * (2 + 2)


def test_the_command_tells_it_and_writes_nothing(scans: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tpl"
    words = ["template", *map(str, scans), "-o", str(out), "--dry-run", "--rounds", "1"]
    shown = CliRunner().invoke(cli.cli, words)
    assert shown.exit_code == 0, shown.output
    assert "pairs" in shown.output
    told = json.loads(CliRunner().invoke(cli.cli, [*words, "--json"]).output)
    assert told["pairs"] == 12
    assert not out.exists()
