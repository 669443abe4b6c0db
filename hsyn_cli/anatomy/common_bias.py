"""Bias fields of two images of different contrast that are roughly registered. Ours.

Alone, an image cannot tell a bias field from a tissue that is brighter on one side. Where two
images show the same tissue, both estimates share its classes, and hold each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from hsyn_cli.anatomy.bias import DARKEST, LEAST_CONTENT_VOXELS, MOST_VOXELS, Mixture, divided, fit
from hsyn_cli.anatomy.contrast import Values
from hsyn_cli.anatomy.organs.brain import COARSE_MM
from hsyn_cli.anatomy.scene import Subjects
from hsyn_cli.space import Grid

LEAST_COUNT = 0.02  # of the weight of a voxel inside tissue

Seen = Sequence[tuple[Values, Values]]


def without_common_bias(
    subjects: Subjects,
    seen: Seen,
    counts: Sequence[Values | None],
    grid: Grid,
    affine: sitk.AffineTransform,
) -> tuple[Subjects, Seen]:
    """The subjects without the bias fields that both images of a channel show, and `seen` alike.

    A channel of which too few voxels count stays as it is, and so do coarse images, whose anatomy
    would pass for a bias field.

    Args:
        seen: each channel of both images, moving first, (Z, Y, X) in [0, 1] on `grid`, roughly
            registered.
        counts: for each channel, the weight of each voxel in [0, 1]; None: the channel stays.
        affine: fixed point -> moving point. The grid lies in the fixed image's space.
    """
    back, views, even = affine.GetInverse(), [], []
    for channel, images, weights in zip(subjects.channels, seen, counts, strict=True):
        coarse = max(float(np.prod(view.GetSpacing())) for view in channel.views) >= COARSE_MM**3
        fields = None if weights is None or coarse else log_fields(images, weights)
        if fields is None:
            views.append(channel.views)
            even.append(images)
            continue
        moving, fixed = (grid.stamp(sitk.GetImageFromArray(field)) for field in fields)
        low = [grey.low for grey in channel.grey]
        of_moving = divided(channel.views[0], moving, low[0], back)
        views.append((of_moving, divided(channel.views[1], fixed, low[1])))
        even.append((images[0] * np.exp(-fields[0]), images[1] * np.exp(-fields[1])))
    greys = [grey for _, grey in subjects.others]
    others = tuple(zip(views[1:], greys, strict=True))
    return replace(subjects, views=views[0], others=others), even


def log_fields(images: Sequence[Values], counts: Values) -> NDArray[np.float32] | None:
    """The log bias fields of registered images, (C, Z, Y, X); None: too few voxels count."""
    inside = counts > LEAST_COUNT
    for image in images:
        inside &= image > DARKEST
    places = np.nonzero(inside)
    if len(places[0]) < LEAST_CONTENT_VOXELS:
        return None
    every = -(-len(places[0]) // MOST_VOXELS)
    index = tuple(torch.from_numpy(place[::every].copy()) for place in places)
    logs = torch.stack([torch.from_numpy(image)[index].double().log() for image in images], dim=1)
    weights = torch.from_numpy(counts)[index].double()
    fields, _ = fit(logs, index, counts.shape, Mixture.of_several(logs), weights)
    return fields
