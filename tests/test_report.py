"""The report: plain data, true JSON, lines that really work.

A table that is right at 80 columns.
"""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console
from stand_ins import FACTS, assembled

from hsyn_cli import devices
from hsyn_cli.fields import folding, grids
from hsyn_cli.method import result
from hsyn_cli.results import render, run_folder
from hsyn_cli.results import report as reports


def shown(report: reports.Report, **options: float) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(render.render(report, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_holds_every_fact_once() -> None:
    data = json.loads(reports.to_json(assembled()))
    assert data["schema_version"] == 1
    assert data["folding"]["min_det_at_mm"] == [-31.5, 20.0, 104.25]
    assert data["inverse_error_moving"] == {"mean_mm": 0.0051, "p99_mm": 0.033, "max_mm": 0.25}
    assert data["checkpoint"] == {"name": "brain-t1", "sha256": "ab" * 32, "verified": True}
    assert data["inputs"]["moving"] == {"path": "m.nii.gz", "sha256": "a" * 64}
    assert data["warnings"] == ["sform and qform disagree", "the moving image is much larger"]
    assert list(data["seconds"]) == ["reading", "affine", "networks", "refinement", "writing"]
    assert set(data["versions"]) == {"hsyn", "python", "torch", "SimpleITK", "numpy"}
    names = {field.name for field in dataclasses.fields(result.Facts)}
    assert names <= data.keys()


def test_values_that_json_does_not_have_become_null() -> None:
    facts = dataclasses.replace(
        FACTS, similarity=result.SimilarityScores("x", float("nan"), 0.5, float("inf"))
    )
    data = json.loads(reports.to_json(assembled(facts)))
    assert data["similarity"] == {"measure": "x", "before": None, "affine": 0.5, "after": None}


def test_table_fits_80_columns_and_tells_the_facts() -> None:
    text = shown(assembled(folder=Path("a" * 70) / ("b" * 60)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 16
    for fact in ("none; by the stricter corner rule 12",
                 "0.081, forward, at (-31.5, 20.0, 104.2) mm",
                 "max 0.210 mm",
                 "before 0.310, affine 0.520, after 0.810", "16.2 s; longest: ", "seed 7",
                 "1.8 GB", "brain-t1 (abababababab)", "qform disagree", "much larger"):  # fmt: skip
        assert fact in text


def test_folding_is_red_beyond_the_limit_only() -> None:
    folded = folding.Folding(31, 0.0125, 99, -0.4, (0.0, 0.0, 0.0))
    report = assembled(dataclasses.replace(FACTS, folding=folded))
    assert "31 voxels (0.013 %)" in shown(report)

    def colour(limit: float | None) -> bool:
        console = Console(
            width=80, file=io.StringIO(), force_terminal=True, color_system="standard"
        )
        console.print(render.render(report, max_folding=limit))
        assert isinstance(console.file, io.StringIO)
        return "\x1b[31m31 voxels" in console.file.getvalue()

    assert (colour(None), colour(0.01), colour(0.02)) == (True, True, False)


def test_a_checkpoint_that_is_in_no_manifest_is_told() -> None:
    facts = dataclasses.replace(
        FACTS, checkpoint=result.CheckpointId("mine", "cd" * 32, verified=False)
    )
    assert "not in a manifest" in shown(assembled(facts))


def test_ants_line_names_the_total_field_or_the_ants_set() -> None:
    plain = assembled().apply["antsApplyTransforms"]
    assert plain.count(" -t ") == 1
    assert f"-r '{Path.cwd()}/it'\"'\"'s f.nii.gz'" in plain
    prefixed = assembled(ants_warp=Path("p1Warp.nii.gz"), ants_affine=Path("p0GenericAffine.mat"))
    line = prefixed.apply["antsApplyTransforms"]
    assert f"-t {Path.cwd()}/p1Warp.nii.gz -t {Path.cwd()}/p0GenericAffine.mat" in line
    both = {name: Path(f"p{file}") for name, file in run_folder.COMPOSITE_SUFFIXES.items()}
    line = reports.apply_lines("m.nii", "f.nii", both)["antsApplyTransforms"]
    assert f"-t {Path.cwd()}/pComposite.h5 -o" in line
    assert "pComposite.h5, pInverseComposite.h5" in shown(assembled(**both))
    assert "pComposite.h5" not in assembled(**both).apply["antsApplyTransforms"]


def test_simpleitk_line_runs_in_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder" $HOME'
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    shift = sitk.GetImageFromArray(
        np.zeros((5, 6, 7, 3), np.float32) + np.float32([1, 0, 0]), isVector=True
    )
    for name, content in (("m", image), ("f", image), ("d", shift)):
        sitk.WriteImage(content, str(folder / f"{name}.nii.gz"))
    outputs = {"forward_field": folder / "d.nii.gz"}
    line = reports.apply_lines(str(folder / "m.nii.gz"), str(folder / "f.nii.gz"), outputs)[
        "SimpleITK"
    ]
    # the `python` of the tests comes first
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, env={**os.environ, "PATH": path})  # noqa: S607
    moved = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "moved.nii.gz")))
    np.testing.assert_allclose(moved[..., :-1], values[..., 1:], atol=1e-6)


def test_slicer_line_is_python() -> None:
    compile(assembled().apply["Slicer"], "line", "eval")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = devices.peak_memory_mb()
    assert before is not None
    size = int(before + 50) * 1_000_000
    block = bytearray(size)
    block[::4096] = b"\1" * len(block[::4096])
    after = devices.peak_memory_mb()
    assert after is not None
    assert size / 1e6 < after < size / 1e6 + before + 100


@pytest.mark.parametrize(
    "kind",
    [
        reports.Report,
        reports.Source,
        folding.Folding,
        grids.ErrorStats,
        result.Facts,
        result.SimilarityScores,
        result.CheckpointId,
    ],
)
def test_facts_are_frozen(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
