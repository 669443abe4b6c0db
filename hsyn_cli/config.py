"""Frozen descriptions: networks (stored in a checkpoint and rebuilt from it), presets, training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CHECKPOINTS = {"brain": "brain-t1", "lung": "lung-ct"}  # that ship, by the organ they are trained for; see `organs`


@dataclass(frozen=True)
class Steps:
    """Steps along the forces of local NCC and tissue (see `forces`). Window in voxels of the images looked at."""

    steps: int
    rate: float = 2.0  # times the force, which is half a voxel at most
    momentum: float = 0.0  # share of the step before that each step takes again
    step_sigma: float = 1.2  # of the Gaussian over each step, voxels of the images
    field_sigma: float = 0.4  # of the Gaussian over the field after it, voxels of the field
    window: int = 5  # of the NCC
    tissue: float = 0.0  # weight of the squared difference of the maps (of tissue, of lungs) beside the NCC


@dataclass(frozen=True)
class TissueConfig:
    """The tissue net: an image in, maps of what its voxels are out, free of contrast, noise and bias (see `tissue`)."""

    channels: tuple[dict[str, float], ...]  # a map each: {id of a label: value in [0, 1]}; other ids are 0
    stride: int = 2
    encoder: tuple[int, ...] = (32, 32, 48, 64)
    head: tuple[int, ...] = (32,)


@dataclass(frozen=True)
class Level:
    """One level of SN-Net: a U-Net on images averaged down by `scale`, its field coarser by a further `stride`."""

    scale: int  # image voxels of the working grid per voxel this level sees
    stride: int  # field voxel = stride x level voxel; the input is folded into channels accordingly
    encoder: tuple[int, ...]  # channels per resolution, finest first
    head: tuple[int, ...]  # channels of the last convolutions at the field's resolution
    window: int  # NCC window in training, level voxels
    forces: bool = False  # the net is shown NCC's force on the images warped so far, besides the images
    repeats: int = 1  # times the net is asked, each time with the images warped anew
    steps: Steps | None = None  # along the forces, before the net is asked; needs stride 1

    @property
    def field_stride(self) -> int:
        """Working-grid voxels per voxel of this level's field."""
        return self.scale * self.stride


@dataclass(frozen=True)
class SNNetConfig:
    """SN-Net: levels from coarse to fine, on a working grid of `spacing` mm."""

    spacing: float = 1.0
    levels: tuple[Level, ...] = (
        Level(
            4,
            1,
            encoder=(16, 32, 32, 32),
            head=(32, 16),
            window=5,
            forces=True,
            steps=Steps(60, step_sigma=2.0),
        ),
        Level(
            2,
            1,
            encoder=(16, 16, 32, 32),
            head=(16,),
            window=5,
            forces=True,
            steps=Steps(20, momentum=0.7, step_sigma=2.0),
        ),
        Level(1, 2, encoder=(16, 16, 32, 32), head=(16,), window=5, forces=True),
    )

    symmetric: bool = True  # False: the moving image alone is warped, all the way (an ablation of the paper)
    organ: str = "brain"  # how images are looked at, and which presets hold; see `organs`
    tissue: TissueConfig | None = None  # what the refinement looks at beside the images

    def __post_init__(self) -> None:
        if self.organ not in CHECKPOINTS:
            raise TypeError(f"organ is {self.organ!r}, not {' or '.join(CHECKPOINTS)}")

    @property
    def multiple(self) -> int:
        """Working-grid sizes must divide by this."""
        return math.lcm(
            max(level.field_stride for level in self.levels), self.tissue.stride if self.tissue else 1
        )

    @property
    def learned(self) -> SNNetConfig:
        """What the levels' tensors depend on: no steps, no tissue net."""
        levels = tuple(dataclasses.replace(level, steps=None) for level in self.levels)
        return dataclasses.replace(self, levels=levels, tissue=None)


@dataclass(frozen=True)
class DINetConfig:
    """DI-Net: one U-Net on a field, its inverse predicted at half of the field's resolution."""

    stride: int = 2
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    head: tuple[int, ...] = (32, 16)
    repeats: int = 3  # times the net is asked, each time shown what its answer so far leaves


@dataclass(frozen=True)
class RefineStage:
    """Steps on a pair's own fields, at images and fields averaged down by `scale`."""

    scale: float
    how: Steps


@dataclass(frozen=True)
class Preset:
    """How much of SN-Net is asked, coarse levels first, and what goes on from there."""

    coarser_than: float = (
        0.0  # scale of the levels asked; steps at full resolution do what the finest would, and more
    )
    refinement: tuple[RefineStage, ...] = ()
    finer: float = 1.0  # of the working voxel: what is refined, where both images are about as fine

    def depth(self, levels: Sequence[Level]) -> int:
        """How many of them, at least one."""
        return max(1, sum(level.scale > self.coarser_than for level in levels))


BRAIN_STEPS = Steps(8, momentum=0.5, step_sigma=1.3, field_sigma=0.6, tissue=8.0)
PRESETS = {
    "fast": Preset(),
    "default": Preset(1, (RefineStage(1, BRAIN_STEPS),)),
    "accurate": Preset(1, (RefineStage(1, dataclasses.replace(BRAIN_STEPS, steps=16)),)),
}


LUNG_STEPS = Steps(12, step_sigma=2.0, tissue=4.0)
LUNG_COARSE = RefineStage(4 / 3, LUNG_STEPS)
LUNG_PRESETS = {
    "fast": Preset(),
    "default": Preset(
        1, (LUNG_COARSE, RefineStage(1, dataclasses.replace(LUNG_STEPS, steps=8))), finer=0.75
    ),
    "accurate": Preset(
        1,
        (
            LUNG_COARSE,
            RefineStage(1, dataclasses.replace(LUNG_STEPS, steps=40)),
        ),
        finer=0.75,
    ),
}


@dataclass(frozen=True)
class Stage:
    """One stretch of SN-Net's training: the levels from `first` to `depth` - 1 learn, those before are frozen."""

    first: int
    depth: int
    steps: int
    rate: float  # Adam's at the start; it falls to a twentieth
    crop: tuple[int, int, int] | None = None  # voxels (z, y, x) of the images looked at; None: whole
    look: int | None = None  # scale of the images that the loss looks at; None: that of the finest level


@dataclass(frozen=True)
class Training:
    """All that decides a training run; written into the run as config.json, and read back from there."""

    sn_net: SNNetConfig = field(default_factory=SNNetConfig)
    di_net: DINetConfig = field(default_factory=DINetConfig)
    stages: tuple[Stage, ...] = (
        Stage(0, 1, 250, 1e-3, look=2),
        Stage(1, 2, 250, 1e-3),
        Stage(2, 3, 220, 1e-3, crop=(96, 112, 96)),
    )
    di_steps: int = 250
    di_rate: float = 1e-3
    tissue_steps: int = 0  # of the tissue net, before all else; it learns from painted label maps
    tissue_rate: float = 1e-3
    tissue_crop: tuple[int, int, int] = (96, 96, 96)  # voxels (z, y, x)
    batch: int = 1  # pairs per step, over all processes
    seed: int = 0
    smooth: float = 1.0  # lambda1
    mean_shape: float = 1.0  # lambda2; 0.1 in the paper, which leaves a loophole: see losses.mean_shape
    balance: str = "smc"  # "smc": L_smc; "mc": the modulus balance L_mc of the paper's ablation
    dice: float = 0.5  # weight of soft Dice where a pair has labels
    map_share: float = 0.35  # of the pairs, painted from label maps, where there are both kinds
    surroundings: float = (
        0.0  # share of the painted pairs that show the ids that do not count as well: whole heads
    )
    breathing: float = (
        0.0  # share of the image pairs that are one chest at two depths of breath, where labels are lungs
    )
    motion_mm: float = 40.0  # the largest of them
    truth: float = 0.1  # weight of the distance in mm from the field of such a pair
    held_out: int = 2  # subjects of each kind kept for validation
    flip: bool = True  # left-right
    log_every: int = 10  # steps
    validate_every: int = 100  # steps; a multiple of log_every
    precision: str = "auto"  # of the convolutions: "float32", "bfloat16", or what this machine is made for
    size: tuple[int, int, int] = (160, 192, 160)  # voxels (x, y, z) of the common frame
    labels: tuple[int, ...] | None = None  # ids that count; None: all but 0
    intensities: dict[str, float] | None = None  # id -> grey value in [0, 1] of a picture like the scans

    def fine_tuning(self) -> Training:
        """Short stages for networks that were trained already: level after level at a low rate, the third on crops."""
        stages = tuple(
            Stage(k, k + 1, 100, 2e-4, crop=(96, 112, 96) if k == 2 else None)
            for k in range(len(self.sn_net.levels))
        )
        return dataclasses.replace(self, stages=stages, di_steps=50, di_rate=2e-4)

    def without_finest(self) -> Training:
        """The same with the finest level and its own stages left out."""
        depth = len(self.sn_net.levels) - 1
        sn_net = dataclasses.replace(self.sn_net, levels=self.sn_net.levels[:depth])
        stages = tuple(stage for stage in self.stages if stage.depth <= depth)
        return dataclasses.replace(self, sn_net=sn_net, stages=stages)

    def scaled(self, factor: float) -> Training:
        """The same with all numbers of steps times `factor`, at least 1."""

        def times(steps: int) -> int:
            return max(1, round(steps * factor)) if steps else 0

        stages = tuple(dataclasses.replace(stage, steps=times(stage.steps)) for stage in self.stages)
        di_steps, tissue_steps = times(self.di_steps), times(self.tissue_steps)
        return dataclasses.replace(self, stages=stages, di_steps=di_steps, tissue_steps=tissue_steps)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready plain data."""
    return dataclasses.asdict(config)


def sn_net_from_dict(data: dict[str, Any]) -> SNNetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    levels = tuple(_level_from_dict(v) for v in data["levels"]) if "levels" in data else SNNetConfig.levels
    tissue = _tissue_from_dict(data["tissue"]) if data.get("tissue") else None
    return SNNetConfig(**{**data, "levels": levels, "tissue": tissue})


def _tissue_from_dict(data: dict[str, Any]) -> TissueConfig:
    encoder, head = (tuple(data.get(key, getattr(TissueConfig, key))) for key in ("encoder", "head"))
    return TissueConfig(**{**data, "channels": tuple(data["channels"]), "encoder": encoder, "head": head})


def _level_from_dict(data: dict[str, Any]) -> Level:
    steps = Steps(**data["steps"]) if data.get("steps") else None
    return Level(**{**data, "encoder": tuple(data["encoder"]), "head": tuple(data["head"]), "steps": steps})


def di_net_from_dict(data: dict[str, Any]) -> DINetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    return DINetConfig(**{**data, "encoder": tuple(data["encoder"]), "head": tuple(data["head"])})


def training_from_dict(data: dict[str, Any]) -> Training:
    """A `Training` with the keys given, the rest by default; raises TypeError, KeyError or ValueError on others."""
    values = dict(data)
    for key, read in (("sn_net", sn_net_from_dict), ("di_net", di_net_from_dict)):
        if key in values:
            values[key] = read(values[key])
    if "stages" in values:
        values["stages"] = tuple(
            Stage(**{**v, "crop": tuple(v["crop"]) if v.get("crop") else None}) for v in values["stages"]
        )
    for key in ("size", "labels", "tissue_crop"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    out = Training(**values)
    if out.balance not in ("smc", "mc"):
        raise ValueError(f"balance is {out.balance!r}, not smc or mc")
    if out.precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is {out.precision!r}, not auto, float32 or bfloat16")
    if out.validate_every % out.log_every:
        raise ValueError(f"validate_every {out.validate_every} is no multiple of log_every {out.log_every}")
    if out.tissue_steps and out.sn_net.tissue is None:
        raise ValueError("tissue_steps train a tissue net, but sn_net has none")
    if out.breathing and out.sn_net.organ != "lung":
        raise ValueError('breathing is for "organ": "lung" in sn_net')
    tissue = out.sn_net.tissue
    if tissue is not None and any(n % tissue.stride for n in (*out.tissue_crop, *out.size)):
        raise ValueError(f"tissue_crop and size must divide by the tissue net's stride {tissue.stride}")
    depth = len(out.sn_net.levels)
    for k, level in enumerate(out.sn_net.levels):
        if level.repeats < 1 or level.window < 3 or level.window % 2 == 0:
            raise ValueError(f"level {k} needs repeats of 1 or more and an odd window of 3 or more")
        if level.steps is not None and level.steps.tissue and out.sn_net.organ == "brain":
            raise ValueError(f"level {k} has steps that look at tissue, which is the refinement's")
        if level.steps is not None and level.stride != 1:
            raise ValueError(f"level {k} has steps along the forces, which need a stride of 1")
    for stage in out.stages:
        if not 0 <= stage.first < stage.depth <= depth or stage.steps < 1:
            raise ValueError(
                f"a stage trains levels {stage.first} to {stage.depth} of {depth} for {stage.steps} steps"
            )
        if any(level.steps for level in out.sn_net.levels[stage.first + 1 : stage.depth]):
            raise ValueError(
                f"levels {stage.first} to {stage.depth} cannot learn together: no gradient passes steps along the forces"
            )
    return out
