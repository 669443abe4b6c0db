"""What `register` measures: how alike the images become, and the facts of the run."""

from __future__ import annotations

import torch
from torch import Tensor

from hsyn_cli.anatomy.intensity import resample_image
from hsyn_cli.anatomy.scene import Scene, Subjects
from hsyn_cli.devices import device_name
from hsyn_cli.fields import sampling
from hsyn_cli.method.result import Facts, SimilarityScores
from hsyn_cli.method.states import Aligned, Composed, Joined, Method, Settings


def tell(
    aligned: Aligned,
    folded: float,
    joined: Joined,
    composed: Composed,
    method: Method,
    settings: Settings,
) -> Facts:
    """What was measured. `folded`: see `Halves`."""
    (folding, inverse_folding), errors = composed.settled
    return Facts(
        folding=folding,
        inverse_folding=inverse_folding,
        inverse_error_fixed=errors[0],
        inverse_error_moving=errors[1],
        similarity=joined.similarity,
        preset=settings.preset,
        affine=settings.affine,
        smoothness=settings.smoothness,
        checkpoint=method.networks.checkpoint,
        device=device_name(settings.device),
        threads=torch.get_num_threads(),
        seed=settings.seed,
        seconds={},
        folded_before_repair_percent=folded,
        shown=method.kinds,
        warnings=(*method.warnings, *filter(None, (aligned.note,))),
    )


def similarity_scores(
    subjects: Subjects, scene: Scene, fixed_to_moving: Tensor, method: Method
) -> SimilarityScores:
    """Mean over the grid in windows of 5 double voxels: at first, after the affine, at the end."""
    aligned, fixed = scene.pair.chunk(2)
    before = resample_image(subjects.views[0], scene.grid, None, subjects.grey[0])
    after = sampling.warp(aligned, fixed_to_moving, scene.spacing)
    weight = None if scene.counts is None else sampling.downsample(scene.counts[1:], 2)
    small = sampling.downsample(fixed, 2)
    values = (
        method.similarity.value(sampling.downsample(image, 2), small, 5, weight).item()
        for image in (before.to(fixed.device), aligned, after)
    )
    return SimilarityScores(method.similarity.label, *values)
