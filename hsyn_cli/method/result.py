"""The result of a registration: its images, its fields, and the facts measured on them.

The mean space and the composed fields are the paper's. Total fields, which include the affine, and
the measured facts are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.intensity import foreground
from hsyn_cli.fields.change import Change, Linear
from hsyn_cli.fields.folding import Folding
from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.fields.images import as_transform, from_image, to_image
from hsyn_cli.fields.mutual import RoundTrips
from hsyn_cli.fields.totals import without_affine
from hsyn_cli.io.checkpoints import CheckpointId
from hsyn_cli.method.working import WorkingFields
from hsyn_cli.space import Grid, affine_parts
from hsyn_cli.space.planes import lowered, raised, raised_transform

FIT = 4  # steps that fit ANTs' 1InverseWarp to 1Warp


@dataclass(frozen=True)
class Scores:
    """A measure of both images: at first, after the affine, and at the end."""

    before: float
    affine: float
    after: float


@dataclass(frozen=True)
class SimilarityScores:
    """The same of the similarity that drives the registration, called `measure`."""

    measure: str
    before: float
    affine: float
    after: float


NOTHING = Scores(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of the device that a run was for, if that was not the CPU; MB.

    Attributes:
        needed_mb: as foreseen. free_mb: before the pair started there; None: not known.
        peak_mb: what torch took there; None: not known, or the run was never there.
        left: why the run went on on the CPU; "" if it did not.
    """

    device: str
    needed_mb: float
    free_mb: float | None
    peak_mb: float | None
    left: str


@dataclass(frozen=True)
class Facts:
    """What `register` measured. report.json holds these names.

    Attributes:
        inverse_error_fixed: |inverse(forward(p)) - p| over the fixed image's foreground.
        inverse_error_moving: |forward(inverse(q)) - q| over the moving image's.
        seconds: per step, in the order in which the steps ran.
        shown: {role: what the image shows}, if the checkpoint ships with hsyn.
        folded_before_repair_percent: of the half-way fields' voxels, by the stricter corner rule.
        smoothness: the factor that the user chose.
        head: what was registered of whole heads: "all", or the "brain".
        transform: "translation", "rigid", "affine" or "deformable".
        contrast: correlation of the grey values after the affine; see `anatomy.contrast`.
        information, overlap: of both images, which nothing here optimises; see `anatomy.contrast`.
        lesions: {role: factor} of the volume of its lesion, where the field leads it.
        problems: why the result is not to be trusted; see `verdict`.
        dimension: of the images and fields.
        channels: the weight of each channel of the images, with the sum 1.
        linear, change: what the affine and the forward field do.
        device_memory: None if the run was for the CPU.
    """

    folding: Folding
    inverse_folding: Folding
    inverse_error_fixed: ErrorStats
    inverse_error_moving: ErrorStats
    similarity: SimilarityScores
    preset: str
    affine: str
    checkpoint: CheckpointId
    device: str
    threads: int
    seed: int
    seconds: Mapping[str, float]
    shown: Mapping[str, str] = field(default_factory=dict)
    folded_before_repair_percent: float = 0.0
    warnings: tuple[str, ...] = ()
    smoothness: float = 1.0
    transform: str = "deformable"
    contrast: float = 1.0
    information: Scores = NOTHING
    overlap: Scores = NOTHING
    problems: tuple[str, ...] = ()
    lesions: Mapping[str, float] = field(default_factory=dict)
    dimension: int = 3
    channels: tuple[float, ...] = (1.0,)
    linear: Linear | None = None
    change: Change | None = None
    device_memory: DeviceMemory | None = None
    head: str = "all"

    def scaled(self, unit: float) -> Facts:
        """The facts with all lengths times `unit`."""
        if unit == 1:
            return self
        lengths = (
            "inverse_error_fixed", "inverse_error_moving", "folding", "inverse_folding",
            "linear", "change",
        )  # fmt: skip
        known = {name: getattr(self, name) for name in lengths}
        return replace(self, **{name: v and v.scaled(unit) for name, v in known.items()})

    @property
    def folded_percent(self) -> float:
        """The larger percentage of the two fields, which --max-folding limits."""
        return max(self.folding.percent, self.inverse_folding.percent)


@dataclass(frozen=True)
class Midspace:
    """The mean space of the pair, on the fixed grid.

    It holds two half-way fields (mm LPS; to the affinely aligned moving image and to the fixed
    image), and both images warped to the mean space.
    """

    to_moving_field: sitk.Image
    to_fixed_field: sitk.Image
    moving: sitk.Image
    fixed: sitk.Image


@dataclass(frozen=True)
class Outcome:
    """The files of a registration. Fields are float32 vector images, mm LPS, pull-back.

    All are 2-D if the images were 2-D.

    Attributes:
        affine: fixed point -> moving point.
        forward_field: total, on the fixed grid: fixed point p -> p + d(p) in the moving image.
        inverse_field: total, on the moving grid.
    """

    moving: sitk.Image
    fixed: sitk.Image
    affine: sitk.AffineTransform
    forward_field: sitk.Image
    inverse_field: sitk.Image
    warped: sitk.Image


@dataclass(frozen=True)
class Registration(Outcome):
    """A finished registration.

    Attributes:
        working: the fields on the working grid, from which the total fields come.
        outside: grey value of the warped moving image beyond the border of the moving image.
        inverse_outside: the same for the fixed image.
        others: further channels, each as its warped and its inversely warped image.
    """

    inverse_warped: sitk.Image
    working: WorkingFields
    facts: Facts
    outside: float = 0.0
    inverse_outside: float = 0.0
    others: tuple[tuple[sitk.Image, sitk.Image], ...] = ()

    @property
    def warp_field(self) -> sitk.Image:
        """ANTs' 1Warp: forward, on the fixed grid, affine left out."""
        grid = Grid.of(self.fixed)
        u = from_image(self.forward_field)
        affine = affine_parts(raised_transform(self.affine))
        return lowered(to_image(without_affine(u, grid, *affine), grid))

    @property
    def inverse_warp_field(self) -> sitk.Image:
        """ANTs' 1InverseWarp: inverse, on the fixed grid, affine left out, fitted to 1Warp."""
        grid = Grid.of(self.fixed)
        u = from_image(self.warp_field)
        v = self.working.on(grid, "moving_to_fixed").cpu()
        contents = (foreground(raised(self.fixed)), foreground(raised(self.warped)))
        RoundTrips.of(u, grid, v, grid, contents, np.eye(3)).fit(FIT, moves=False)
        return lowered(to_image(v, grid))

    @property
    def midspace(self) -> Midspace:
        """Computed on each access."""
        grid = Grid.of(self.fixed)
        to_moving = to_image(self.working.on(grid, "mid_to_moving"), grid)
        to_fixed = to_image(self.working.on(grid, "mid_to_fixed"), grid)
        affine = raised_transform(self.affine)
        chain = sitk.CompositeTransform([affine, as_transform(to_moving)])
        straight, linear = as_transform(to_fixed), sitk.sitkLinear
        of_moving, of_fixed = raised(self.moving), raised(self.fixed)
        moving = sitk.Resample(of_moving, of_fixed, chain, linear, self.outside)
        fixed = sitk.Resample(of_fixed, of_fixed, straight, linear, self.inverse_outside)
        images = (to_moving, to_fixed, grid.stamp(moving), grid.stamp(fixed))
        return Midspace(*map(lowered, images))
