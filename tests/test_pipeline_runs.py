"""`hsyn register` on small images: its options and exit codes, the same bytes twice.

Interruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import picture, save_checkpoint, tensors_of, tiny_networks

import hsyn_cli
from hsyn_cli import config
from hsyn_cli.cli import run
from hsyn_cli.config.architecture import Steps
from hsyn_cli.config.presets import Preset, RefineStage
from hsyn_cli.config.presets import default as default_preset
from hsyn_cli.errors import GeometryError, InputError, UsageError, WeightsError
from hsyn_cli.io import checkpoints as weights
from hsyn_cli.method import refine as refinement
from hsyn_cli.method import register as pipeline
from hsyn_cli.method import result
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.results import run_folder
from hsyn_cli.space import Grid, affine_parts

SPACING = 2.0
SHIFT = np.array([6.0, -4.0, 3.0])  # mm, fixed point -> moving point
FIXED = Grid((40, 48, 36), (2.0, 2.0, 2.0), (-40.0, -50.0, -30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
BIG_ID = 2**24 + 1


def head(centre: np.ndarray, grid: Grid) -> sitk.Image:
    """An ellipsoid with texture, zero outside."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    d = (grid.points(np.stack((x, y, z), -1).astype(float)) - centre) / [24, 32, 22]
    texture = picture((25, 25, 25), 7)[0, 0].double().numpy()
    at = (np.clip((d + 1) / 2, 0, 1) * 24).round().astype(int)
    inside = (d**2).sum(-1) < 1
    values = np.where(inside, 50 + 100 * texture[at[..., 2], at[..., 1], at[..., 0]], 0)
    image = grid.stamp(sitk.GetImageFromArray(values.astype(np.float32)))
    return sitk.Cast(sitk.SmoothingRecursiveGaussian(image, 2.0), sitk.sitkFloat32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """f.nii.gz, m.nii.gz (the same head, shifted by SHIFT), labels, masks and tiny.safetensors."""
    out = tmp_path_factory.mktemp("runs")
    save_checkpoint(out / "tiny.safetensors", *tiny_networks(SPACING, flow=3.0))
    middle = FIXED.points((np.array(FIXED.size) - 1) / 2)
    moving = Grid((44, 50, 38), (2.0, 2.0, 2.0), (-40.0, -55.0, -28.0), FIXED.direction)
    for name, grid, centre in (("f", FIXED, middle), ("m", moving, middle + SHIFT)):
        image = head(centre, grid)
        sitk.WriteImage(image, str(out / f"{name}.nii.gz"))
        sitk.WriteImage(sitk.Cast(image > 1, sitk.sitkUInt8), str(out / f"{name}_mask.nii.gz"))
    labels = sitk.GetArrayFromImage(head(middle + SHIFT, moving))
    ids = np.where(labels > 100, BIG_ID, np.where(labels > 20, 3, 0)).astype(np.int32)
    sitk.WriteImage(moving.stamp(sitk.GetImageFromArray(ids)), str(out / "labels.nii.gz"))
    return out


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (RefineStage(2, Steps(2)), RefineStage(1, Steps(1)))
    monkeypatch.setattr(default_preset, "PRESET", Preset(refinement=stages))


def register(
    folder: Path,
    out: Path,
    *more: str,
    fixed: str = "f.nii.gz",
    checkpoint: str = "tiny.safetensors",
) -> int:
    paths = ["-m", str(folder / "m.nii.gz"), "-f", str(folder / fixed), "-o", str(out)]
    return run(["register", *paths, "--weights", str(folder / checkpoint), "--threads", "1", *more])


def shift_of(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, where the middle of the fixed image moves by) of affine.mat."""
    a, t = affine_parts(sitk.ReadTransform(str(out / "affine.mat")))
    middle = FIXED.points((np.array(FIXED.size) - 1) / 2)
    return a, a @ middle + t - middle


@pytest.mark.parametrize("preset", ["fast", "default"])
def test_the_same_seed_and_threads_give_the_same_bytes(
    folder: Path, tmp_path: Path, preset: str
) -> None:
    for name in ("one", "two"):
        assert register(folder, tmp_path / name, "--preset", preset, "--quiet", "--seed", "4") == 0
    names = set(os.listdir(tmp_path / "one")) - {"report.json", "report.html"}
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )
    one, two = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two"))
    for key in ("folding", "inverse_error_fixed", "similarity", "checkpoint", "seed"):
        assert one[key] == two[key]


@pytest.mark.slow
def test_threads_are_bounded_as_asked(folder: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert (
            register(folder, tmp_path / "out", "--preset", "fast", "--quiet", "--threads", "2") == 0
        )
        assert json.loads((tmp_path / "out" / "report.json").read_text())["threads"] == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_labels_keep_ids_that_float32_has_not(folder: Path, tmp_path: Path) -> None:
    labels = ("--moving-labels", str(folder / "labels.nii.gz"))
    assert register(folder, tmp_path / "out", "--preset", "fast", "--quiet", *labels) == 0
    warped = sitk.ReadImage(str(tmp_path / "out" / "warped_labels.nii.gz"))
    assert warped.GetPixelID() == sitk.sitkInt32
    assert np.unique(sitk.GetArrayViewFromImage(warped)).tolist() == [0, 3, BIG_ID]


def test_affine_rigid_and_neither(folder: Path, tmp_path: Path) -> None:
    assert register(folder, tmp_path / "affine", "--preset", "fast", "--quiet") == 0
    matrix, shift = shift_of(tmp_path / "affine")
    np.testing.assert_allclose(shift, SHIFT, atol=0.5)
    np.testing.assert_allclose(matrix, np.eye(3), atol=0.03)
    assert register(folder, tmp_path / "rigid", "--preset", "fast", "--quiet", "--rigid") == 0
    matrix, shift = shift_of(tmp_path / "rigid")
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(shift, SHIFT, atol=0.5)
    assert register(folder, tmp_path / "none", "--preset", "fast", "--quiet", "--no-affine") == 0
    matrix, shift = shift_of(tmp_path / "none")
    assert np.array_equal(matrix, np.eye(3))
    assert not shift.any()


@pytest.mark.parametrize("more", [[], ["--rigid"], ["--no-affine"]])
def test_an_initial_transform_is_used(folder: Path, tmp_path: Path, more: list[str]) -> None:
    start = sitk.AffineTransform(3)
    start.SetTranslation((SHIFT + np.array([0.5, 0.5, -0.5])).tolist())
    sitk.WriteTransform(start, str(tmp_path / "start.mat"))
    given = ("--initial-transform", str(tmp_path / "start.mat"))
    assert register(folder, tmp_path / "out", "--preset", "fast", "--quiet", *given, *more) == 0
    _, shift = shift_of(tmp_path / "out")
    np.testing.assert_allclose(shift, SHIFT, atol=0.9 if more == ["--no-affine"] else 0.5)
    similarity = json.loads((tmp_path / "out" / "report.json").read_text())["similarity"]
    assert similarity["affine"] > similarity["before"]


def test_masks_are_accepted(folder: Path, tmp_path: Path) -> None:
    masks = (
        "--fixed-mask",
        str(folder / "f_mask.nii.gz"),
        "--moving-mask",
        str(folder / "m_mask.nii.gz"),
    )
    for preset in ("default", "fast"):
        assert register(folder, tmp_path / preset, "--preset", preset, "--quiet", *masks) == 0
        report = json.loads((tmp_path / preset / "report.json").read_text())
        assert set(report["inputs"]) == {"moving", "fixed", "fixed_mask", "moving_mask"}
        np.testing.assert_allclose(shift_of(tmp_path / preset)[1], SHIFT, atol=0.5)


def test_json_parses_and_is_the_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert register(folder, tmp_path / "out", "--preset", "fast", "--json") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert captured.err == ""


def test_max_folding_is_an_exit_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = pipeline.register
    assert (
        register(folder, tmp_path / "good", "--preset", "fast", "--quiet", "--max-folding", "0")
        == 0
    )

    def folding(*images: sitk.Image, **options: Any) -> result.Registration:
        result = real(*images, **options)
        fold = dataclasses.replace(result.facts.folding, voxels=7, percent=0.01)
        return dataclasses.replace(result, facts=dataclasses.replace(result.facts, folding=fold))

    monkeypatch.setattr(pipeline, "register", folding)
    assert (
        register(folder, tmp_path / "bad", "--preset", "fast", "--quiet", "--max-folding", "0") == 9
    )
    assert "fold, more than the 0 % allowed" in capfd.readouterr().err
    assert len(os.listdir(tmp_path / "bad")) == 7


def test_images_apart_in_space(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = sitk.ReadImage(str(folder / "f.nii.gz"))
    image.SetOrigin((900.0, 0, 0))
    sitk.WriteImage(image, str(tmp_path / "far.nii.gz"))
    far = str(tmp_path / "far.nii.gz")
    nowhere = sitk.AffineTransform(3)
    nowhere.SetTranslation((0.0, 0.0, 3.0))
    sitk.WriteTransform(nowhere, str(tmp_path / "nowhere.mat"))
    for strict in (("--no-affine",), ("--initial-transform", str(tmp_path / "nowhere.mat"))):
        assert register(folder, tmp_path / "out", *strict, fixed=far) == 4
        assert "do not overlap in space" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()
    together = sitk.AffineTransform(3)
    together.SetTranslation((-930.0, -50, -25))
    sitk.WriteTransform(together, str(tmp_path / "t.mat"))
    more = ("--initial-transform", str(tmp_path / "t.mat"), "--preset", "fast", "--quiet")
    assert register(folder, tmp_path / "out", *more, fixed=far) == 0


@pytest.mark.parametrize("kind", ["affine", "rigid"])
def test_headers_apart_are_brought_together_first(folder: Path, tmp_path: Path, kind: str) -> None:
    image = sitk.ReadImage(str(folder / "f.nii.gz"))
    away = np.array([300.0, -200.0, 100.0])
    image.SetOrigin((np.array(image.GetOrigin()) + away).tolist())
    sitk.WriteImage(image, str(tmp_path / "far.nii.gz"))
    more = ("--preset", "fast", "--quiet", *(["--rigid"] if kind == "rigid" else []))
    assert register(folder, tmp_path / "out", *more, fixed=str(tmp_path / "far.nii.gz")) == 0
    a, t = affine_parts(sitk.ReadTransform(str(tmp_path / "out" / "affine.mat")))
    middle = FIXED.points((np.array(FIXED.size) - 1) / 2)
    np.testing.assert_allclose(a @ (middle + away) + t - middle, SHIFT, atol=0.5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (warning,) = report["warnings"]
    apart = np.linalg.norm(away - SHIFT)
    assert f"their centres were brought together first, by {apart:.0f} mm" in warning
    assert report["similarity"]["before"] is not None
    assert report["similarity"]["after"] > report["similarity"]["before"]


def test_a_background_that_is_not_the_darkest_changes_nothing_but_the_note(
    folder: Path, tmp_path: Path
) -> None:
    image = sitk.ReadImage(str(folder / "m.nii.gz"))
    values = sitk.GetArrayFromImage(image)
    scored = np.where(values > 1, (values - 100) / 30, 0)
    sitk.WriteImage(Grid.of(image).stamp(sitk.GetImageFromArray(scored)), str(tmp_path / "z.nii"))
    run_of = {}
    for name, path in (("given", folder / "m.nii.gz"), ("scored", tmp_path / "z.nii")):
        run_of[name] = pipeline.register(
            path, folder / "f.nii.gz", weights=str(folder / "tiny.safetensors"), preset="fast",
            threads=1,
        )  # fmt: skip
    apart, there = (
        np.array(run_of[name].affine.TransformPoint(FIXED.points(np.array([20.0, 24.0, 18.0]))))
        for name in ("given", "scored")
    )
    assert np.linalg.norm(apart - there) < 0.5
    assert run_of["given"].facts.warnings == ()
    (note,) = run_of["scored"].facts.warnings
    assert note.startswith("the moving image has a background of 0, which is not its darkest value")
    warped = sitk.GetArrayFromImage(run_of["scored"].warped)
    assert warped.min() < -1 < 0 < warped.max() < 3  # as given
    assert (warped[:, :, 0] == 0).all()


def test_beyond_the_border_warped_images_hold_the_background_of_their_source(folder: Path) -> None:
    images = [sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("m", "f")]
    shifted = [image + offset for image, offset in zip(images, (-3000.0, 1000.0), strict=True)]
    shifted[0] = sitk.Cast(shifted[0], sitk.sitkFloat32)
    start = sitk.AffineTransform(3)
    start.SetTranslation((60.0, 0.0, 0.0))
    result = pipeline.register(
        *shifted, weights=str(folder / "tiny.safetensors"), preset="fast", threads=1,
        affine="none", initial_transform=start,
    )  # fmt: skip
    assert (result.outside, result.inverse_outside) == (-3000.0, 1000.0)
    assert sitk.GetArrayFromImage(result.warped).max() <= -2800
    assert sitk.GetArrayFromImage(result.inverse_warped).min() > 999.5
    assert sitk.GetArrayFromImage(result.midspace.fixed).min() > 999.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert register(folder, tmp_path / "out", "--device", "cuda") == 7
    assert "CUDA" in capfd.readouterr().err
    assert os.listdir(tmp_path) == []


def test_checkpoints_that_will_not_do(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "weights"
    store.mkdir()
    nets = tiny_networks(SPACING)
    architecture = {
        "sn_net": config.to_dict(nets[0].config),
        "di_net": config.to_dict(nets[1].config),
    }
    tensors = tensors_of(*nets)
    weights.save(store / "short.safetensors", dict(list(tensors.items())[:-1]), architecture)
    weights.save(store / "more.safetensors", tensors | {"sn.surprise": torch.ones(1)}, architecture)
    weights.save(store / "strange.safetensors", tensors, {"sn_net": {"spacing": 1.0}, "di_net": {}})
    other = {**architecture, "di_net": {**architecture["di_net"], "surprise": 1}}
    weights.save(store / "unknown.safetensors", tensors, other)
    ruined = {name: value * torch.nan for name, value in tensors.items()}
    weights.save(store / "ruined.safetensors", ruined, architecture)
    save_checkpoint(store / "listed.safetensors", *nets)
    weights.publish(store / "listed.safetensors", training_data="-", licence="-", scores={})
    data = bytearray((store / "listed.safetensors").read_bytes())
    data[-1] ^= 1
    (store / "listed.safetensors").write_bytes(data)
    (store / "cut.safetensors").write_bytes(data[: len(data) // 2])
    for name, text in (
        ("short", "misses tensors"),
        ("more", "has unknown tensors"),
        ("strange", "describes no network"),
        ("unknown", "describes no network"),
        ("listed", "wrong SHA-256"),
        ("cut", "damaged"),
        ("ruined", "no numbers"),
        ("absent", "no such file"),
    ):
        assert (
            register(folder, tmp_path / "out", checkpoint=str(store / f"{name}.safetensors")) == 6
        )
        assert text in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_api_refuses_what_it_does_not_know(folder: Path) -> None:
    fixed, moving = (
        sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("f", "m")
    )
    given = str(folder / "tiny.safetensors")
    with pytest.raises(UsageError, match="unknown preset 'best'"):
        pipeline.register(moving, fixed, preset="best", weights=given)
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        pipeline.register(moving, fixed, device="tpu", weights=given)
    with pytest.raises(WeightsError, match="unknown checkpoint 'nope'"):
        pipeline.register(moving, fixed, weights="nope")
    moving.SetOrigin((0.0, 0.0, 5000.0))
    with pytest.raises(GeometryError, match="do not overlap"):
        pipeline.register(moving, fixed, weights=given, affine="none")


def test_the_api_refuses_an_alignment_it_does_not_know(folder: Path) -> None:
    images = (folder / "m.nii.gz", folder / "f.nii.gz")
    with pytest.raises(UsageError, match="unknown affine 'similarity'"):
        pipeline.register(*images, affine="similarity")  # type: ignore[arg-type]


def test_masks_in_memory_are_held_to_the_rules_of_files(folder: Path) -> None:
    images = [sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("m", "f")]
    mask = sitk.ReadImage(str(folder / "m_mask.nii.gz"))
    given = {"weights": str(folder / "tiny.safetensors"), "preset": "fast"}
    with pytest.raises(GeometryError, match="the fixed mask given lies on another grid"):
        pipeline.register(*images, fixed_mask=mask, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the moving mask given is empty"):
        pipeline.register(*images, moving_mask=mask * 0, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_checkpoint_of_one_level_will_do(
    folder: Path, tmp_path: Path, scale: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fields divide by little, so the working grid must see to what DI-Net needs."""
    narrow = dataclasses.replace(default_preset.PRESET, margin=5.0 / SPACING)
    monkeypatch.setattr(default_preset, "PRESET", narrow)
    level = config.Level(
        scale, 1, encoder=(4, 6), head=(4,), window=5, forces=True, steps=config.Steps(2)
    )
    sn = SNNet(config.SNNetConfig(SPACING, (level,), symmetric))
    save_checkpoint(tmp_path / "one.safetensors", sn, tiny_networks(SPACING)[1])
    result = pipeline.register(
        folder / "m.nii.gz",
        folder / "f.nii.gz",
        weights=str(tmp_path / "one.safetensors"),
        threads=1,
    )
    assert result.facts.folding.voxels == 0
    assert result.facts.folded_before_repair_percent == 0
    assert result.facts.shown == {}  # only brain-t1 knows what it was made for
    assert all(n % 4 == 0 for n in result.working.grid.size)
    assert bool(result.working.mid_to_fixed.any()) == symmetric


def test_the_api_tells_its_progress_and_leaves_its_arguments_alone(folder: Path) -> None:
    fixed, moving = (
        sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("f", "m")
    )
    before = [sitk.Hash(image) for image in (fixed, moving)]
    told: list[tuple[str, float]] = []
    result = pipeline.register(
        moving,
        fixed,
        weights=str(folder / "tiny.safetensors"),
        progress=lambda *step: told.append(step),
    )
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] <= 1
    assert {"affine", "networks", "refinement", "exact inverse"} <= {step for step, _ in told}
    assert [sitk.Hash(image) for image in (fixed, moving)] == before
    assert Grid.of(result.midspace.moving).same_as(FIXED)
    assert result.facts.folding.voxels == 0


def test_exchanging_the_images_exchanges_the_answers(folder: Path) -> None:
    """Without an affine and on one grid the whole method is symmetric, not SN-Net alone."""
    fixed = sitk.ReadImage(str(folder / "f.nii.gz"), sitk.sitkFloat32)
    mirrored = sitk.GetArrayFromImage(fixed)[:, :, ::-1]  # so that both fill the same box
    moving = FIXED.stamp(sitk.GetImageFromArray(np.ascontiguousarray(mirrored)))
    given: dict[str, Any] = {
        "weights": str(folder / "tiny.safetensors"),
        "affine": "none",
        "preset": "fast",
    }
    one, two = pipeline.register(moving, fixed, **given), pipeline.register(fixed, moving, **given)
    a, b = sitk.GetArrayFromImage(one.warp_field), sitk.GetArrayFromImage(two.inverse_warp_field)
    assert np.abs(a).max() > 0.5
    inner = (slice(8, -8),) * 3
    assert np.abs(a - b)[inner].mean() < 0.05 * np.abs(a)[inner].mean()


def test_an_image_against_itself_stays_where_it_is(folder: Path, tmp_path: Path) -> None:
    paths = [
        "-m",
        str(folder / "f.nii.gz"),
        "-f",
        str(folder / "f.nii.gz"),
        "-o",
        str(tmp_path / "out"),
    ]
    given = ["--weights", str(folder / "tiny.safetensors"), "--quiet", "--threads", "1"]
    assert run(["register", *paths, *given, "--no-affine"]) == 0
    field = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "forward_field.nii.gz")))
    assert np.linalg.norm(field, axis=-1).mean() < 0.2


DRIVER = """
import sys, time
from hsyn_cli.method import register as pipeline
def slow(*arguments, **options):
    print("working", flush=True)
    time.sleep(60)
setattr(pipeline, sys.argv.pop(1), slow)
from hsyn_cli.cli import main
main()
"""


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [("finer", signal.SIGINT, 130), ("total_fields", signal.SIGTERM, 143)],
)
def test_interrupted_in_mid_run_it_leaves_nothing(
    folder: Path, tmp_path: Path, step: str, number: signal.Signals, code: int
) -> None:
    paths = [
        "-m",
        str(folder / "m.nii.gz"),
        "-f",
        str(folder / "f.nii.gz"),
        "-o",
        str(tmp_path / "new" / "out"),
    ]
    more = ["--weights", str(folder / "tiny.safetensors"), "--threads", "1", "--preset", "fast"]
    ants = ["--ants-prefix", str(tmp_path / "ants" / "p_")]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, step, "register", *paths, *more, *ants],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert (err.count("\n"), err[:7]) == (1, "error: ")
    assert os.listdir(tmp_path) == []


def test_a_real_run_is_interrupted_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    """No stand-in: SIGTERM at any moment; whole outputs or none."""
    paths = [
        "-m",
        str(folder / "m.nii.gz"),
        "-f",
        str(folder / "f.nii.gz"),
        "-o",
        str(tmp_path / "out"),
    ]
    more = ["--weights", str(folder / "tiny.safetensors"), "--threads", "1", "--preset", "accurate"]
    with subprocess.Popen(
        [sys.executable, "-c", "from hsyn_cli.cli import main; main()", "register", *paths, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])},
    ) as process:
        while not (tmp_path / "out").exists() and process.poll() is None:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):  # in the midst of its work
            process.wait(timeout=1.0)
        process.send_signal(signal.SIGTERM)  # does nothing where the run has ended
        process.communicate(timeout=30)
    assert process.returncode in (0, 143)
    left = os.listdir(tmp_path / "out") if (tmp_path / "out").exists() else []
    files = run_folder.targets(run_folder.Wanted(tmp_path / "out")).values()
    whole = sorted(path.name for path in files)
    assert sorted(left) == (whole if process.returncode == 0 else [])


def test_the_refinement_sees_tissue_in_place_of_the_finest_level(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks, as the preset default has it.

    The finest level gives nonsense here and is not asked.
    """
    tissue = config.TissueConfig(({"2": 1.0},), encoder=(4, 6), head=(4,))
    torch.manual_seed(0)
    levels = tuple(config.Level(scale, 1, encoder=(4, 6), head=(4,), window=5) for scale in (2, 1))
    sn = SNNet(config.SNNetConfig(SPACING, levels, tissue=tissue))
    torch.nn.init.constant_(sn.levels[1].flow.bias, 30.0)
    save_checkpoint(tmp_path / "with.safetensors", sn, tiny_networks(SPACING)[1])
    seen: list[torch.Size] = []
    refine = refinement.refine

    def noting(u: torch.Tensor, pair: torch.Tensor, *more: object) -> torch.Tensor:
        seen.append(pair.shape)
        return refine(u, pair, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(refinement, "refine", noting)
    warped = {}
    for weight in (0.0, 16.0):
        stage = RefineStage(1, Steps(2, tissue=weight))
        coarse = Preset(coarser_than=1, refinement=(stage,))
        monkeypatch.setattr(default_preset, "PRESET", coarse)
        result = pipeline.register(
            folder / "m.nii.gz", folder / "f.nii.gz", threads=1,
            weights=str(tmp_path / "with.safetensors"),
            fixed_mask=folder / "f_mask.nii.gz", moving_mask=folder / "m_mask.nii.gz",
        )  # fmt: skip
        assert result.facts.folding.voxels == 0
        assert seen[-1][:2] == (2, 2)
        warped[weight] = sitk.GetArrayFromImage(result.forward_field)
    assert not np.array_equal(warped[0.0], warped[16.0])
