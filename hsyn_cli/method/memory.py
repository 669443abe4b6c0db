"""The memory that a pair takes on a device: bytes of its tensors at the peak of each step. Ours.

Tensors are whole volumes of the working grid, of the images, or slabs of a fixed size. So the bytes
are proportional to voxels. `examples/device_memory.py` counts the tensors of a run, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hsyn_cli.anatomy.intensity import content_box, foreground
from hsyn_cli.config.architecture import Level
from hsyn_cli.devices import convolution_type
from hsyn_cli.fields.slabs import ON_GPU
from hsyn_cli.method.inference import FIELD_STRIDE
from hsyn_cli.method.prepare import finer_for, grid_for, may_match

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.scene import Subjects
    from hsyn_cli.method.states import Pair, Settings
    from hsyn_cli.method.working import Method

# Bytes per voxel of the grid that a step works on, beside the scene.
STEPS, STEPS_CHANNEL, STEPS_COUNTS = 105, 16, 12  # of forces; for each further channel or map
SLABBED = 88  # the same while forces are computed, slab by slab
SLAB, SLAB_MIND = 150, 260  # bytes for each voxel of a slab
LOOK = 8  # for each number that a net gives while it looks at an image, and a copy of it
HALVES, REPAIR, INVERSE, COMPOSITION = 3, 66, 105, 100
DETERMINANTS = 40  # of both half-way fields, beside a slab
WORKING_FIELDS = 48
# Bytes per voxel of the images, of the boxes around their contents, and of the contents.
TOTALS, FITTED, TRIPS = 12, 24, 34
PART_VOXELS, PART = 500_000, 116  # voxels of a content that are fitted at once
CALM = 21  # of one box, while its field becomes smoother where the fit does not end
# What libraries keep beside tensors: pieces that do not fit, and the workspace of convolutions.
# A pair of brains held a third less on an H200, where torch reserved up to half more.
PIECES, WORKSPACE = 1.15, 250e6


@dataclass(frozen=True)
class Voxels:
    """What the memory is proportional to.

    Attributes:
        working: voxels of the working grid. refined: of the grid of the refinement.
        images, boxes, content: of both images, of the boxes around what they show, of that itself.
    """

    working: int
    refined: int
    images: int
    boxes: int
    content: int


def needed(
    pair: Pair,
    subjects: Subjects,
    affine: sitk.AffineTransform,
    method: Method,
    settings: Settings,
) -> dict[str, float]:
    """{step: bytes of the tensors at its peak}, for the steps that run on `settings.device`.

    Args:
        pair: as sized for the organ. subjects: the same, as far prepared as they are.
        affine: fixed point -> moving point, as far as it is known.
    """
    wide = torch.finfo(convolution_type(settings.device)).bits // 8
    count = voxels_of(pair, subjects, affine, method)
    channels = len(subjects.channels)
    if settings.transform != "deformable":
        return {"total fields": _totals(replace(count, refined=0), fit=False)}
    steps: dict[str, float] = {}
    if may_match(method, settings):
        steps["contrast"] = _networks(count.working, subjects, channels, method, wide)
        channels *= 2  # each may become two
    steps["networks"] = _networks(count.working, subjects, channels, method, wide)
    scene, grid = _scene(subjects, channels), count.refined
    if method.preset.refinement:
        maps = _maps(subjects) + method.networks.sn.maps
        copied = 8 * (channels + maps) if channels + maps > 1 else 0
        pulled = _steps(grid, subjects, channels + maps, method)
        looked = LOOK * method.networks.sn.looked * grid
        steps["refinement"] = grid * (scene + copied) + max(pulled, looked)
    fields = grid if method.preset.refinement else grid / FIELD_STRIDE**3
    determinants = DETERMINANTS * fields + SLAB * min(fields, ON_GPU)
    steps["fold repair"] = grid * scene + max(grid * REPAIR, determinants)
    steps["exact inverse"] = grid * (scene + INVERSE)
    steps["composition"] = grid * (scene + COMPOSITION)
    steps["total fields"] = _totals(count, fit=method.preset.fit > 0)
    return steps


def peak_mb(steps: Mapping[str, float]) -> float:
    """The memory that a device needs for these steps, in MB, with what libraries keep."""
    return (PIECES * max(steps.values(), default=0.0) + WORKSPACE) / 1e6


def voxels_of(
    pair: Pair, subjects: Subjects, affine: sitk.AffineTransform, method: Method
) -> Voxels:
    """The voxels of a pair; see `needed`."""
    working = int(np.prod(grid_for(subjects, affine, method).size))
    ends = [content_box(view.image) for view in pair.views]
    shown = zip(pair.views, pair.looks, strict=True)
    return Voxels(
        working,
        round(working / finer_for(subjects, method) ** 3),
        sum(image.GetNumberOfPixels() for image in pair.images),
        sum(int(np.prod(last - first + 1)) for first, last in ends),
        sum(int(foreground(v.image, look.grey.hounsfield).sum()) for v, look in shown),
    )


def _maps(subjects: Subjects) -> int:
    return 0 if subjects.regions is None else 1


def _counts(subjects: Subjects) -> bool:
    """Whether there is a tensor of where images count."""
    given = (*subjects.masks, *subjects.lesions)
    return bool(any(subjects.cut)) or subjects.regions is not None or given != (None,) * 4


def _scene(subjects: Subjects, channels: int) -> float:
    """Bytes per voxel of a scene: images, maps, where they count, and what they show."""
    shows = any(subjects.cut) or subjects.lesions != (None, None)
    return 8 * (channels + _maps(subjects) + _counts(subjects) + shows)


def _steps(voxels: float, subjects: Subjects, channels: int, method: Method) -> float:
    """Bytes of steps along forces on a grid, of images and maps."""
    more = STEPS_CHANNEL * (channels - 1) + STEPS_COUNTS * _counts(subjects)
    slab = SLAB if method.similarity.same_contrast else SLAB_MIND
    slabs = slab * voxels / max(1, math.ceil(voxels / ON_GPU))
    return max(voxels * (STEPS + more), voxels * (SLABBED + more) + slabs)


def _networks(voxels: int, subjects: Subjects, channels: int, method: Method, wide: int) -> float:
    """Bytes of SN-Net's levels: images at all scales, and the level that takes most."""
    sn = method.networks.sn
    levels = sn.config.levels[: method.depth]
    maps = _maps(subjects) + (sn.maps if sn.contrasts_differ else 0)
    scaled = 1 + sum(level.scale**-3 for level in levels if level.scale > 1)
    held = _scene(subjects, channels) + 8 * (channels - 1 + maps) + 8 * (channels + maps) * scaled
    most = 0.0
    for level in levels:
        here = voxels / level.scale**3
        if level.steps is not None:
            most = max(most, _steps(here, subjects, channels + maps, method))
        if level.repeats:
            most = max(most, here * _net(level, wide))
    return voxels * (held + HALVES) + most


def _net(level: Level, wide: int) -> float:
    """Bytes of a level's U-Net per voxel of the level, for both orders of the images.

    Either its input takes most, which exists three times while it is packed, or the convolution
    that joins the finest resolution with what comes up from below.
    """
    numbers, cells = 5 if level.forces else 2, level.stride**3
    packed = 3 * 4 * numbers
    joined = 2 * 4 * numbers + 2 * wide * (level.encoder[0] + _below(level)) / cells
    return 2 * max(packed, joined)


def _below(level: Level) -> int:
    """Channels that come up to the finest resolution; see `UNet`."""
    if level.decoder:
        return [level.encoder[-1], *level.decoder][-2]
    skips = level.encoder[1:-1]
    return max(skips[0], level.head[0]) if skips else level.encoder[-1]


def _totals(count: Voxels, fit: bool) -> float:
    """Bytes of total fields, and of the round trips that fit them to each other."""
    sizes = WORKING_FIELDS * count.refined + TOTALS * count.images + FITTED * count.boxes
    parts = max(PART * min(PART_VOXELS, count.content / 2), CALM * count.boxes / 2 if fit else 0)
    return sizes + (TRIPS if fit else TRIPS / 2) * count.content + parts
