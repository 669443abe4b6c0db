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
from hsyn_cli.anatomy.scene import Subjects
from hsyn_cli.space import Grid

LEAST_COUNT = 0.02  # of the weight of a voxel inside tissue

Seen = Sequence[tuple[Values, Values]]


def without_common_bias(
    subjects: Subjects, seen: Seen, counts: Values, grid: Grid, affine: sitk.AffineTransform
) -> tuple[Subjects, Seen]:
    """The subjects without the bias fields that their images show together, and `seen` alike.

    If too few voxels count, both stay as they are.

    Args:
        seen: each channel of both images, moving first, (Z, Y, X) in [0, 1] on `grid`, roughly
            registered.
        counts: the weight of each voxel in [0, 1].
        affine: fixed point -> moving point. The grid lies in the fixed image's space.
    """
    images = [image for pair in seen for image in pair]
    fields = log_fields(images, counts)
    if fields is None:
        return subjects, seen
    even = [image * np.exp(-field) for image, field in zip(images, fields, strict=True)]
    back, shown = affine.GetInverse(), [grid.stamp(sitk.GetImageFromArray(f)) for f in fields]
    views = [
        (
            divided(channel.views[0], shown[2 * k], channel.grey[0].low, back),
            divided(channel.views[1], shown[2 * k + 1], channel.grey[1].low),
        )
        for k, channel in enumerate(subjects.channels)
    ]
    greys = [grey for _, grey in subjects.others]
    others = tuple(zip(views[1:], greys, strict=True))
    pairs = list(zip(even[::2], even[1::2], strict=True))
    return replace(subjects, views=views[0], others=others), pairs


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
