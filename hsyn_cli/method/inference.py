"""The paper's inference on tensors: from both images on a working grid to both whole maps.

half-way fields -> refine -> repair -> invert -> join. SN-Net's half-way fields, DI-Net and
composition are the paper's (Sha et al., MICCAI 2024); refinement, repair and exact inversion are
ours. It needs no SimpleITK; `register` has what comes before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from hsyn_cli.anatomy.tensors import FADING, Part, Scene
from hsyn_cli.devices import return_memory
from hsyn_cli.errors import WeightsError
from hsyn_cli.fields import repair as folds
from hsyn_cli.fields import sampling
from hsyn_cli.fields.smoothing import resize_smooth
from hsyn_cli.method import refine as refinement
from hsyn_cli.method.networks import invert_half
from hsyn_cli.method.where import Where
from hsyn_cli.method.working import Halves, Inverted, Method, WorkingFields

CUT_EDGE = 3  # voxels inside a cut that windows see beyond it
EVERYWHERE = (slice(None),) * 3
FIELD_STRIDE = 2  # SN-Net's half-way fields are resized to half the images' size


def where_of(scene: Scene) -> Where:
    """What the images of a scene can tell the force steps."""
    return Where(scene.counts, scene.stands_in, scene.blur, scene.doubt)


def counted(halves: Halves) -> NDArray[np.float32]:
    """How much both images count in their mean space, (Z, Y, X) on the grid of the fields."""
    where = where_of(halves.scene).changed(partial(sampling.downsample, factor=FIELD_STRIDE))
    weight = where.weight(halves.u, halves.voxel)
    found = torch.ones_like(halves.u[0, 0]) if weight is None else weight[0, 0]
    return np.asarray(found.cpu().numpy())


def halfway_fields(scene: Scene, method: Method) -> Halves:
    """SN-Net's levels, as many as the preset runs. Raises WeightsError for fields of no numbers."""
    for halves in after_levels(scene, method):
        last = halves
    return last


def after_levels(scene: Scene, method: Method) -> Iterator[Halves]:
    """`halfway_fields` after each level, the coarsest first."""
    maps = torch.cat((scene.others, scene.maps), dim=1)
    levels = method.networks.sn.after_levels(scene.pair, method.depth, maps, where_of(scene))
    for found in levels:
        u = sampling.resize_linear(found, sampling.shrunk(scene.pair.shape[2:], FIELD_STRIDE))
        if not torch.isfinite(u).all():
            raise WeightsError(
                f"checkpoint {method.networks.checkpoint.name} gives displacements that are no "
                "numbers",
                "its training failed; use another checkpoint",
            )
        yield Halves(scene, u)


def refine(
    halves: Halves, method: Method, share_done: Callable[[float], None] = lambda share: None
) -> Halves:
    """Force steps on the pair's own fields, as fine as their scene."""
    preset, scene, sn = method.preset, halves.scene, method.networks.sn
    fine = scene.fine if preset.refinement else None
    part = (..., *(fine or EVERYWHERE))
    pair, others, maps = scene.pair[part], scene.others[part], scene.maps[part]
    images = sn.look(scene.pair)[part] if preset.refinement else pair  # the net needs it all
    if others.shape[1] or maps.shape[1]:
        images = torch.cat((images[:, :1], others, images[:, 1:], maps), dim=1)
    return_memory()
    u = halves.u if fine is None else resize_smooth(halves.u, scene.pair.shape[2:])
    u = u.clone() if fine is not None and u is halves.u else u
    refined = refinement.refine(
        u[part], images, scene.spacing, preset.refinement,
        where_of(scene) if fine is None else _inside(scene, fine), sn.config, share_done,
        sn.channels,
    )  # fmt: skip
    if fine is None:
        u = refined
    else:  # the change, which ends with the part
        u[part] += folds.faded(refined.sub_(u[part]), FADING)
    voxel = Halves(scene, u).voxel
    return Halves(scene, folds.taper(u, voxel, round(preset.margin * method.spacing / voxel)))


def _inside(scene: Scene, part: Part) -> Where:
    """`where_of` in a part of a scene; what its sides cut does not count, nor what lies beyond."""
    where, here = where_of(scene), (..., *part)
    where = where.changed(lambda v: v[here])
    counts = torch.ones_like(scene.pair[here]) if where.counts is None else where.counts.clone()
    for axis, (side, size) in enumerate(zip(part, scene.pair.shape[2:], strict=True), 2):
        if side.start > 0:
            counts.narrow(axis, 0, CUT_EDGE).zero_()
        if side.stop < size:
            counts.narrow(axis, counts.shape[axis] - CUT_EDGE, CUT_EDGE).zero_()
    return replace(where, counts=counts)


def repair(halves: Halves, method: Method) -> Halves:
    """Smooth the half-way fields where they fold or nearly fold; then bring them to full size."""
    u, folded = folds.repair(halves.u, halves.voxel, method.preset.halfway_floor)
    moved = u[:, 0] if method.networks.sn.config.symmetric else u[0, 0]
    full = resize_smooth(u, halves.scene.pair.shape[2:])
    return Halves(halves.scene, full, 100 * folded / moved.numel())


def invert(halves: Halves, method: Method) -> Inverted:
    """DI-Net estimates the inverse of each half-way field, and an iteration makes it exact."""
    scene, di = halves.scene, method.networks.di
    to_moving, to_fixed = halves.u.split(1)
    from_moving, from_fixed = (invert_half(di, u, scene.spacing) for u in (to_moving, to_fixed))
    return Inverted(scene, to_moving, to_fixed, from_moving, from_fixed)


def join(half: Inverted) -> WorkingFields:
    """Compose both whole maps on the working grid."""
    scene = half.scene
    there = sampling.compose(half.fixed_to_mid, half.mid_to_moving, scene.spacing)
    back = sampling.compose(half.moving_to_mid, half.mid_to_fixed, scene.spacing)
    return WorkingFields(scene.grid, half.mid_to_moving, half.mid_to_fixed, there, back)
