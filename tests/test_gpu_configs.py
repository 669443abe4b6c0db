"""The configs of examples/gpu: they load, have the nets they say, train, and register."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import coarse_brain
from test_examples import load

from hsyn_cli import cli, config
from hsyn_cli.config.training import Training
from hsyn_cli.errors import UsageError, WeightsError
from hsyn_cli.io import checkpoints
from hsyn_cli.method import register as pipeline
from hsyn_cli.method.result import Registration
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.unet import UNet
from hsyn_cli.training import cache as caches
from hsyn_cli.training import painting, phases, runs
from hsyn_cli.training.session import Session, _for_checkpoint

FOLDER = Path(__file__).parents[1] / "examples" / "gpu"
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
SHAPE = (32, 40, 48)  # z, y, x
MM = 6.0
SURROUNDING = 507
SPLITS = ("train", "train", "validation", "validation")


def small(training: Training, **changes: Any) -> Training:
    """The same training with few channels and steps, on few large voxels."""
    narrow: dict[str, Any] = {"encoder": (4, 6), "head": (4,)}
    levels = tuple(
        replace(v, **narrow, decoder=(4,) if v.decoder else ()) for v in training.sn_net.levels
    )
    nets = {
        name: net and replace(net, **narrow)
        for name in ("tissue", "features")
        for net in [getattr(training.sn_net, name)]
    }
    steps = {
        name: min(2, getattr(training, name))
        for name in ("di_steps", "tissue_steps", "feature_steps")
    }
    return replace(
        training,
        sn_net=replace(training.sn_net, levels=levels, spacing=MM, **nets),
        di_net=replace(training.di_net, **narrow),
        stages=tuple(replace(stage, steps=2) for stage in training.stages),
        tissue_crop=(24, 24, 16),
        size=SHAPE[::-1],
        log_every=1,
        validate_every=2,
        precision="float32",
        feature_voxels=64,
        **steps | changes,
    )


def blocks(training: Training) -> caches.Cache:
    """Three label maps and two scans of each split, whose ids lie in blocks; one is outside."""
    assert training.labels is not None
    ids = (*training.labels, SURROUNDING)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    maps = [
        (1 + ((z + k) // 8 + 4 * (y // 8) + 20 * (x // 16)) % len(ids)).astype(np.uint8)
        for k in range(4)
    ]
    scans = [(4 * labels + 20).astype(np.uint8) for labels in maps]
    blank = [np.zeros(SHAPE, np.uint8)] * 4
    kinds = (True,) * 4 + (False,) * 4
    return caches.Cache(
        np.stack(scans + blank), np.stack(blank + maps), kinds, tuple(not k for k in kinds), ids,
        tuple(f"{k}.nii.gz" for k in range(8)), counted=len(ids) - 1,
        made_with=caches.settings(training), splits=SPLITS * 2,
    )  # fmt: skip


def trained(training: Training, out: Path) -> Path:
    """Train from a cache, as the GPU's kit does, and return the checkpoint."""
    caches.save_cache(blocks(training), out / "cache")
    (out / "given.json").write_text(json.dumps(config.to_dict(training)))
    with Session(out, "cpu", 1) as session:
        session.configure(out / "given.json", None, False, None)
        session.load_data(None, lambda step, fraction: None)
        todo = phases.phases(session.training, session.networks, session.source)
        records = list(session.train())
    assert {record["name"] for record in records} == {phase.name for phase in todo}
    assert any("val" in key for record in records for key in record)
    return session.run.checkpoint


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "VALIDATION_CROP", (24, 24, 16))


@pytest.fixture(scope="module")
def brains() -> tuple[sitk.Image, sitk.Image]:
    return coarse_brain("moving", MM), coarse_brain("fixed", MM)


def registered(brains: tuple[sitk.Image, sitk.Image], weights: str) -> Registration:
    return pipeline.register(*brains, weights=weights, threads=1)


def field(result: Registration) -> np.ndarray:
    return sitk.GetArrayFromImage(result.forward_field)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_loads_and_its_full_nets_answer(name: str) -> None:
    training = runs.read_config(CONFIGS[name])
    assert training.split
    assert training.precision == "bfloat16"
    torch.manual_seed(0)
    net = SNNet(training.sn_net)
    images = torch.rand(2, 1, 16, 16, 32)
    with torch.no_grad():
        u_moving, u_fixed = net(*images.chunk(2))
        assert u_moving.shape[:2] == u_fixed.shape[:2] == (1, 3)
        for maps, of in (
            (net.tissue, training.sn_net.tissue and len(training.sn_net.tissue.channels)),
            (net.features, training.sn_net.features and training.sn_net.features.count),
        ):
            if maps is not None:
                answer = maps(images)
                assert answer.shape == (2, of, 16, 16, 32)
                assert 0 <= answer.min() <= answer.max() <= 1


def test_levels_at_paper_size_are_the_u_net_of_voxelmorph() -> None:
    """Of its 327,331 parameters, the forces as a further input have 3 x 16 x 27 more."""
    level = runs.read_config(CONFIGS["sn-net"]).sn_net.levels[0]
    with torch.device("meta"):
        paper = UNet(2, 1, level.encoder, level.head, decoder=level.decoder)
        own = SNNet(runs.read_config(CONFIGS["sn-net"]).sn_net).levels
    assert sum(v.numel() for v in paper.parameters()) == 327_331
    for net in own:
        assert sum(v.numel() for v in net.parameters()) == 327_331 + 3 * 16 * 27


def test_the_stages_are_progressive_with_freezing_and_dice_is_the_only_difference() -> None:
    plain, dice = (runs.read_config(CONFIGS[name]) for name in ("sn-net", "sn-net-dice"))
    assert [(v.first, v.depth) for v in plain.stages] == [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]
    assert [v.steps for v in plain.stages] == [30_000, 4_000, 26_000, 4_000, 86_000]
    assert plain.dice == 0 < dice.dice
    assert replace(plain, dice=dice.dice, map_share=dice.map_share) == dice


def test_the_classes_of_the_anatomy_net_are_ids_of_brains_and_both_sides_are_one() -> None:
    training = runs.read_config(CONFIGS["anatomy"])
    tissue = training.sn_net.tissue
    assert tissue is not None
    assert training.labels is not None
    groups = [set(group) for group in tissue.classes]
    assert set().union(*groups) <= set(training.labels)
    for left, right in ((2, 41), (3, 42), (10, 49), (17, 53), (28, 60)):  # flips exchange them
        assert any({left, right} <= group for group in groups)
    assert all(any(row) for row in tissue.values([k for group in groups for k in group]))


@pytest.mark.parametrize("name", ["anatomy", "features"])
def test_a_map_net_can_be_added_to_the_checkpoint_that_ships(name: str) -> None:
    training = runs.read_config(CONFIGS[name])
    added = _for_checkpoint(training, "brain-t1", given=True)
    shipped = checkpoints.load("brain-t1").config["sn_net"]
    assert added.stages == ()
    assert added.sn_net.features == training.sn_net.features
    if training.sn_net.tissue:
        assert added.sn_net.tissue == training.sn_net.tissue
    else:
        assert added.sn_net.tissue == config.sn_net_from_dict(shipped).tissue is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sn-net", "sn-net-dice"])
def test_the_levels_train_at_a_small_size_and_register(
    name: str, tmp_path: Path, brains: tuple[sitk.Image, sitk.Image]
) -> None:
    checkpoint = trained(small(runs.read_config(CONFIGS[name])), tmp_path / "run")
    result = registered(brains, str(checkpoint))
    assert result.facts.checkpoint.name == "checkpoint"
    assert result.facts.folding.voxels == 0


@pytest.mark.slow
def test_the_anatomy_net_trains_at_a_small_size_and_its_maps_pull(
    tmp_path: Path, brains: tuple[sitk.Image, sitk.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = small(runs.read_config(CONFIGS["anatomy"]), tissue_steps=6)
    checkpoint = trained(training, tmp_path / "run")
    assert training.sn_net.tissue is not None
    stored = checkpoints.load(str(checkpoint)).config["sn_net"]
    assert config.sn_net_from_dict(stored).tissue == training.sn_net.tissue
    pulled = registered(brains, str(checkpoint))
    assert pulled.facts.folding.voxels == 0
    monkeypatch.setattr(SNNet, "look", lambda self, images: images)
    assert not np.array_equal(field(pulled), field(registered(brains, str(checkpoint))))


@pytest.mark.slow
def test_the_feature_net_trains_at_a_small_size_and_leads_across_contrasts_alone(
    tmp_path: Path,
    brains: tuple[sitk.Image, sitk.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    training = small(runs.read_config(CONFIGS["features"]), feature_steps=6)
    checkpoint = trained(training, tmp_path / "run")
    moving, fixed = brains
    other = (sitk.Mask(200 - moving, moving > 20), fixed)
    led = registered(other, str(checkpoint))
    assert any("features of checkpoint checkpoint" in line for line in led.facts.warnings)
    assert led.facts.folding.voxels == 0
    for letter, image in zip("mf", other, strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{letter}.nii"))
    capsys.readouterr()
    pair = ["-m", str(tmp_path / "m.nii"), "-f", str(tmp_path / "f.nii")]
    assert cli.run(["check", *pair, "--model", str(checkpoint), "--json", "--threads", "1"]) == 0
    used = json.loads(capsys.readouterr().out)["pairs"][0]["used"]
    assert used["checkpoint"] == "none"
    assert "the features alone" in used["why"]
    without = registered(other, "none")
    assert not np.array_equal(field(led), field(without))
    looks: list[bool] = []
    look = SNNet.look

    def noting(self: SNNet, images: torch.Tensor) -> torch.Tensor:
        looks.append(self.contrasts_differ)
        return look(self, images)

    monkeypatch.setattr(SNNet, "look", noting)
    alike = registered(brains, str(checkpoint))
    assert not any("features" in line for line in alike.facts.warnings)
    assert not any(looks)


def test_a_config_with_a_split_refuses_data_without_one(tmp_path: Path) -> None:
    training = small(runs.read_config(CONFIGS["anatomy"]))
    caches.save_cache(replace(blocks(training), splits=()), tmp_path / "cache")
    (tmp_path / "given.json").write_text(json.dumps(config.to_dict(training)))
    with Session(tmp_path, "cpu", 1) as session:
        session.configure(tmp_path / "given.json", None, False, None)
        with pytest.raises(UsageError, match="training and validation"):
            session.load_data(None, lambda step, fraction: None)


def test_a_net_that_nothing_would_train_is_told(tmp_path: Path) -> None:
    training = replace(runs.read_config(CONFIGS["features"]), feature_steps=0)
    path = tmp_path / "given.json"
    path.write_text(json.dumps(config.to_dict(training)))
    with Session(tmp_path / "run", "cpu", 1) as session:
        with pytest.raises(UsageError, match="a feature net that nothing would train"):
            session.configure(path, None, False, None)
        session.configure(path, "brain-t1", False, None)
        networks = phases.build(session.training, session.device, bf16=False)
        with pytest.raises(WeightsError, match="nothing would train"):
            runs.load_start("brain-t1", session.training, networks)


def test_the_cost_of_a_step_is_that_of_its_convolutions() -> None:
    """Forward, and twice that for backward where the network learns; its input is kept."""
    sizes = load(FOLDER / "sizes.py")
    net = torch.nn.Conv3d(2, 4, 3, padding=1)
    images = torch.zeros(1, 2, 8, 8, 8)
    forward = 2 * 2 * 27 * 4 * 8**3 / 1e12
    flop, kept = sizes.cost([(net, images)], {id(net)})
    assert flop == pytest.approx(3 * forward)
    assert kept == pytest.approx(4 * (images.numel() + 2 * 27 * 4) / 1e9)
    assert sizes.cost([(net, images)], set()) == (pytest.approx(forward), 0)
