"""Frozen descriptions: networks (stored in a checkpoint and rebuilt from it), presets, training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Level:
    """One level of SN-Net: a U-Net on images averaged down by `scale`, its field coarser by a further `stride`."""

    scale: int  # image voxels of the working grid per voxel this level sees
    stride: int  # field voxel = stride x level voxel; the input is folded into channels accordingly
    encoder: tuple[int, ...]  # channels per resolution, finest first
    head: tuple[int, ...]  # channels of the last convolutions at the field's resolution
    window: int  # NCC window in training, level voxels

    @property
    def field_stride(self) -> int:
        """Working-grid voxels per voxel of this level's field."""
        return self.scale * self.stride


@dataclass(frozen=True)
class SNNetConfig:
    """SN-Net: levels from coarse to fine, on a working grid of `spacing` mm."""

    spacing: float = 1.0
    levels: tuple[Level, ...] = (
        Level(scale=4, stride=1, encoder=(16, 32, 32, 32), head=(32, 16), window=5),
        Level(scale=2, stride=1, encoder=(16, 16, 32, 32), head=(16,), window=5),
        Level(scale=1, stride=2, encoder=(16, 16, 32, 32), head=(16, 16), window=7),
    )

    @property
    def multiple(self) -> int:
        """Working-grid sizes must divide by this."""
        return max(level.field_stride for level in self.levels)


@dataclass(frozen=True)
class DINetConfig:
    """DI-Net: one U-Net on a field, its inverse predicted at half of the field's resolution."""

    stride: int = 2
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    head: tuple[int, ...] = (32, 16)


@dataclass(frozen=True)
class RefineStage:
    """`steps` of Adam on a pair's own fields, looking at images averaged down by `scale`."""

    scale: float  # sizes are multiples of 4 voxels, so 4/3 is exact too
    steps: int
    sigma: float  # of the Gaussian over each update, field voxels
    rate: float  # mm per step, before that Gaussian
    window: int = 5  # NCC, voxels of those images
    smooth: float = 1.0  # lambda1
    mean_shape: float = 0.02  # lambda2
    fold: float = 1000.0  # weight of determinants below 0.3


PRESETS: dict[str, tuple[RefineStage, ...]] = {
    "fast": (),
    "default": (RefineStage(4, 30, 2.0, 0.5), RefineStage(2, 12, 1.0, 0.3), RefineStage(4 / 3, 7, 0.6, 0.3)),
    "accurate": (
        RefineStage(4, 60, 2.0, 0.5),
        RefineStage(2, 40, 1.0, 0.3),
        RefineStage(4 / 3, 25, 0.6, 0.2),
    ),
}


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready plain data."""
    return dataclasses.asdict(config)


def sn_net_from_dict(data: dict[str, Any]) -> SNNetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    levels = tuple(
        Level(**{**v, "encoder": tuple(v["encoder"]), "head": tuple(v["head"])}) for v in data["levels"]
    )
    return SNNetConfig(**{**data, "levels": levels})


def di_net_from_dict(data: dict[str, Any]) -> DINetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    return DINetConfig(**{**data, "encoder": tuple(data["encoder"]), "head": tuple(data["head"])})
