"""What `register` measures: how alike the images become, and the facts of the run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.anatomy.contrast import Shown, Values, look_mm
from hsyn_cli.anatomy.intensity import resample_image, widened
from hsyn_cli.anatomy.scene import ROLES, Subjects
from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.devices import device_name
from hsyn_cli.fields import sampling
from hsyn_cli.fields.folding import determinants
from hsyn_cli.fields.grids import along_axes
from hsyn_cli.fields.totals import Totals
from hsyn_cli.method.networks import NO_CHECKPOINT
from hsyn_cli.method.result import Facts, Scores, SimilarityScores
from hsyn_cli.method.states import Aligned, Composed, Joined, Pair, Settings
from hsyn_cli.method.verdict import problems
from hsyn_cli.method.working import Method, WorkingFields


def tell(
    aligned: Aligned,
    folded: float,
    joined: Joined,
    composed: Composed,
    method: Method,
    settings: Settings,
    pair: Pair,
) -> Facts:
    """What was measured. `folded`: see `Halves`."""
    (folding, inverse_folding), errors = composed.settled
    deforms = settings.transform == "deformable"
    return Facts(
        folding=folding,
        inverse_folding=inverse_folding,
        inverse_error_fixed=errors[0],
        inverse_error_moving=errors[1],
        similarity=joined.similarity,
        preset=settings.preset,
        affine=settings.affine,
        transform=settings.transform,
        contrast=aligned.shown.correlation,
        information=joined.information,
        overlap=joined.overlap,
        problems=problems(aligned, joined.information, joined.overlap, settings, pair.unit),
        lesions=dict(lesion_changes(composed.totals, pair)),
        smoothness=settings.smoothness,
        head="brain" if pair.of_found_brains else "all",
        checkpoint=method.networks.checkpoint if deforms else NO_CHECKPOINT,
        device=device_name(settings.device),
        threads=torch.get_num_threads(),
        seed=settings.seed,
        seconds={},
        folded_before_repair_percent=folded,
        shown=method.kinds,
        dimension=composed.totals.fixed.dimension,
        channels=settings.channels,
        linear=composed.linear,
        change=composed.change,
        warnings=(*method.warnings, *aligned.notes),
    )


def lesion_changes(totals: Totals, pair: Pair) -> Iterator[tuple[str, float]]:
    """For each lesion: which image shows it, and by what factor the field changes its volume.

    The factor is the mean determinant of the field from that image over the lesion.
    """
    fields = ((totals.inverse, totals.moving), (totals.forward, totals.fixed))
    for role, lesion, (u, grid) in zip(ROLES, pair.lesions, fields, strict=True):
        if lesion is not None:
            det, _ = determinants(along_axes(u, grid), grid.spacing)
            inside = torch.from_numpy(sitk.GetArrayFromImage(lesion) != 0)
            yield role, float(det[0].cpu()[inside].mean())


def measured(subjects: Subjects, working: WorkingFields, scene: Scene, method: Method) -> Joined:
    """The whole maps, and how alike they make both images: at first, after the affine, at the end.

    The similarity is the mean over the grid, in windows of 5 double voxels. For the overlap, what
    the moving image shows counts up to a margin beyond what a cut fixed image shows.
    """
    aligned, fixed = scene.pair.chunk(2)
    apart = resample_image(
        subjects.views[0], scene.grid, None, subjects.grey[0], even=subjects.even
    )
    warped = sampling.warp(aligned, working.fixed_to_moving, scene.spacing)
    states = (apart.to(fixed.device), aligned, warped)
    weight = None if scene.counts is None else sampling.downsample(scene.counts[1:, :1], 2)
    small = sampling.downsample(fixed, 2)
    value = method.similarity.value
    before, affine, after = (
        float(value(sampling.downsample(image, 2), small, 5, weight)) for image in states
    )
    coarse, near = max(1, round(look_mm(scene.grid) / scene.spacing)), np.ones(1, np.float32)
    if scene.shows is not None:  # the images go on beyond their borders
        there, here = scene.shows.chunk(2)
        aligned, fixed = aligned * there, fixed * here
        warped = sampling.warp(aligned, working.fixed_to_moving, scene.spacing)
        states = (apart.to(fixed.device), aligned, warped)
        voxels = method.preset.margin * method.spacing / (scene.spacing * coarse)
        beside = widened(sampling.downsample(here, coarse), voxels)
        near = beside[0, 0].gt(0).cpu().numpy()
    still = _values(fixed, coarse)
    shown = [Shown.in_values(_values(image, coarse) * near, still) for image in states]
    return Joined(
        working,
        SimilarityScores(method.similarity.label, before, affine, after),
        Scores(*(v.information for v in shown)),
        Scores(*(v.overlap for v in shown)),
    )


def _values(image: Tensor, factor: int) -> Values:
    values: Values = sampling.downsample(image, factor)[0, 0].cpu().numpy()
    return values
