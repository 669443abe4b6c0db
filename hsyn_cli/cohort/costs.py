"""What a pair costs on this machine: seconds, memory, disk.

The seconds of each step are proportional to voxels: of the working grid, of the content, of the
images. The factors below were measured on one thread of an AMD EPYC with AVX-512 and bfloat16;
`speed` tells how fast another machine is beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hsyn_cli.errors import DeviceError
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.run_folder import Wanted, channel_of, output_bytes

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torch

    from hsyn_cli.anatomy.scene import Subjects
    from hsyn_cli.method.states import Pair
    from hsyn_cli.method.working import Method

# Seconds, and microseconds per voxel.
START = 1.2  # of a process, once for each worker
ALIGNING, ALIGNING_NETWORKS, ALIGNING_VOXEL = 0.6, 0.8, 0.08
COARSE_STEPS, COARSE_NETWORKS, ALL_NETWORKS = 0.62, 0.74, 1.22
WITHOUT_BFLOAT16 = 1.5  # times the networks, on CPUs that lack its instructions
STEP, STEP_WITH_MAPS = 0.255, 0.31  # of the refinement, at full resolution
REPAIR, JOINING = 0.08, 0.185
INVERSE, INVERSE_NETWORKS = 0.32, 0.47
TOTALS, TOTALS_CONTENT = 0.03, 1.48
FILES = 0.225
OTHER_CONTRAST = 1.9  # times the force of equal contrasts

# Bytes.
BASE = 331e6  # libraries
SEVERAL_THREADS = 100e6  # more with two threads than with one
CUDA = 1270e6  # its libraries, as of CUDA 13 with an H200
WORKING, WORKING_NETWORKS, WORKING_ALL_NETWORKS, WORKING_LINEAR = 190, 245, 350, 60
REFINED_FINER = 330  # where the grid of the refinement is finer than the working grid
PER_CHANNEL, PER_IMAGE_VOXEL = 24, 78
PACKED_FIELD, PACKED_ROUNDED_FIELD = 0.92, 0.5  # of float32
PACKED_CONTENT, PACKED_ROUNDED_CONTENT = 0.95, 0.45
PAGE_VOXEL, PAGE_VOXELS = 4.2, 1_000_000


@dataclass(frozen=True)
class Content:
    """What decides the costs of a pair.

    Attributes:
        moving, fixed: voxels of the images.
        content: voxels of both that show something.
        box: voxels of the fixed image around its content.
        working: voxels of the working grid. refined: of the grid of the refinement.
        work: steps of the refinement at its full resolution.
        networks: whether a checkpoint runs. all_levels: whether all its levels do.
        maps: whether the refinement follows maps beside the images.
        other_contrast: whether the similarity is that for other contrasts.
        deformable: False stops after the affine step.
        bfloat16: whether the networks run in these numbers.
        on_device: bytes of tensors at the peak, on a device that is not the CPU.
        libraries: bytes that the libraries of that device take of the computer's memory. The
            tensors count there, too: a full device is left for the CPU.
    """

    moving: float
    fixed: float
    content: float
    box: float
    working: float
    refined: float
    work: float
    networks: bool = False
    all_levels: bool = False
    maps: bool = False
    other_contrast: bool = False
    deformable: bool = True
    channels: int = 1
    bfloat16: bool = True
    on_device: float = 0.0
    libraries: float = 0.0

    @property
    def images(self) -> float:
        """Voxels of all channels of both images."""
        return (self.moving + self.fixed) * self.channels

    def scaled(self, moving: float, fixed: float) -> Content:
        """That of a like pair with so many voxels."""
        factor = (moving + fixed) / (self.moving + self.fixed)
        return replace(
            self,
            moving=moving,
            fixed=fixed,
            content=self.content * factor,
            box=self.box * fixed / self.fixed,
            working=self.working * factor,
            refined=self.refined * factor,
            on_device=self.on_device * factor,
        )

    @property
    def seconds(self) -> float:
        """On one thread where the factors were measured, without the start of a process."""
        aligning = ALIGNING + ALIGNING_NETWORKS * self.networks
        voxels = ALIGNING_VOXEL * (self.moving + self.fixed) + FILES * self.images
        voxels += TOTALS_CONTENT * self.content + TOTALS * self.working
        if self.deformable:
            first = COARSE_NETWORKS if self.networks else COARSE_STEPS
            first = ALL_NETWORKS if self.networks and self.all_levels else first
            force = (OTHER_CONTRAST if self.other_contrast else 1) * self.channels
            slower = 1.0 if self.bfloat16 else WITHOUT_BFLOAT16
            voxels += first * (slower if self.networks else force) * self.working
            step = STEP_WITH_MAPS if self.maps else STEP
            voxels += force * step * self.work * self.refined
            voxels += (INVERSE_NETWORKS if self.networks else INVERSE) * self.refined
            voxels += (REPAIR + JOINING) * self.refined
        return aligning + 1e-6 * voxels

    @property
    def memory(self) -> float:
        """Peak bytes of a process that registers it: on the working grid, or for the images."""
        each = WORKING_LINEAR
        if self.deformable:
            each = WORKING_NETWORKS if self.networks else WORKING
            each = WORKING_ALL_NETWORKS if self.networks and self.all_levels else each
        if self.deformable and self.work and self.refined > self.working:
            each = REFINED_FINER
        each += PER_CHANNEL * (self.channels - 1)
        grid = max(self.working, self.refined) if self.deformable else self.working
        return BASE + self.libraries + max(each * grid, PER_IMAGE_VOXEL * self.images)

    def disk(self, wanted: Wanted, spacing: tuple[float, float]) -> float:
        """Bytes of its outputs; `spacing`: mean voxel of the moving and the fixed image in mm."""
        share = self.content / (self.moving + self.fixed)
        thin = [max(1.0, (wanted.field_spacing or mm) / mm) ** 3 for mm in spacing]
        total = 0.0
        for name, most in output_bytes(wanted, round(self.moving), round(self.fixed)).items():
            kind = channel_of(name)[0]
            if kind == "page":
                total += PAGE_VOXEL * min(PAGE_VOXELS, self.box)
            elif kind.endswith(("_field", "_warp")):
                packed = PACKED_ROUNDED_FIELD if wanted.rounded else PACKED_FIELD
                total += most * packed / thin[0 if kind == "inverse_field" else 1]
            else:
                packed = PACKED_ROUNDED_CONTENT if wanted.rounded else PACKED_CONTENT
                total += most * packed * share
        return total


def look(inputs: Inputs, options: Mapping[str, Any]) -> Content:
    """Read both images of a pair, and find out what decides its costs. Raises the errors of both.

    It aligns nothing, so two images of other contrasts are taken for images of one. `options`: of
    `register_files`.
    """
    from hsyn_cli.io.images import read_image
    from hsyn_cli.method import memory, prepare

    moving = read_image(inputs.moving, "moving image").image
    fixed = read_image(inputs.fixed, "fixed image").image
    pair = prepare.look(moving, fixed, None, None)
    settings = prepare.begin(**chosen(options), device="cpu", seed=0, initial_transform=None)
    if settings.head != "auto" or not (inputs.masked or inputs.initial_transform):
        pair = prepare.with_brains(pair, settings)
    method = prepare.choose(pair, settings)
    sized = pair.sized(method.organ)
    if sized.voxel:
        method.networks.sn.config = replace(method.networks.sn.config, spacing=sized.voxel)
    subjects = _unprepared(sized, method)
    affine = _middles_together(subjects)
    found = content(sized, method, subjects, affine, settings.transform, 1 + len(inputs.others))
    device = device_of(options)
    if device is None:
        return found
    settings = replace(settings, device=device)
    steps = memory.needed(sized, subjects, affine, method, settings)
    libraries = CUDA if device.type == "cuda" else 0.0
    return replace(found, on_device=max(steps.values()), libraries=libraries)


def device_of(options: Mapping[str, Any]) -> torch.device | None:
    """The device that pairs with these options run on; None: the CPU, or it is not here."""
    import torch

    from hsyn_cli import devices

    try:
        device = devices.choose_device(str(options.get("device", "auto")))
    except DeviceError:
        return None
    return None if device == torch.device("cpu") else device


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `prepare.begin` among the options of `register_files`, usual ones filled."""
    usual = {
        "preset": "default", "model": "auto", "affine": "affine", "smoothness": 1.0,
        "similarity": "auto", "transform": "deformable", "search": "near", "head": "auto",
    }  # fmt: skip
    found = {name: options.get(name, value) for name, value in usual.items()}
    return {"weights": found.pop("model"), **found}


def content(
    pair: Pair,
    method: Method,
    subjects: Subjects,
    affine: sitk.AffineTransform,
    transform: str,
    channels: int = 1,
) -> Content:
    """What decides the costs of a pair that is ready for its organ.

    Args:
        pair: as sized for the organ. subjects: the same, as far prepared as they are.
        affine: fixed point -> moving point, as far as it is known.
        transform: "deformable", or where the registration stops.
    """
    import numpy as np
    import torch

    from hsyn_cli.anatomy.intensity import content_box, foreground
    from hsyn_cli.devices import convolution_type
    from hsyn_cli.method.prepare import finer_for, grid_for

    voxels = math.prod(grid_for(subjects, affine, method).size)
    shown = sum(np.count_nonzero(foreground(view.image)) for view in pair.views)
    first, last = content_box(pair.views[1].image)
    config = method.networks.sn.config
    return Content(
        pair.images[0].GetNumberOfPixels(),
        pair.images[1].GetNumberOfPixels(),
        float(shown),
        float(np.prod(last - first + 1)),
        voxels,
        voxels / finer_for(subjects, method) ** 3,
        method.preset.work,
        networks=bool(method.networks.checkpoint.sha256),
        all_levels=method.depth == len(config.levels),
        maps=config.tissue is not None or config.organ == "lung",
        other_contrast=not method.similarity.same_contrast,
        deformable=transform == "deformable",
        channels=channels,
        bfloat16=convolution_type(torch.device("cpu")) == torch.bfloat16,
    )


def _unprepared(sized: Pair, method: Method) -> Subjects:
    """The pair in the organ's unit of length, trimmed, and not prepared further."""
    from hsyn_cli.anatomy.borders import trimmed
    from hsyn_cli.anatomy.scene import Subjects

    greys = (sized.looks[0].grey, sized.looks[1].grey)
    regions = method.organ.regions(sized.masks, sized.looks)
    moving, fixed = (
        view.image if regions is not None else trimmed(part)
        for view, part in zip(sized.views, sized.parts, strict=True)
    )
    return Subjects((moving, fixed), greys, sized.masks, regions, method.organ)


def _middles_together(subjects: Subjects) -> sitk.AffineTransform:
    """What brings the middles of both contents together."""
    import numpy as np

    from hsyn_cli.space import affine_from

    middles = [(points.min(0) + points.max(0)) / 2 for points, _ in subjects.contents]
    return affine_from(np.eye(3), middles[0] - middles[1])
