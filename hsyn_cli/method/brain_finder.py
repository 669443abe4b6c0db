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

from hsyn_cli.anatomy.intensity import content_box, read_intensities, resample_image
from hsyn_cli.anatomy.organs import Images, Look
from hsyn_cli.anatomy.organs.brain import HEAD
from hsyn_cli.anatomy.scene import ROLES
from hsyn_cli.errors import InputError, WeightsError
from hsyn_cli.io.checkpoints import FINDER
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.tissue_net import MapsNet
from hsyn_cli.space import Grid, working_grid

LIKELY, POSSIBLE = 0.5, 0.2  # chances of brain and of fluid around it
MARGIN_MM = 6.0  # around the content of an image
BEYOND_MM = 1.0  # of what is possible; to cut off cortex is worse than to keep some skull
LITRES = (0.7, 2.3)  # of human brains and the fluid around them; what has less or more is none
MOST_WIDE = 1.2  # times that, with all that is possible
SURE = 0.8  # the mean chance of what is likely, at least; a net at a loss has less
APART = 1.6  # times the volume of the other brain, at most
HINT = "leave out --head brain, or skull-strip both images"
Looks = tuple[Look, Look]


def with_brains(views: Images, looks: Looks) -> Looks:
    """The looks at two whole heads with their brains as regions; those at other images as they are.

    Raises InputError if a brain is not found, or both differ too much in volume; WeightsError if
    the checkpoint is damaged.
    """
    if {look.kind for look in looks} != {HEAD}:
        return looks
    brains = []
    for role, view in zip(ROLES, views, strict=True):
        brain = find_brain(view)
        if brain is None:
            raise InputError(f"no whole brain was found in the {role} image", HINT)
        brains.append(brain)
    moving, fixed = map(litres, brains)
    if max(moving, fixed) > APART * min(moving, fixed):
        text = f"the brains that were found have {moving:.2f} and {fixed:.2f} litres"
        raise InputError(text, HINT)
    return replace(looks[0], region=brains[0]), replace(looks[1], region=brains[1])


def find_brain(image: sitk.Image) -> sitk.Image | None:
    """A mask of the brain of a whole head, uint8 on the grid of the head; None: there is none.

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
    if not sure or not LITRES[0] <= litres(likely) <= LITRES[1]:
        return None
    fine = sitk.Resample(chance, image, sitk.Transform(), sitk.sitkLinear, 0.0)
    wide = [max(1, round(BEYOND_MM / s)) for s in image.GetSpacing()]
    mask = sitk.BinaryDilate(_largest(fine > POSSIBLE), wide)
    return mask if litres(mask) <= MOST_WIDE * LITRES[1] else None


def litres(mask: sitk.Image) -> float:
    """The volume of a mask."""
    count = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
    return 1e-6 * count * float(np.prod(mask.GetSpacing()))


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
