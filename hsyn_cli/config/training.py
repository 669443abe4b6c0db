"""Frozen dataclasses that describe a training run. A run stores them in its config.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from hsyn_cli.config.architecture import (
    FURTHER,
    DINetConfig,
    SNNetConfig,
    di_net_from_dict,
    sn_net_from_dict,
)
from hsyn_cli.errors import UsageError

STEPS_OF = {"tissue": "tissue_steps", "features": "feature_steps"}


@dataclass(frozen=True)
class Stage:
    """One stage of SN-Net's training, in which the levels from `first` to `depth` - 1 learn.

    Attributes:
        first: the levels before it are frozen.
        rate: Adam's rate at the start; it falls to `Training.last_rate` of that.
        crop: size (z, y, x) in voxels of the image crops; None: whole images.
        look: scale of the images in the loss; None: that of the finest level.
    """

    first: int
    depth: int
    steps: int
    rate: float
    crop: tuple[int, int, int] | None = None
    look: int | None = None


@dataclass(frozen=True)
class Training:
    """All settings of a training run.

    Attributes:
        tissue_steps: of the tissue net, the first phase; it learns from painted label maps.
        tissue_crop: voxels (z, y, x), also of the feature net's pictures.
        feature_steps: of the feature net, the phase after; it learns from painted label maps, too.
        feature_voxels: voxels that a step compares.
        temperature: of the comparison; small ones tell similar voxels apart.
        batch: pairs per step, over all processes.
        smooth, mean_shape: lambda1 and lambda2 of the paper. The paper's lambda2 is 0.1, which
            leaves a loophole: see `method.losses.mean_shape`.
        balance: "smc" for L_smc; "mc" for the modulus balance L_mc of the paper's ablation.
        dice: weight of soft Dice for pairs with labels.
        dice_mm: distance in mm between the voxels that soft Dice samples.
        map_share: share of the pairs painted from label maps, if there are images as well.
        surroundings: share of the painted pairs that also show the ids that do not count, as whole
            heads do.
        breathing: share of the image pairs made of one chest at two depths of breath; the labels
            must be lungs.
        motion_mm: largest motion of such a pair.
        truth: weight of the distance in mm from the true field of such a pair.
        held_out: subjects of each kind kept for validation, if the data have no splits.
        split: the data must have splits, see `training.cache`.
        flip: flip half of the pairs left to right.
        log_every, validate_every: in steps; the second is a multiple of the first.
        precision: of the convolutions: "float32", "bfloat16", or "auto" for the faster one here.
        size: voxels (x, y, z) of the common grid.
        labels: ids that count; None: all but 0.
        intensities: {id: grey value in [0, 1]} for a picture that resembles the scans.
        warm_up: steps over which the rate rises.
        last_rate: rate at the end, as a share of the first.
        di_smooth: lambda3, the weight of DI-Net's smoothness.
        cut_share: share of the CT images with slices cut off at one end.
        background_noise: share of the pairs with noise in the background, as in unmasked scans.
        t1_share: share of the tissue net's pictures with the grey values of `intensities`; these
            pictures, and all shares of them, are those of the feature net, too.
        texture: largest standard deviation of the grey values within a label of these pictures.
        bend: voxels that the anatomy of these pictures is bent by, about.
        shift: of the middle of a picture as large as its map, at most, as a share of half its size.
        stripped_share, badly_stripped_share: shares of these pictures; the rest are whole heads.
        thick_share: share of these pictures with slices twice as thick.
        background_weight: weight of voxels far from the brain in the tissue net's loss.
    """

    sn_net: SNNetConfig = field(default_factory=SNNetConfig)
    di_net: DINetConfig = field(default_factory=DINetConfig)
    stages: tuple[Stage, ...] = (
        Stage(0, 1, 250, 1e-3, look=2),
        Stage(1, 2, 250, 1e-3),
        Stage(2, 3, 220, 1e-3, crop=(96, 112, 96)),
    )
    di_steps: int = 250
    di_rate: float = 1e-3
    tissue_steps: int = 0
    tissue_rate: float = 1e-3
    tissue_crop: tuple[int, int, int] = (96, 96, 96)
    feature_steps: int = 0
    feature_rate: float = 1e-3
    feature_voxels: int = 1024
    temperature: float = 0.1
    batch: int = 1
    seed: int = 0
    smooth: float = 1.0
    mean_shape: float = 1.0
    balance: str = "smc"
    dice: float = 0.5
    map_share: float = 0.35
    surroundings: float = 0.0
    breathing: float = 0.0
    motion_mm: float = 40.0
    truth: float = 0.1
    held_out: int = 2
    split: bool = False
    flip: bool = True
    log_every: int = 10
    validate_every: int = 100
    precision: str = "auto"
    size: tuple[int, int, int] = (160, 192, 160)
    labels: tuple[int, ...] | None = None
    intensities: dict[str, float] | None = None
    warm_up: int = 50
    last_rate: float = 0.05
    dice_mm: float = 4.0
    di_smooth: float = 0.001
    cut_share: float = 0.2
    background_noise: float = 0.15
    t1_share: float = 0.9
    stripped_share: float = 0.6
    badly_stripped_share: float = 0.2
    thick_share: float = 0.15
    texture: float = 0.0
    bend: float = 2.0
    shift: float = 0.1
    background_weight: float = 0.1

    def steps_of(self, net: str) -> int:
        """Steps that train a net beside the levels, one of `FURTHER`."""
        return int(getattr(self, STEPS_OF[net]))

    def check_trained(self) -> None:
        """Raise UsageError for a net beside the levels that nothing would train."""
        for name, shown in FURTHER.items():
            if getattr(self.sn_net, name) and not self.steps_of(name):
                text = f"the config has a {shown} that nothing would train"
                raise UsageError(text, f"set {STEPS_OF[name]}, or omit {name} from sn_net")

    def fine_tuning(self) -> Training:
        """Short stages for trained networks: level by level at a low rate, the third on crops."""
        stages = tuple(
            Stage(k, k + 1, 100, 2e-4, crop=(96, 112, 96) if k == 2 else None)
            for k in range(len(self.sn_net.levels))
        )
        return dataclasses.replace(self, stages=stages, di_steps=50, di_rate=2e-4)

    def without_finest(self) -> Training:
        """Return a copy without the finest level and its stages."""
        depth = len(self.sn_net.levels) - 1
        sn_net = dataclasses.replace(self.sn_net, levels=self.sn_net.levels[:depth])
        stages = tuple(stage for stage in self.stages if stage.depth <= depth)
        return dataclasses.replace(self, sn_net=sn_net, stages=stages)

    def scaled(self, factor: float) -> Training:
        """Return a copy with every number of steps times `factor`, rounded, at least 1."""

        def times(steps: int) -> int:
            return max(1, round(steps * factor)) if steps else 0

        stages = tuple(dataclasses.replace(s, steps=times(s.steps)) for s in self.stages)
        return dataclasses.replace(
            self,
            stages=stages,
            di_steps=times(self.di_steps),
            tissue_steps=times(self.tissue_steps),
            feature_steps=times(self.feature_steps),
        )


def training_from_dict(data: dict[str, Any]) -> Training:
    """Make a `Training` of the given keys and defaults for the rest.

    Raises TypeError, KeyError or ValueError on unknown keys and on values that contradict each
    other.
    """
    values = dict(data)
    for key, read in (("sn_net", sn_net_from_dict), ("di_net", di_net_from_dict)):
        if key in values:
            values[key] = read(values[key])
    if "stages" in values:
        values["stages"] = tuple(
            Stage(**{**v, "crop": tuple(v["crop"]) if v.get("crop") else None})
            for v in values["stages"]
        )
    for key in ("size", "labels", "tissue_crop"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    training = Training(**values)
    _check_choices(training)
    _check_levels(training)
    _check_stages(training)
    return training


def _check_choices(training: Training) -> None:
    if training.balance not in ("smc", "mc"):
        raise ValueError(f"balance is {training.balance!r}, not smc or mc")
    if training.precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is {training.precision!r}, not auto, float32 or bfloat16")
    if training.validate_every % training.log_every:
        every = f"validate_every {training.validate_every}"
        raise ValueError(f"{every} is not a multiple of log_every {training.log_every}")
    if training.di_steps and not training.di_net.repeats:
        raise ValueError("di_steps train a DI-Net, but its repeats are 0")
    sizes = (*training.tissue_crop, *training.size)
    if training.feature_voxels < 2 or not training.temperature > 0:
        raise ValueError("feature_voxels must be 2 or more, and temperature above 0")
    for name, shown in FURTHER.items():
        net = getattr(training.sn_net, name)
        if training.steps_of(name) and net is None:
            raise ValueError(f"{STEPS_OF[name]} train a {shown}, but sn_net has none")
        if net is not None and any(n % net.stride for n in sizes):
            text = f"tissue_crop and size must be multiples of the {shown}'s stride {net.stride}"
            raise ValueError(text)


def _check_levels(training: Training) -> None:
    for k, level in enumerate(training.sn_net.levels):
        if level.repeats < 0 or level.window < 3 or level.window % 2 == 0:
            raise ValueError(f"level {k} needs repeats of 0 or more and an odd window of 3 or more")
        if level.decoder and len(level.decoder) != len(level.encoder) - 1:
            raise ValueError(f"level {k} needs one number in its decoder fewer than in its encoder")
        if level.steps is not None and level.stride != 1:
            raise ValueError(f"level {k} has steps along the forces, which need a stride of 1")


def _check_stages(training: Training) -> None:
    levels = training.sn_net.levels
    for stage in training.stages:
        span = f"levels {stage.first} to {stage.depth}"
        if not 0 <= stage.first < stage.depth <= len(levels) or stage.steps < 1:
            raise ValueError(f"a stage trains {span} of {len(levels)} for {stage.steps} steps")
        if not all(level.repeats for level in levels[stage.first : stage.depth]):
            raise ValueError(f"a stage trains {span}, one of which has repeats of 0, so no net")
        if any(level.steps for level in levels[stage.first + 1 : stage.depth]):
            raise ValueError(
                f"{span} cannot learn together: no gradient passes through steps along the forces"
            )
