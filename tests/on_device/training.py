"""Training: pairs, painted labels, breathing chests, every phase, the state on disk."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from samples import balls, chest

from hsyn_cli.anatomy.intensity import resample_image, resample_mask
from hsyn_cli.config.architecture import FeatureConfig, TissueConfig, to_dict
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.io import checkpoints
from hsyn_cli.space import Grid
from hsyn_cli.training import breathing, loop, painting, phases, runs
from hsyn_cli.training.cache import Cache, save_cache, settings
from hsyn_cli.training.pairs import PairSource
from hsyn_cli.training.session import Session
from on_device.parts import DI, FOLDER, SN, Results, host

SHAPE = (16, 24, 20)
TRAINING = Training(
    sn_net=replace(SN, spacing=1.0), di_net=DI, size=SHAPE[::-1], log_every=1, validate_every=2,
    precision="float32", seed=3, di_steps=2, tissue_steps=2, tissue_crop=(16, 16, 16), batch=2,
    intensities={"2": 0.3, "3": 0.6, "41": 0.9}, background_noise=0.5, thick_share=0.5,
    stages=(Stage(0, 1, 2, 3e-3, look=2), Stage(1, 2, 2, 2e-3, crop=(8, 8, 8))),
)  # fmt: skip


def _trained(device: str, training: Training, cache: Cache) -> Results:
    """All phases; killed after every other record, and gone on with from the state kept."""
    run = runs.RunFolder(Path(tempfile.mkdtemp(dir=FOLDER)))
    told: list[float] = []
    state, place, bf16 = loop.State(), torch.device(device), training.precision == "bfloat16"

    def keep(state: loop.State) -> None:
        runs.save_state(run, training, networks, state)

    while True:
        networks = phases.build(training, place, bf16)
        if run.state.exists():
            state = runs.load_state(run, training, networks)
        todo = phases.phases(training, networks, PairSource(cache, training, place))
        if state.phase == len(todo):
            return [torch.tensor(told), *host(networks.tensors().values())]
        records = loop.run(todo, networks, state, training, keep, save_every=0.0)
        for record in itertools.islice(records, 2):  # as if killed before the state is kept
            told += [float(v) for k, v in record.items() if k == "loss" or k.startswith("val_")]


def session(device: str) -> Results:
    """`hsyn train`: it measures its pace, then trains and writes a checkpoint."""
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    sn = replace(SN, spacing=1.0, tissue=None)
    few = replace(TRAINING, sn_net=sn, tissue_steps=0, stages=TRAINING.stages[:1], balance="mc")
    (folder / "config.json").write_text(json.dumps(to_dict(few)))
    save_cache(replace(balls(SHAPE), made_with=settings(few)), folder / "run" / "cache")
    with Session(folder / "run", device, 1) as opened:
        opened.configure(folder / "config.json", None, False, None)
        opened.load_data(None, lambda step, fraction: None)
        opened.plan()
        told = [float(record["loss"]) for record in opened.train()]
    written = checkpoints.load(str(folder / "run" / "checkpoint.safetensors")).tensors
    return [torch.tensor(told), *(written[name] for name in sorted(written))]


def training(device: str) -> Results:
    with mock.patch.object(painting, "VALIDATION_CROP", (16, 24, 20)):
        return _trained(device, TRAINING, balls(SHAPE))


def further(device: str) -> Results:
    """A tissue net of classes, and a feature net."""
    small: dict[str, Any] = {"encoder": (4, 6), "head": (4,)}
    tissue = TissueConfig(({"2": 1.0}, {"3": 0.5}), classes=((2,), (3,)), **small)
    nets = replace(TRAINING.sn_net, tissue=tissue, features=FeatureConfig(count=4, **small))
    own = replace(
        TRAINING, sn_net=nets, stages=(), di_steps=0, feature_steps=2, feature_voxels=40,
        texture=0.1,
    )  # fmt: skip
    with mock.patch.object(painting, "VALIDATION_CROP", (16, 24, 20)):
        return _trained(device, own, balls(SHAPE))


def bfloat16(device: str) -> Results:
    """A step of each phase with convolutions in bfloat16, whose gradients differ run by run."""
    place = torch.device(device)
    networks = phases.build(TRAINING, place, bf16=True)
    source, out = PairSource(balls(SHAPE), TRAINING, place), []
    for phase in phases.phases(TRAINING, networks, source):
        out += loop.step(phase, torch.optim.Adam(phase.parameters), 0, 1).values()
    return [torch.tensor([len(out), *(v.dim() for v in host(out))])]


def breaths(device: str) -> Results:
    """Chests that breathe."""
    parts = [chest(mm, voxel=14.0) for mm in (0.0, 20.0)]
    grid = Grid.of(parts[0][0])
    images = np.stack([255 * resample_image(v, grid)[0, 0].clamp(0, 1).numpy() for v, _ in parts])
    lungs = np.stack([resample_mask(v, grid)[0, 0].numpy() for _, v in parts])
    labelled = Cache(
        images.astype(np.uint8), lungs.astype(np.uint8), (True,) * 2, (True,) * 2, (1,), ("a", "b")
    )
    sn = replace(SN, spacing=14.0, organ="lung", tissue=None)
    training = replace(
        TRAINING, sn_net=sn, size=grid.size, tissue_steps=0, breathing=0.7, cut_share=0.5,
        truth=0.1, intensities=None, stages=(Stage(0, 1, 3, 3e-3),), di_steps=0,
    )  # fmt: skip
    random = torch.randn(breathing.NUMBERS, generator=torch.Generator().manual_seed(0))
    there = [torch.from_numpy(v[:1, None] / m).float().to(device)
             for v, m in ((images, 255), (lungs, 1))]  # fmt: skip
    made = breathing.breathe(*(v[:, :, :20, :16, :22] for v in there), 14.0, 20.0, random)
    return [*_trained(device, training, labelled), *host((made.fixed, made.truth))]
