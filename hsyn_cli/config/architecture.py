"""Frozen dataclasses that describe the networks. A checkpoint stores them with its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InputConfig:
    """How images become network inputs. A checkpoint is valid only for the values of its training.

    Attributes:
        force_scale: scales forces to about the size of intensities.
        epsilon: added to every local variance, so that a flat background exerts no force.
        damping: of the forces; keeps each below half a voxel.
        percentile: the percentile of the grey values above the darkest that is mapped to 1 in use.
        training_percentile: the same percentile in training.
    """

    force_scale: float = 4.0
    epsilon: float = 1e-4
    damping: float = 0.1
    percentile: float = 99.5
    training_percentile: float = 99.7


@dataclass(frozen=True)
class Steps:
    """Steps along the forces of the similarity and of the maps (see `method.forces`).

    Attributes:
        rate: factor of the force, which is half a voxel at most.
        momentum: share of the last step that each step adds.
        step_sigma: of the Gaussian that smooths each step, in voxels of the images.
        field_sigma: of the Gaussian that smooths the field after a step, in voxels of the field.
        calm: contrast above that of noise, relative to the median of the images, at which a field
            is half as free. Where the images have less, the field follows what surrounds it.
        diffusion: of the field's divergence after a step, in square voxels.
        window: of the similarity, in voxels of the images.
        tissue: weight of the squared difference of the maps (of tissue, of lungs).
    """

    steps: int
    rate: float = 2.0
    momentum: float = 0.0
    step_sigma: float = 1.2
    field_sigma: float = 0.4
    calm: float = 0.0
    diffusion: float = 0.0
    window: int = 5
    tissue: float = 0.0

    def smoother(self, factor: float) -> Steps:
        """The same steps to a field that is smooth over distances `factor` times as long."""
        return dataclasses.replace(
            self,
            step_sigma=self.step_sigma * factor,
            field_sigma=self.field_sigma * factor,
            calm=self.calm * factor**2,
            diffusion=self.diffusion * factor**2,
        )


@dataclass(frozen=True)
class TissueConfig:
    """The tissue net: from an image to maps of its tissues (see `method.tissue_net`).

    Attributes:
        channels: for each map, {label id: value in [0, 1]}; all other ids are 0.
        classes: ids of each class. The net then gives the probability of each class, the maps are
            their expected values, and the ids of a class have one value. (): there are no classes,
            and the net gives the maps.
    """

    channels: tuple[dict[str, float], ...]
    stride: int = 2
    encoder: tuple[int, ...] = (32, 32, 48, 64)
    head: tuple[int, ...] = (32,)
    classes: tuple[tuple[int, ...], ...] = ()

    def values(self, ids: Sequence[int]) -> list[list[float]]:
        """The values of the ids in each map."""
        return [[channel.get(str(k), 0.0) for k in ids] for channel in self.channels]


@dataclass(frozen=True)
class FeatureConfig:
    """The feature net: from an image of any contrast to features (see `method.feature_net`).

    Attributes:
        count: number of features.
        weight: of their squared difference in the force steps, for images that differ in contrast.
    """

    count: int = 8
    stride: int = 2
    encoder: tuple[int, ...] = (32, 32, 48, 64)
    head: tuple[int, ...] = (32,)
    weight: float = 16.0


@dataclass(frozen=True)
class Level:
    """One level of SN-Net: a U-Net on images averaged down by `scale`.

    Attributes:
        scale: voxels of the working grid per voxel of this level, along each axis.
        stride: voxels of this level per voxel of its field, along each axis; the net packs blocks
            of stride^3 input voxels into channels.
        encoder: channels per resolution, finest first.
        head: channels of the last convolutions, at the field's resolution.
        decoder: channels per resolution, coarsest first; (): those of the encoder, at least those
            of the head.
        window: of the similarity in the loss and in the force that the net sees, level voxels.
        forces: True gives the net the remaining force beside the images as warped so far.
        repeats: number of runs of the net, each on newly warped images. 0: there is no net.
        steps: along the forces, before the net runs; they need stride 1.
    """

    scale: int
    stride: int
    encoder: tuple[int, ...]
    head: tuple[int, ...]
    window: int
    forces: bool = False
    repeats: int = 1
    steps: Steps | None = None
    decoder: tuple[int, ...] = ()

    @property
    def field_stride(self) -> int:
        """Working-grid voxels per voxel of this level's field."""
        return self.scale * self.stride


COARSE = Level(
    4, 1, (16, 32, 32, 32), (32, 16), window=5, forces=True,
    steps=Steps(24, rate=4.0, step_sigma=2.0, calm=0.05, diffusion=0.06),
)  # fmt: skip
MIDDLE = Level(
    2, 1, (16, 16, 32, 32), (16,), window=5, forces=True,
    steps=Steps(14, rate=4.0, momentum=0.7, step_sigma=2.0, calm=0.05, diffusion=0.06),
)  # fmt: skip
FINE = Level(1, 2, (16, 16, 32, 32), (16,), window=5, forces=True)


FURTHER = {"tissue": "tissue net", "features": "feature net"}  # beside SN-Net's levels


@dataclass(frozen=True)
class SNNetConfig:
    """SN-Net: levels from coarse to fine, on a working grid of `spacing` mm.

    Attributes:
        symmetric: False warps only the moving image, all the way (an ablation of the paper).
        organ: decides the intensities of images and the presets; see `anatomy.organs`.
        tissue: the net whose maps the refinement aligns beside the images.
        features: the net whose features are aligned where the images differ in contrast.
        similarity: the measure of the loss, the forces and the report; see `method.similarity`.
        inputs: how images become network inputs.
    """

    spacing: float = 1.0
    levels: tuple[Level, ...] = (COARSE, MIDDLE, FINE)
    symmetric: bool = True
    organ: str = "brain"
    tissue: TissueConfig | None = None
    similarity: str = "ncc"
    inputs: InputConfig = InputConfig()
    features: FeatureConfig | None = None

    def smoother(self, factor: float) -> SNNetConfig:
        """The same networks with smoother steps between them, see `Steps.smoother`."""
        levels = tuple(
            dataclasses.replace(v, steps=v.steps and v.steps.smoother(factor)) for v in self.levels
        )
        return dataclasses.replace(self, levels=levels)

    def completed(self, other: SNNetConfig) -> SNNetConfig:
        """The same with the further nets of another one in place of those that it lacks."""
        tissue, features = self.tissue or other.tissue, self.features or other.features
        return dataclasses.replace(self, tissue=tissue, features=features)

    @property
    def multiple(self) -> int:
        """Sizes of the working grid must be multiples of this."""
        coarsest = max(level.field_stride for level in self.levels)
        return math.lcm(coarsest, *(net.stride for net in (self.tissue, self.features) if net))

    @property
    def learned(self) -> SNNetConfig:
        """The part that decides the tensors of the levels: without steps and further nets."""
        levels = tuple(dataclasses.replace(level, steps=None) for level in self.levels)
        return dataclasses.replace(self, levels=levels, tissue=None, features=None)


@dataclass(frozen=True)
class DINetConfig:
    """DI-Net: a U-Net that predicts the inverse of a field at 1 / `stride` of its resolution.

    `repeats`: number of runs, each on the residual of the result so far. 0: there is no net.
    """

    stride: int = 2
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    head: tuple[int, ...] = (32, 16)
    repeats: int = 3


NO_NETS = SNNetConfig(
    levels=(
        dataclasses.replace(COARSE, repeats=0),
        dataclasses.replace(MIDDLE, repeats=0),
    ),
    organ="none",
)  # forces alone, for images that no checkpoint is for


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON-ready plain data."""
    return dataclasses.asdict(config)


def sn_net_from_dict(data: dict[str, Any]) -> SNNetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    values = dict(data)
    if "levels" in values:
        values["levels"] = tuple(_level_from_dict(v) for v in values["levels"])
    values["tissue"] = _tissue_from_dict(values["tissue"]) if values.get("tissue") else None
    if values.get("features") is not None:
        features = _with_defaults(FeatureConfig, values["features"])
        values["features"] = FeatureConfig(**_tupled(features, "encoder", "head"))
    if "inputs" in values:
        values["inputs"] = InputConfig(**values["inputs"])
    return SNNetConfig(**values)


def _tissue_from_dict(data: dict[str, Any]) -> TissueConfig:
    """Raises ValueError for classes that are empty or contradict each other or the maps."""
    classes = tuple(map(tuple, data.get("classes", ())))
    values = _with_defaults(TissueConfig, data) | {"classes": classes}
    config = TissueConfig(**_tupled(values, "channels", "encoder", "head"))
    if not all(classes):
        raise ValueError("a class of the tissue net has no ids")
    ids = [k for group in classes for k in group]
    twice = sorted({k for k in ids if ids.count(k) > 1})
    mixed = [g for g in classes if any(len(set(v)) > 1 for v in config.values(g))]
    lacking = sorted({k for channel in config.channels for k in channel} - set(map(str, ids)))
    for wrong, text in (
        (twice, "are in two classes of the tissue net"),
        (mixed[0] if mixed else (), "are one class of the tissue net, with two values in one map"),
        (lacking if ids else (), "are in a map of the tissue net, but in none of its classes"),
    ):
        if wrong:
            raise ValueError(f"the ids {', '.join(map(str, wrong))} {text}")
    return config


def _with_defaults(
    kind: type[TissueConfig] | type[FeatureConfig], data: dict[str, Any]
) -> dict[str, Any]:
    return {"encoder": kind.encoder, "head": kind.head, **data}


def _tupled(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """`data` with the lists of these keys as tuples. Raises KeyError if it lacks one."""
    return data | {key: tuple(data[key]) for key in keys}


def _level_from_dict(data: dict[str, Any]) -> Level:
    steps = Steps(**data["steps"]) if data.get("steps") else None
    values = _tupled({"decoder": (), **data}, "encoder", "head", "decoder")
    return Level(**values | {"steps": steps})


def di_net_from_dict(data: dict[str, Any]) -> DINetConfig:
    """Inverse of `to_dict`; raises TypeError or KeyError on unknown or missing keys."""
    return DINetConfig(**_tupled(data, "encoder", "head"))
