"""The states between the steps of `register`. Tuples: moving, fixed.

`Halves`, `Inverted` and `Joined` hold the paper's half-way fields, their inverses, and the
compositions. The other states are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.anatomy.affine import Kind
from hsyn_cli.anatomy.organs import Look, Organ
from hsyn_cli.anatomy.scene import ROLES, Scene, Subjects
from hsyn_cli.anatomy.view import View
from hsyn_cli.config.presets import Preset
from hsyn_cli.fields.totals import Settled, Totals
from hsyn_cli.method.networks import TrainedNetworks
from hsyn_cli.method.result import SimilarityScores, WorkingFields
from hsyn_cli.method.similarity import Similarity


@dataclass(frozen=True)
class Settings:
    """The user's choices."""

    preset: str
    weights: str | None
    affine: Kind
    start: sitk.AffineTransform | None
    device: torch.device
    seed: int
    smoothness: float


@dataclass(frozen=True)
class Pair:
    """Two images as the user gives them, how hsyn sees them, and what they show.

    Tuples: moving, fixed.
    """

    images: tuple[sitk.Image, sitk.Image]
    views: tuple[View, View]
    masks: tuple[sitk.Image | None, sitk.Image | None]
    looks: tuple[Look, Look]

    @property
    def kinds(self) -> dict[str, str]:
        """{role: what the image shows}."""
        return {role: look.kind for role, look in zip(ROLES, self.looks, strict=True)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What hsyn sees otherwise than given."""
        pairs = zip(ROLES, self.views, strict=True)
        return tuple(f"the {role} image {view.note}" for role, view in pairs if view.note)

    def outside(self, organ: Organ) -> tuple[float, float]:
        """Grey values of warped images beyond the border of their source image."""
        moving, fixed = (
            organ.outside if view.outside is None else view.outside for view in self.views
        )
        return moving, fixed


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
    kinds: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def spacing(self) -> float:
        """Voxel size of the working grid, mm."""
        return self.networks.sn.config.spacing


@dataclass(frozen=True)
class Aligned:
    """The prepared pair, the `affine`, fixed point -> moving point, and a note on it or ""."""

    subjects: Subjects
    affine: sitk.AffineTransform
    note: str = ""


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
class Joined:
    """The whole maps on the working grid, and how alike they make the images."""

    working: WorkingFields
    similarity: SimilarityScores


@dataclass(frozen=True)
class Composed:
    """The total fields on the grids of the images, and what was measured on them."""

    totals: Totals
    settled: Settled
