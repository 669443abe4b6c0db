"""Chests from training to use: pairs that breathe, a step of each phase.

Two breaths registered by the command line.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import chest, save_checkpoint, tiny_networks

from hsyn_cli import config
from hsyn_cli.anatomy.organs.lung import CHEST
from hsyn_cli.cli import run
from hsyn_cli.config.architecture import SNNetConfig, Steps
from hsyn_cli.config.presets import Preset, RefineStage
from hsyn_cli.config.presets import default as default_preset
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.fields.sampling import warp
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.register import register as register_images
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.space import Grid
from hsyn_cli.training import loop, runs
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.cache import Cache
from hsyn_cli.training.data import build_cache, collect
from hsyn_cli.training.pairs import PairSource

SPACING = 4.0
CPU = torch.device("cpu")
STEPS = Steps(6, step_sigma=2.0, tissue=4.0)


def lung_config() -> SNNetConfig:
    levels = [replace(level, forces=True) for level in tiny_networks(SPACING)[0].config.levels]
    levels = [
        replace(levels[0], steps=STEPS, scale=2, stride=1),
        replace(levels[1], scale=1, stride=1),
    ]
    return SNNetConfig(SPACING, tuple(levels), organ="lung")


TINY = Training(
    sn_net=lung_config(), di_net=tiny_networks(SPACING)[1].config, size=(72, 56, 64),
    breathing=1.0, motion_mm=30.0,
    labels=(1,), di_steps=2, held_out=2, precision="float32", log_every=1, validate_every=1,
    stages=(Stage(0, 1, 2, 1e-3), Stage(1, 2, 2, 1e-3, crop=(32, 32, 32))),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chests with maps of their lungs in labels/, and lungs.safetensors."""
    out = tmp_path_factory.mktemp("chests")
    (out / "labels").mkdir()
    for k, breath in enumerate((0.0, 10.0, 20.0, 30.0)):
        image, lungs = chest(breath)
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(out / f"{k}.nii.gz"))
        sitk.WriteImage(lungs, str(out / "labels" / f"{k}.nii.gz"))
    torch.manual_seed(0)
    save_checkpoint(out / "lungs.safetensors", SNNet(TINY.sn_net), DINet(TINY.di_net))
    return out


@pytest.fixture(scope="module")
def cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return build_cache(
        collect(folder), TINY, tmp_path_factory.mktemp("cache"), lambda step, share: None
    )


@pytest.mark.slow
def test_the_cache_has_the_lungs_window_and_says_so(cache: Cache) -> None:
    inside = cache.labels[0] == 1
    assert cache.images[0][inside].mean() == pytest.approx(255 * 170 / 1200, abs=6)
    assert '"lung"' in cache.made_with


def test_a_pair_that_breathes_knows_its_field(cache: Cache) -> None:
    pair = PairSource(cache, TINY, CPU).draw(1, 3)
    assert pair.truth is not None
    assert pair.maps is not None
    assert pair.seen.shape[1] == 2
    moved = warp(pair.maps[:1], pair.truth, SPACING)
    np.testing.assert_allclose(moved, pair.maps[1:], atol=1e-5)
    again = PairSource(cache, TINY, CPU).draw(1, 3)
    assert torch.equal(pair.images, again.images)


def test_the_share_of_pairs_that_breathe_is_kept(cache: Cache) -> None:
    source = PairSource(cache, replace(TINY, breathing=0.5), CPU)
    known = [source.draw(2, k).truth is not None for k in range(12)]
    assert 2 <= sum(known) <= 10
    between = next(pair for k in range(12) if (pair := source.draw(2, k)).truth is None)
    assert between.maps is not None  # lungs are seen there as well


@pytest.mark.slow
def test_every_phase_takes_its_steps_and_tells_the_error(cache: Cache) -> None:
    networks = training_phases.build(TINY, CPU, bf16=False)
    before = {k: v.clone() for k, v in networks.tensors().items()}
    phases = training_phases.phases(TINY, networks, PairSource(cache, TINY, CPU))
    records = list(loop.run(phases, networks, loop.State(), TINY, lambda state: None, 1e9))
    assert {record["name"] for record in records} == {"SN-Net 1", "SN-Net 2", "DI-Net"}
    assert all(float(record["error"]) > 0.1 for record in records if "error" in record)
    assert any("val_truth" in record for record in records)
    assert any(not torch.equal(v, before[k]) for k, v in networks.tensors().items())


def test_breathing_needs_lungs(cache: Cache) -> None:
    bare = dataclasses.replace(cache, has_labels=(False,) * 4)
    with pytest.raises(UsageError, match="without a map of its lungs cannot breathe"):
        PairSource(bare, TINY, CPU)


def test_lungs_are_for_ct_and_breathing_is_for_lungs(tmp_path: Path) -> None:
    for k in range(2):
        sitk.WriteImage(sitk.Abs(chest()[0]), str(tmp_path / f"{k}.nii.gz"))
    with pytest.raises(InputError, match="0 of 2 subjects can be used") as refused:
        build_cache(collect(tmp_path), TINY, tmp_path / "cache", lambda step, share: None)
    assert "no CT in Hounsfield units" in refused.value.hint
    brains = replace(TINY, sn_net=replace(TINY.sn_net, organ="brain"), breathing=0.0)
    with pytest.raises(ValueError, match='breathing is for "organ": "lung"'):
        runs.training_of({**config.to_dict(brains), "breathing": 0.5})


def test_an_organ_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="organ is 'knee', not brain or lung"):
        runs.training_of({"sn_net": {**config.to_dict(lung_config()), "organ": "knee"}})
    assert config.training_from_dict(config.to_dict(TINY)) == TINY


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (RefineStage(4 / 3, STEPS), RefineStage(1, STEPS))
    lungs = Preset(coarser_than=1, refinement=stages, finer=0.75)
    monkeypatch.setitem(default_preset.FOR_ORGAN, "lung", lungs)


def register(folder: Path, out: Path, *more: str, model: str = "lungs.safetensors") -> int:
    paths = ["-m", str(folder / "0.nii.gz"), "-f", str(folder / "2.nii.gz"), "-o", str(out)]
    return run(
        ["register", *paths, "--model", str(folder / model), "--threads", "1", "--quiet", *more]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("masks", [False, True])
def test_two_breaths_meet(folder: Path, tmp_path: Path, masks: bool) -> None:
    lungs = [str(folder / "labels" / f"{k}.nii.gz") for k in (0, 2)]
    given = ("--moving-mask", lungs[0], "--fixed-mask", lungs[1]) if masks else ()
    assert register(folder, tmp_path / "out", *given, "--no-affine") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["folding"]["voxels"] == report["inverse_folding"]["voxels"] == 0
    warped, fixed = (
        sitk.ReadImage(str(p), sitk.sitkFloat32)
        for p in (tmp_path / "out" / "warped.nii.gz", folder / "2.nii.gz")
    )
    moving = sitk.ReadImage(str(folder / "0.nii.gz"), sitk.sitkFloat32)
    inside = sitk.GetArrayFromImage(sitk.ReadImage(lungs[1])) > 0
    after, before = (
        np.abs(sitk.GetArrayFromImage(v) - sitk.GetArrayFromImage(fixed))[inside].mean()
        for v in (warped, moving)
    )
    assert after < 0.6 * before
    assert Grid.of(warped).same_as(Grid.of(fixed))


@pytest.mark.usefixtures("few_steps")
def test_outside_the_other_image_a_warped_ct_shows_air(folder: Path, tmp_path: Path) -> None:
    away = sitk.AffineTransform(3)
    away.SetTranslation((0.0, 0.0, 60.0))
    sitk.WriteTransform(away, str(tmp_path / "away.mat"))
    given = ("--no-affine", "--initial-transform", str(tmp_path / "away.mat"), "--preset", "fast")
    assert register(folder, tmp_path / "out", *given) == 10  # it says so
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz")))
    assert (warped[-5:] == -1024).all()


@pytest.mark.slow
def test_finer_images_are_refined_on_a_finer_grid(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (RefineStage(1, Steps(1)),)
    lungs = Preset(coarser_than=1, refinement=stages, finer=0.75)
    monkeypatch.setitem(default_preset.FOR_ORGAN, "lung", lungs)
    spacings = []
    for voxel in (4.0, 3.4):
        pair = (chest(breath, voxel=voxel)[0] for breath in (0.0, 20.0))
        result = register_images(
            *pair, weights=str(folder / "lungs.safetensors"), affine="none", threads=1
        )
        spacings.append(result.working.grid.spacing[0])
    assert spacings == [SPACING, 0.75 * SPACING]


@pytest.mark.slow
def test_the_example_pair_meets_as_its_readme_says(tmp_path: Path) -> None:
    """As a user would: the model by itself, the lungs given. The judge is `hsyn evaluate`."""
    example = Path(__file__).parents[1] / "examples" / "lung"
    given = []
    for role, letter in (("moving", "-m"), ("fixed", "-f")):
        mask = str(example / f"{role}_lungmask.nii.gz")
        given += [letter, str(example / f"{role}.nii.gz"), f"--{role}-mask", mask]
    command = [
        sys.executable,
        "-m",
        "hsyn_cli",
        "register",
        *given,
        "-o",
        str(tmp_path / "out"),
        "--quiet",
        "--no-html",
    ]
    subprocess.run(command, check=True)  # apart, for it takes 3 GB
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["checkpoint"]["name"] == "lung-ct"
    assert report["shown"] == {"moving": CHEST, "fixed": CHEST}
    assert report["folding"]["voxels"] == report["inverse_folding"]["voxels"] == 0
    scores = tmp_path / "scores.json"
    points = str(example / "landmarks.csv")
    assert (
        run(
            [
                "evaluate",
                str(tmp_path / "out"),
                "--landmarks",
                points,
                "--json-file",
                str(scores),
                "--quiet",
            ]
        )
        == 0
    )
    (found,) = [pair["landmarks"] for pair in json.loads(scores.read_text())["pairs"]]
    assert found["before"]["mean_mm"] == pytest.approx(34.9, abs=0.05)
    assert found["after"]["mean_mm"] < 2.0
