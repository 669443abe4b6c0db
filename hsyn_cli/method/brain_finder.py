"""Where the brain of a whole head is, by a net that learned from painted heads. Ours.

The net is a tissue net of one more checkpoint (see `tissue_net`). Its pictures have random
contrasts (as in SynthStrip: Hoopes et al., NeuroImage 2022), so it takes heads of any contrast. It
works on coarse voxels, and its soft answer tells the outline between them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import SimpleITK as sitk
import torch

from hsyn_cli.anatomy.intensity import (
    content_box,
    foreground,
    grown_box,
    read_intensities,
    resample_image,
)
from hsyn_cli.anatomy.organs import Images, Look
from hsyn_cli.anatomy.organs.brain import BRAIN, HEAD
from hsyn_cli.anatomy.scene import ROLES
from hsyn_cli.errors import InputError, WeightsError
from hsyn_cli.fields.marked import Mask
from hsyn_cli.io.checkpoints import FINDER
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.tissue_net import MapsNet
from hsyn_cli.space import Grid, working_grid

LIKELY = 0.5  # the chance of brain and of fluid around it
MARGIN_MM = 6.0  # around the content of an image
BEYOND_MM = 1.0  # at least a voxel; to cut off cortex is worse than to keep some skull
LITRES = (0.7, 2.6)  # of human brains and the fluid around them; what has less or more is none
SURE = 0.96  # the mean chance of what is likely, at least; a net at a loss has less
ROUND = 0.7  # the area of a ball of that volume by that of what is likely, at least
APART = 1.6  # times the volume of the other brain, at most
HINT = "leave out --head brain, or skull-strip both images"
LOOKS = {HEAD}, {HEAD, BRAIN}
Looks = tuple[Look, Look]


def with_brains(views: Images, looks: Looks, *, must: bool) -> Looks:
    """The looks at two heads, or at a head and a skull-stripped brain, with brains as regions.

    Looks at other images stay as they are.

    Args:
        must: raise InputError if a brain is not found, or both differ too much in volume; else, the
            looks stay as they are then, too.

    Raises WeightsError if the checkpoint is damaged.
    """
    if {look.kind for look in looks} not in LOOKS:
        return looks
    found, volumes = [], []
    for role, view, look in zip(ROLES, views, looks, strict=True):
        brain = find_brain(view) if look.kind == HEAD else None
        if look.kind == HEAD and brain is None:
            return _left(looks, f"no whole brain was found in the {role} image", must)
        found.append(replace(look, region=brain))
        volumes.append(litres(brain) if brain is not None else _litres(foreground(view), view))
    moving, fixed = volumes
    if max(volumes) > APART * min(volumes):
        text = f"the brains that were found have {moving:.2f} and {fixed:.2f} litres"
        return _left(looks, text, must)
    return found[0], found[1]


def _left(looks: Looks, text: str, must: bool) -> Looks:
    if must:
        raise InputError(text, HINT)
    return looks


def find_brain(image: sitk.Image) -> sitk.Image | None:
    """A mask of the brain of a whole head, uint8 on a part of its grid; None: there is none.

    `image`: upright by its header, as the registration sees it.
    """
    net, mm = _net()
    grid = working_grid(Grid.of(image), content_box(image), mm, MARGIN_MM, net.stride)
    shown = resample_image(image, grid, None, read_intensities(image))
    with torch.no_grad():
        chance = grid.stamp(sitk.GetImageFromArray(net(shown)[0, 0].clamp(0, 1).numpy()))
    likely = _largest(chance > LIKELY)
    inside = sitk.GetArrayViewFromImage(likely) != 0
    sure = inside.any() and sitk.GetArrayViewFromImage(chance)[inside].mean() >= SURE
    if not sure or not LITRES[0] <= litres(likely) <= LITRES[1] or _roundness(likely) < ROUND:
        return None
    near = _part(Grid.of(image), likely).empty_image(sitk.sitkUInt8)
    fine = sitk.Resample(chance, near, sitk.Transform(), sitk.sitkLinear, 0.0)
    wide = [max(1, round(BEYOND_MM / s)) for s in image.GetSpacing()]
    return sitk.BinaryDilate(_largest(fine > LIKELY), wide)


def _part(whole: Grid, likely: sitk.Image) -> Grid:
    """The part of the grid of the head where its brain may be."""
    box = grown_box(whole, Grid.of(likely), content_box(likely), MARGIN_MM)
    first = np.maximum(np.floor(box[0]).astype(int) - 1, 0)
    end = np.minimum(np.ceil(box[1]).astype(int) + 2, whole.size)
    return whole.part((tuple(first.tolist()), tuple(end.tolist())))[0]


def litres(mask: sitk.Image) -> float:
    """The volume of a mask."""
    return _litres(sitk.GetArrayViewFromImage(mask) != 0, mask)


def _litres(inside: Mask, image: sitk.Image) -> float:
    return 1e-6 * int(np.count_nonzero(inside)) * float(np.prod(image.GetSpacing()))


def _roundness(mask: sitk.Image) -> float:
    """1 of a ball; less, the more area a body has for its volume."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    return float(shape.GetRoundness(1))


def _largest(mask: sitk.Image) -> sitk.Image:
    """The largest part of a mask, without holes, uint8."""
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask))
    return sitk.BinaryFillhole(sitk.Cast(parts == 1, sitk.sitkUInt8))


@cache
def _net() -> tuple[MapsNet, float]:
    """The net on the CPU, and the voxel in mm that it learned from."""
    sn = load_networks(FINDER, torch.device("cpu")).sn
    if sn.tissue is None or sn.tissue.maps != 1:
        raise WeightsError(f"checkpoint {FINDER} does not tell brains", "install hsyn again")
    return sn.tissue, sn.config.spacing
