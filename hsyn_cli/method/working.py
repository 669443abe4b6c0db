"""The states on the working grid, which are tensors alone; `states` has those before and after.

`Halves` and `Inverted` hold the paper's half-way fields and their inverses, `WorkingFields` the
compositions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.organs import Organ
from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.config import presets
from hsyn_cli.config.presets import Preset
from hsyn_cli.fields.totals import field_on
from hsyn_cli.method import similarity
from hsyn_cli.method.networks import TrainedNetworks
from hsyn_cli.method.similarity import Similarity
from hsyn_cli.space import Grid


@dataclass(frozen=True)
class Method:
    """The networks for what the pair shows, and the preset for their organ.

    Attributes:
        depth: number of SN-Net's levels that run.
        kinds: {role: what the image shows}, if the checkpoint ships with hsyn. What other
            checkpoints are for is unknown.
    """

    networks: TrainedNetworks
    organ: Organ
    preset: Preset
    similarity: Similarity
    depth: int
    kinds: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, networks: TrainedNetworks, preset: str, smoothness: float = 1.0) -> Method:
        """The method of a preset for the networks, whose config becomes as smooth.

        Raises UsageError for an unknown preset.
        """
        config = networks.sn.config
        measure = similarity.find(config.similarity)
        smoothness *= measure.smoothness
        networks.sn.config = config.smoother(smoothness)
        chosen = presets.find(preset, config.organ).smoother(smoothness)
        depth = chosen.depth(config.levels)
        return cls(networks, organs.find(config.organ), chosen, measure, depth)

    @property
    def spacing(self) -> float:
        """Voxel size of the working grid, mm."""
        return self.networks.sn.config.spacing

    def on(self, device: torch.device) -> Method:
        """The same with copies of the networks on a device."""
        return replace(self, networks=self.networks.on(device))


@dataclass(frozen=True)
class Halves:
    """The half-way fields u (2, 3, ...) on a scene, mm along its axes, mid to moving first.

    `folded`: the percentage of their voxels that folded before the repair.
    """

    scene: Scene
    u: Tensor
    folded: float = 0.0

    @property
    def voxel(self) -> float:
        """Voxel size of the fields, mm."""
        return self.scene.spacing * self.scene.pair.shape[-1] / self.u.shape[-1]


@dataclass(frozen=True)
class Inverted:
    """The half-way fields and their inverses on a scene: (1, 3, Z, Y, X), mm along its axes."""

    scene: Scene
    mid_to_moving: Tensor
    mid_to_fixed: Tensor
    moving_to_mid: Tensor
    fixed_to_mid: Tensor


@dataclass(frozen=True)
class WorkingFields:
    """The fields on the working `grid`: (1, 3, Z, Y, X), mm along its axes."""

    grid: Grid
    mid_to_moving: Tensor
    mid_to_fixed: Tensor
    fixed_to_moving: Tensor
    moving_to_fixed: Tensor

    def scaled(self, unit: float) -> WorkingFields:
        """The fields with all lengths times `unit`."""
        if unit == 1:
            return self
        fields = (
            self.mid_to_moving, self.mid_to_fixed, self.fixed_to_moving, self.moving_to_fixed
        )  # fmt: skip
        return WorkingFields(self.grid.scaled(unit), *(u * unit for u in fields))

    def on_cpu(self) -> WorkingFields:
        """The fields in the memory of the computer."""
        fields = (self.mid_to_moving, self.mid_to_fixed, self.fixed_to_moving, self.moving_to_fixed)
        return WorkingFields(self.grid, *(u.cpu() for u in fields))

    def on(self, target: Grid, name: str) -> Tensor:
        """The field `name` on another grid, (1, 3, Z, Y, X), mm LPS."""
        return field_on(getattr(self, name), self.grid, target)
