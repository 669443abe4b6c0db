"""The command `hsyn batch`, with workers that register nothing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from fake_cohorts import FAKE, ran, status
from stand_ins import SIZE, grid_image

import hsyn_cli
from hsyn_cli.cli import run
from hsyn_cli.cohort import lists
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources import local

Cohort = Callable[..., None]


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Makes pairs.csv with a row for each pair; `does`: what the workers of some do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "COMMAND", FAKE)
    behaviour: dict[str, str] = {}
    real = lists.from_table

    def from_table(*arguments: object) -> list[Job]:
        jobs = real(*arguments)  # type: ignore[arg-type]
        own = (dict(job.options, do=behaviour.get(job.id, "ok")) for job in jobs)
        return [
            Job(job.id, job.inputs, job.folder, options)
            for job, options in zip(jobs, own, strict=True)
        ]

    monkeypatch.setattr(lists, "from_table", from_table)

    def make(names: str, **does: str) -> None:
        behaviour.clear()
        behaviour.update(does)
        rows = []
        for name in names:
            Path(f"{name}.nii").write_text(name)
            rows.append(f"{name},{name}.nii,f.nii")
        Path("f.nii").write_text("fixed")
        Path("pairs.csv").write_text("\n".join(["id,moving,fixed", *rows]))

    return make


def test_all_done(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort("abc")
    assert run(["batch", "pairs.csv", "-o", "study", "--jobs", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "3 of 3 pairs are done\nstudy/index.html\n"
    lines = shown.err.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("[3/3] ")
    assert lines[-1].endswith(" done in 0 s")
    assert Path("study/index.html").is_file()
    assert run(["batch", "pairs.csv", "-o", "study", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.startswith("3 of 3 pairs are done (3 of them before)\n")
    assert len(ran(Path("study"))) == 3
    Path("b.nii").write_text("another")
    assert run(["batch", "pairs.csv", "-o", "study", "--jobs", "2"]) == 0
    told = "3 of 3 pairs are done (2 of them before), 1 ran again because something changed\n"
    assert capsys.readouterr().out.startswith(told)


def test_what_failed_is_told_with_exit_code_11(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort("abc", b="poor")
    assert run(["batch", "pairs.csv", "-o", "study"]) == 11
    shown = capsys.readouterr()
    assert shown.out == "2 of 3 pairs are done, 1 doubtful\nstudy/index.html\n"
    assert "b doubtful, exit code 10: do not trust this; it gets another attempt\n" in shown.err
    assert shown.err.splitlines()[-2:] == [
        "error: of 3 pairs, 1 doubtful",
        "hint: see study/index.html; --retry-failed runs them again",
    ]
    assert run(["batch", "pairs.csv", "-o", "study", "--quiet"]) == 11
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 2)
    assert len(ran(Path("study"))) == 4
    assert run(["batch", "pairs.csv", "-o", "study", "--retry-failed", "--json"]) == 11
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["done"], told["done_before"]) == (3, 0, 2)
    (failed,) = told["failed"]
    assert failed == {
        "id": "b", "exit_code": 10, "doubtful": True, "error": "do not trust this"
    }  # fmt: skip
    assert len(ran(Path("study"))) == 6


def test_three_shards_and_then_all_do_nothing_twice(cohort: Cohort) -> None:
    cohort("abcdefg")
    for k in (1, 2, 3):
        assert run(["batch", "pairs.csv", "-o", "study", "--quiet", "--shard", f"{k}/3"]) == 0
    assert sorted(ran(Path("study"))) == [f"{name} near" for name in "abcdefg"]
    assert run(["batch", "pairs.csv", "-o", "study", "--quiet"]) == 0
    assert len(ran(Path("study"))) == 7


def test_the_shard_of_an_array_task(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort("abc")
    words = ["batch", "pairs.csv", "-o", "study", "--quiet", "--shard", "slurm/2"]
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert run(words) == 2
    assert not Path("study").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert run(words) == 0
    assert ran(Path("study")) == ["b near"]


def test_many_scans_to_one_fixed_image(cohort: Cohort) -> None:
    cohort("abc")
    words = ["a.nii", "b.nii", "--fixed", "f.nii", "--model", "none", "--smoothness", "1.5"]
    assert run(["batch", *words, "-o", "study", "--quiet"]) == 0
    assert sorted(line.split()[1] for line in ran(Path("study"))) == ["near", "near"]


def test_options_of_the_method_reach_the_pairs(cohort: Cohort) -> None:
    cohort("a")
    assert run(["batch", "pairs.csv", "-o", "study", "--quiet"]) == 0
    key = status(Path("study"), "a").key
    assert run(["batch", "pairs.csv", "-o", "study", "--quiet", "--search", "full"]) == 0
    assert ran(Path("study")) == ["a near", "a full"]
    assert status(Path("study"), "a").key != key


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["a.nii", "b.nii"], 2),
        (["pairs.csv", "--jobs", "2", "--scheduler", "tcp://x:1"], 2),
        (["pairs.csv", "--shard", "5/3"], 2),
        (["pairs.csv", "--fixed", "f.nii"], 2),
        (["a.nii", "b.nii", "PAIRS.TSV", "--fixed", "f.nii"], 2),
        (["pairs.csv", "--keep", "warped,labels"], 2),
        (["pairs.csv", "--space", "MNI"], 2),
        (["pairs.csv", "--participant-label", "01"], 2),
        (["a.nii", "--fixed", "f.nii", "--suffix", "T1w"], 2),
        (["missing.csv"], 3),
        (["pairs.csv", "--model", "unknown"], 6),
    ],
)
def test_wrong_arguments_are_a_line_and_leave_nothing(
    words: list[str], code: int, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort("ab")
    assert run(["batch", *words, "-o", "study", "--quiet"]) == code
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path("study").exists()


def test_a_live_driver_is_told(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    from hsyn_cli.cohort.drivers import driving
    from hsyn_cli.cohort.shards import Shard

    cohort("a")
    with driving(Path("study"), Shard()):
        assert run(["batch", "pairs.csv", "-o", "study"]) == 5
    assert capsys.readouterr().err.startswith("error: study: another hsyn batch works on all pairs")
    assert ran(Path("study")) == []


def test_a_dry_run_starts_nothing(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort("ab")
    for name, seed in (("a", 1), ("b", 2), ("f", 3)):
        sitk.WriteImage(grid_image((24, 22, 20), seed), f"{name}.nii")
    words = ["batch", "pairs.csv", "-o", "study", "--dry-run", "--model", "none"]
    assert run(words) == 0
    assert capsys.readouterr().out.startswith("pairs      2, all alike")
    assert run([*words, "--json", "--shard", "1/2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["workers"]) == (1, 1)
    assert told["memory_pair_mb"] > 0
    assert not Path("study").exists()


def test_the_script_of_the_guide_runs_its_part(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(hsyn_cli.__file__).with_name("guide") / "batch.md"
    (script,) = re.findall(r"^#!/bin/bash\n.*?(?=^```)", guide.read_text(), re.M | re.S)
    cohort("abcdefghijklmnop")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (line,) = [line for line in script.splitlines() if not line.startswith("#")]
    (array,) = re.findall(r"--array=1-(\d+)$", script, re.M)
    assert f"--shard slurm/{array}" in line
    assert run(shlex.split(line)[1:]) == 0
    assert sorted(ran(Path("study"))) == ["c near", "k near"]


def test_a_bids_dataset(tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort("a")
    for label in ("01", "02"):
        scan = tmp_path / "data" / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii"
        scan.parent.mkdir(parents=True)
        sitk.WriteImage(grid_image(SIZE, int(label)), str(scan))
    (tmp_path / "data/sub-01/anat/sub-01_T1w.nii").write_text("poison, which stops no other pair")
    sitk.WriteImage(grid_image(SIZE, 3), "f.nii")
    (tmp_path / "data" / "dataset_description.json").write_text('{"Name": "Pain"}')
    words = ["batch", "--bids", "data", "-f", "f.nii", "-o", "derived", "--quiet"]
    assert run(words) == 2
    assert capsys.readouterr().err.startswith("error: --bids needs --space\n")
    words += ["--space", "MNI", "--keep", "warped", "--model", "none"]
    assert run([*words, "--participant-label", "02"]) == 0
    assert run(words) == 0
    assert ran(Path("derived")) == ["sub-02_T1w_to_MNI near", "sub-01_T1w_to_MNI near"]
    assert Path("derived/dataset_description.json").is_file()
    assert Path("derived/sub-01/anat/out.txt").is_file()
