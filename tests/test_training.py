"""Training on a tiny synthetic cache: pairs, losses, phases, resuming, and several processes."""

import itertools
import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import balls, picture, smooth_field, tiny_networks

from hsyn_cli import config, devices
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.devices import convolution_type
from hsyn_cli.fields.sampling import compose, downsample
from hsyn_cli.method import losses
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.training import loop, processes, runs
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.cache import Cache
from hsyn_cli.training.objective import crop_pair, pair_loss, random_field, stage_loss
from hsyn_cli.training.pairs import Draws, PairSource, TrainingPair

SHAPE = (32, 40, 24)  # z, y, x
CPU = torch.device("cpu")
SN, DI = tiny_networks(1.0)
TINY = Training(
    sn_net=SN.config, di_net=DI.config, size=SHAPE[::-1], log_every=3, validate_every=6,
    precision="float32", seed=3, di_steps=6,
    stages=(Stage(0, 1, 12, 3e-3, look=2), Stage(1, 2, 7, 2e-3, crop=(16, 16, 8))),
)  # fmt: skip


@pytest.fixture(scope="module")
def cache() -> Cache:
    return balls(SHAPE)


def source(cache: Cache, **changes: object) -> PairSource:
    return PairSource(cache, replace(TINY, **changes), CPU)  # type: ignore[arg-type]


def test_surroundings_are_painted_in_their_share_of_the_pairs_and_never_scored(
    cache: Cache,
) -> None:
    """Of three ids the last counts no more."""
    partly = replace(cache, counted=2)
    bright = {}
    for share in (0.0, 1.0):
        maps = source(partly, surroundings=share, map_share=1.0, flip=False)
        bright[share] = 0.0
        for k in range(12):
            pair = maps.draw(1, k)
            assert pair.labels is not None
            assert pair.count == 3
            assert pair.labels.max() <= 2
            bright[share] += float((pair.images * (pair.labels == 0)).sum())
    assert bright[1.0] > 1.2 * bright[0.0]  # without, only what blur and noise leave


def test_a_crop_sees_all_of_its_level(cache: Cache) -> None:
    """Steps along the forces and repeats, as without a crop.

    The whole image as a crop gives the same loss.
    """
    levels = (
        SN.config.levels[0],
        replace(SN.config.levels[1], forces=True, repeats=2, steps=config.Steps(2)),
    )
    net = SNNet(replace(SN.config, levels=levels))
    pair = source(cache).draw(2, 0)
    whole, cropped = (
        stage_loss(net, pair, Stage(1, 2, 1, 1e-3, crop=crop), TINY, Draws(CPU, 1))[0].item()
        for crop in (None, pair.images.shape[2:])
    )
    assert cropped == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"repeats": 0}, "repeats"),
        ({"window": 4}, "odd window"),
        ({"stride": 2, "steps": {"steps": 3}}, "stride of 1"),
        ({"steps": {"steps": 3}}, "no gradient"),
    ],
)
def test_levels_that_cannot_be_are_refused(change: dict[str, object], text: str) -> None:
    plain = config.to_dict(replace(TINY, stages=(Stage(0, 2, 1, 1e-3),)))
    levels = plain["sn_net"]["levels"]
    plain["sn_net"]["levels"] = [levels[0], {**levels[1], **change}]
    with pytest.raises(ValueError, match=text):
        config.training_from_dict(plain)


def test_a_config_with_steps_survives_json() -> None:
    levels = (
        replace(SN.config.levels[0], steps=config.Steps(7, step_sigma=2.0)),
        SN.config.levels[1],
    )
    training = replace(TINY, sn_net=replace(SN.config, levels=levels))
    assert config.training_from_dict(json.loads(json.dumps(config.to_dict(training)))) == training


def test_convolutions_are_in_what_the_cpu_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.float32),  # ONEDNN_MAX_CPU_ISA says so
        ({}, True, torch.float32),
    )
    for able, used, expected in cases:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        monkeypatch.setattr(devices, "_onednn_has_bfloat16", lambda used=used: used)
        assert convolution_type(CPU) == expected
    assert convolution_type(torch.device("mps")) == torch.float32


def test_pairs_are_in_range_and_two_different_training_images(cache: Cache) -> None:
    kinds = set()
    for k in range(12):
        pair = source(cache).draw(2, k)
        assert pair.images.shape == (2, 1, *(n // 2 for n in SHAPE))
        assert pair.images.dtype == torch.float32
        assert pair.images.min() >= 0
        assert 0.1 < pair.images.max() <= 1
        assert not torch.equal(pair.images[0], pair.images[1])
        if pair.labels is not None:
            assert pair.labels.shape == pair.images.shape
            assert pair.labels.dtype == torch.int64
            assert pair.count == 4
            assert 0 <= pair.labels.min() < pair.labels.max() < pair.count
        kinds.add(pair.labels is None)
    assert kinds == {True, False}


def test_a_pair_depends_on_its_key_and_the_seed_alone(cache: Cache) -> None:
    one = source(cache)
    first = one.draw(2, 0, 5, 0).images
    one.draw(2, 0, 6, 0)
    assert torch.equal(first, one.draw(2, 0, 5, 0).images)
    assert torch.equal(first, source(cache).draw(2, 0, 5, 0).images)
    assert not torch.equal(first, source(cache, seed=4).draw(2, 0, 5, 0).images)
    assert not torch.equal(first, one.draw(2, 0, 5, 1).images)


def test_what_is_held_out_is_never_drawn(cache: Cache) -> None:
    marked = replace(cache, images=cache.images.copy())
    marked.images[2:4] = 0
    drawn = source(marked, map_share=0.0)
    assert all(image.max() > 0 for k in range(10) for image in drawn.draw(2, k).images)
    assert drawn.validation(2)[0].images.max() == 0


def test_validation_is_the_plain_last_two_of_each_kind(cache: Cache) -> None:
    scans, maps = source(cache).validation(1)
    expected = torch.from_numpy(cache.images[[2, 3]]).float()[:, None] / 255
    torch.testing.assert_close(scans.images, expected, atol=1e-5, rtol=0)
    assert scans.labels is None
    assert maps.labels is not None
    assert np.array_equal(maps.labels[:, 0].numpy(), cache.labels[[6, 7]])


def test_scans_with_labels_get_them_too(cache: Cache) -> None:
    both = replace(
        cache, labels=np.concatenate((cache.labels[4:], cache.labels[4:])), has_labels=(True,) * 8
    )
    pair = source(both, map_share=0.0).draw(2, 1)
    assert pair.labels is not None
    assert (
        (pair.images > 0.05) == (pair.labels > 0)
    ).float().mean() > 0.9  # bent and flipped alike


def test_pair_loss_is_lower_where_the_images_meet() -> None:
    image = picture((16, 20, 24), 1)
    same = TrainingPair(torch.cat((image, image)), None)
    apart = TrainingPair(torch.cat((image, picture((16, 20, 24), 2))), None)
    u = torch.zeros(2, 3, 8, 10, 12)
    assert pair_loss(u, same, 1.0, 2.0, 5, TINY)[0] < pair_loss(u, apart, 1.0, 2.0, 5, TINY)[0]
    bent = 4 * smooth_field((8, 10, 12), 0.5, 1, batch=2)
    loss, parts = pair_loss(bent, same, 1.0, 2.0, 5, TINY)
    assert loss > pair_loss(u, same, 1.0, 2.0, 5, TINY)[0]
    whole = -parts["ncc"] + TINY.smooth * parts["smooth"] + TINY.mean_shape * parts["balance"]
    torch.testing.assert_close(loss, whole)
    heavier = pair_loss(bent, same, 1.0, 2.0, 5, replace(TINY, smooth=2.0))[0]
    torch.testing.assert_close(heavier - loss, parts["smooth"])


def test_pair_loss_tells_the_dice_of_labels() -> None:
    labels = torch.randint(0, 4, (1, 1, 16, 20, 24), generator=torch.Generator().manual_seed(0))
    images = labels.float() / 4
    same = TrainingPair(torch.cat((images, images)), torch.cat((labels, labels)), 4)
    _, parts = pair_loss(torch.zeros(2, 3, 8, 10, 12), same, 2.0, 4.0, 5, TINY)
    assert float(parts["dice"]) == pytest.approx(1, abs=1e-5)
    assert (
        "dice"
        not in pair_loss(
            torch.zeros(2, 3, 8, 10, 12), TrainingPair(same.images, None), 2.0, 4.0, 5, TINY
        )[1]
    )


def test_the_modulus_balance_knows_lengths_but_no_directions() -> None:
    u = smooth_field((8, 10, 12), 0.3, 1)
    assert losses.modulus_balance(u, u.roll(1, dims=1), 1.0) == pytest.approx(0, abs=1e-6)
    assert losses.modulus_balance(u, 0 * u, 2.0) == pytest.approx(
        float((u / 2).square().sum(1).mean()), rel=1e-5
    )
    assert losses.mean_shape(u, -u, 1.0) == 0


def test_one_direction_leaves_the_fixed_image_where_it_is() -> None:
    sn, _ = tiny_networks(1.0, 0.3)
    one = type(sn)(replace(sn.config, symmetric=False))
    one.load_state_dict(sn.state_dict())
    pair = picture((16, 24, 16), 1), picture((16, 24, 16), 2)
    with torch.no_grad():
        to_moving, to_fixed = one(*pair)
        assert to_fixed.abs().max() == 0
        assert to_moving.abs().max() > 0.01
        first = sn(*pair, depth=1)[0]
        torch.testing.assert_close(one(*pair, depth=1)[0], first)


def test_a_crop_takes_the_same_window_of_images_labels_and_field() -> None:
    place = torch.arange(16 * 20 * 24.0).reshape(1, 1, 16, 20, 24).repeat(2, 1, 1, 1, 1)
    u = downsample(place, 2).repeat(1, 3, 1, 1, 1)
    for seed in range(4):
        cut, cut_u = crop_pair(
            TrainingPair(place, place.long()), u, (8, 12, 99), 2, Draws(CPU, seed)
        )
        assert cut.images.shape == (2, 1, 8, 12, 24)
        assert cut.labels is not None
        assert torch.equal(cut.labels.float(), cut.images)
        torch.testing.assert_close(downsample(cut.images, 2)[:, 0], cut_u[:, 0])


def test_random_fields_are_smooth_and_bounded() -> None:
    for k in range(5):
        u = random_field(torch.Size((16, 20, 24)), 2.0, Draws(CPU, k))
        assert u.shape == (2, 3, 16, 20, 24)
        assert (u[..., 1:] - u[..., :-1]).abs().max() <= 0.7 * 2.0 + 1e-5


def train(
    cache: Cache, training: Training, folder: Path, stop_at: int | None = None
) -> list[loop.Record]:
    """A whole run, or one that ends as if killed after so many records.

    Goes on from what `folder` holds.
    """
    folder.mkdir(exist_ok=True)
    run = runs.RunFolder(folder)
    networks = training_phases.build(training, CPU, bf16=False)
    state = runs.load_state(run, training, networks) if run.state.exists() else loop.State()
    run.cut_log(state)
    todo = training_phases.phases(training, networks, PairSource(cache, training, CPU))

    def keep(state: loop.State) -> None:
        runs.save_state(run, training, networks, state)
        runs.save_checkpoint(run, training, networks, state)

    for record in itertools.islice(
        loop.run(todo, networks, state, training, keep, save_every=0.0), stop_at
    ):
        run.append(record)
    return run.records()


def curve(records: list[loop.Record]) -> list[dict[str, object]]:
    """Without the times."""
    return [{k: v for k, v in record.items() if "second" not in k} for record in records]


@pytest.fixture(scope="module")
def whole(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[loop.Record]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(cache, TINY, folder)


def test_a_run_has_all_phases_and_finite_numbers(whole: tuple[Path, list[loop.Record]]) -> None:
    _, records = whole
    assert [r["name"] for r in records if r["step"] == r["steps"] and "loss" in r] == [
        "SN-Net 1",
        "SN-Net 2",
        "DI-Net",
    ]
    assert all(
        math.isfinite(v) for record in records for v in record.values() if isinstance(v, float)
    )
    assert [r["step"] for r in records if "val_ncc" in r] == [6, 12, 6, 7]
    assert all("val_dice" in r for r in records if "val_ncc" in r)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_run_with_a_tissue_net_goes_on_to_the_same_curve(
    cache: Cache, tmp_path: Path, stop_at: int
) -> None:
    net = config.TissueConfig(({"2": 1.0, "3": 0.5},), encoder=(4, 6), head=(4,))
    training = replace(
        TINY, sn_net=replace(SN.config, tissue=net), tissue_steps=9, tissue_crop=(16, 16, 16),
        stages=TINY.stages[:1], di_steps=0
    )  # fmt: skip
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    records = train(cache, training, whole)
    assert records[0]["name"] == "tissue net"
    train(cache, training, stopped, stop_at)
    assert curve(train(cache, training, stopped)) == curve(records)


@pytest.mark.parametrize("stop_at", [1, 3, 5, 8])
def test_a_run_that_was_killed_goes_on_to_the_same_curve(
    cache: Cache, whole: tuple[Path, list[loop.Record]], tmp_path: Path, stop_at: int
) -> None:
    folder, records = whole
    train(cache, TINY, tmp_path, stop_at)
    assert curve(train(cache, TINY, tmp_path)) == curve(records)
    names = ("checkpoint.safetensors",)
    for name in names:
        a, b = (runs.checkpoints.load(place / name).tensors for place in (folder, tmp_path))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_training_lowers_the_loss_and_what_is_frozen_stays(cache: Cache, tmp_path: Path) -> None:
    training = replace(TINY, stages=(Stage(0, 1, 60, 5e-3),), di_steps=0, map_share=0.0)
    records = train(cache, training, tmp_path)
    seen = [float(r["loss"]) for r in records if "loss" in r]
    assert seen[-1] < seen[0] - 0.01
    scores = [float(r["val_ncc"]) for r in records if "val_ncc" in r]
    assert max(scores) > scores[0]
    fresh, trained = (
        training_phases.build(training, CPU, False).tensors(),
        runs.checkpoints.load(tmp_path / "checkpoint.safetensors").tensors,
    )
    same = {key: torch.equal(fresh[key], trained[key]) for key in fresh}
    assert not any(
        v for k, v in same.items() if k.startswith("sn.levels.0") and k.endswith("weight")
    )
    assert all(v for k, v in same.items() if not k.startswith("sn.levels.0"))


def test_di_net_learns_to_invert(cache: Cache, tmp_path: Path) -> None:
    training = replace(TINY, stages=(Stage(0, 1, 1, 1e-4),), di_steps=60)
    train(cache, training, tmp_path)
    networks = training_phases.build(training, CPU, False)
    before = networks.di
    u = random_field(torch.Size((16, 20, 12)), 2.0, Draws(CPU, 7))
    u *= 0.7 * 2.0 / u.diff(dim=-1).abs().max()  # far from what fixed-point steps alone settle
    with torch.no_grad():
        untrained = compose(before(u, 2.0), u, 2.0).square().mean()
        networks.load(runs.checkpoints.load(tmp_path / "checkpoint.safetensors").tensors)
        assert compose(networks.di(u, 2.0), u, 2.0).square().mean() < untrained


def test_the_best_weights_of_a_phase_are_kept(cache: Cache, tmp_path: Path) -> None:
    """A rate that ruins the network after the first validation.

    The checkpoint is the one from before.
    """
    training = replace(TINY, stages=(Stage(0, 1, 42, 0.5),), di_steps=0)
    records = train(cache, training, tmp_path)
    scores = [float(r["val_ncc"]) + float(r["val_dice"]) for r in records if "val_ncc" in r]
    networks = training_phases.build(training, CPU, False)
    networks.load(runs.checkpoints.load(tmp_path / "checkpoint.safetensors").tensors)
    found = training_phases.phases(training, networks, PairSource(cache, training, CPU))[
        0
    ].validate()
    assert sum(found.values()) == pytest.approx(max(scores), abs=1e-5)


def test_a_step_of_a_batch_is_the_mean_of_its_pairs(cache: Cache) -> None:
    grads = []
    for batch in (1, 2):
        networks = training_phases.build(TINY, CPU, False)
        phase = training_phases.phases(TINY, networks, PairSource(cache, TINY, CPU))[0]
        if batch == 2:
            parts = loop.step(phase, None, 4, 2)
            assert parts["loss"].ndim == 0
        else:
            for item in (0, 1):
                (phase.loss(4, item)[0] / 2).backward()
            torch.nn.utils.clip_grad_norm_(phase.parameters, 1.0)
        grads.append([p.grad.clone() for p in phase.parameters if p.grad is not None])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-4)


def test_bfloat16_stays_near_float32(cache: Cache) -> None:
    values = []
    for bf16 in (False, True):
        networks = training_phases.build(TINY, CPU, bf16)
        values.append(
            training_phases.phases(TINY, networks, PairSource(cache, TINY, CPU))[0]
            .loss(0, 0)[0]
            .item()
        )
    assert values[0] == pytest.approx(values[1], abs=0.02)


def test_configs_survive_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    run = runs.RunFolder(tmp_path)
    training = replace(TINY, labels=(2, 3), intensities={"2": 0.5})
    runs.write_config(run, training)
    assert runs.read_config(run.config) == training
    run.config.write_text('{"seed": 5}')
    assert runs.read_config(run.config) == Training(seed=5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"step": 5}', "step"),
        ('{"balance": "xyz"}', "balance"),
        ('{"stages": [{"first": 0, "depth": 9, "steps": 3, "rate": 1e-3}]}', "levels"),
        ('{"sn_net": {"levels": [{"scale": 4}]}}', "is missing"),
        ("{", "cannot be read"),
    ],
)
def test_a_bad_config_is_told_in_one_line(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises((runs.UsageError, runs.InputError), match=word):
        runs.read_config(path)


def test_scaled_steps_fit_a_factor() -> None:
    half = TINY.scaled(0.5)
    assert [stage.steps for stage in half.stages] == [6, 4]
    assert half.di_steps == 3
    assert TINY.scaled(1e-9).stages[0].steps == 1


def test_the_default_architecture_is_what_training_expects() -> None:
    """The field of each level but the last has the voxels that crops of the finest are cut by."""
    levels = config.SNNetConfig().levels
    assert [level.field_stride for level in levels] == [4, 2, 2]
    for stage in Training().stages:
        if stage.crop is not None:
            ratio = levels[stage.depth - 2].field_stride // levels[stage.depth - 1].scale
            assert all(n % (ratio * levels[stage.depth - 1].stride) == 0 for n in stage.crop)


def test_a_step_with_gradients_that_are_no_numbers_is_skipped(cache: Cache) -> None:
    networks = training_phases.build(TINY, CPU, False)
    phase = training_phases.phases(TINY, networks, PairSource(cache, TINY, CPU))[0]
    broken = replace(
        phase, loss=lambda step, item: (sum(p.sum() for p in phase.parameters) * math.nan, {})
    )
    before = [p.detach().clone() for p in phase.parameters]
    optimiser = torch.optim.Adam(phase.parameters, lr=0.1)
    assert loop.step(broken, optimiser, 0, 1)["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, phase.parameters, strict=True))
    assert loop.step(phase, optimiser, 0, 1)["skipped"] == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, phase.parameters, strict=True))


def test_training_that_diverges_is_told(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(runs.UsageError, match="diverged"):
        train(cache, replace(TINY, smooth=math.nan), tmp_path)


def test_processes_wait_for_the_one_that_prepares_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes some seconds a subject. NCCL gives up after ten minutes."""
    given: dict[str, timedelta] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        processes.dist, "init_process_group", lambda backend, **more: given.update(more)
    )
    processes.join(torch.device("cuda"))
    assert given["timeout"] >= timedelta(hours=12)
