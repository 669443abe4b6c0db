"""Two contrasts become one, once MIND has roughly registered the images. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.anatomy import organs
from hsyn_cli.anatomy.common_bias import Seen, without_common_bias
from hsyn_cli.anatomy.contrast import DARKEST, relates_early
from hsyn_cli.anatomy.organs import NONE
from hsyn_cli.fields import sampling
from hsyn_cli.method import inference, prepare
from hsyn_cli.method.inference import FIELD_STRIDE
from hsyn_cli.method.matching import UNMATCHED, differing, evenness, matched
from hsyn_cli.method.refit import refitted
from hsyn_cli.method.states import Aligned, Pair, Settings
from hsyn_cli.method.working import Halves, Method
from hsyn_cli.space import strided


@dataclass(frozen=True)
class Rough:
    """A pair as roughly registered by `halves`, on the grid of these fields.

    Attributes:
        seen: each channel of both images, moving first, in [0, 1].
        counts: the weight of each voxel, (Z, Y, X); 0 outside the middles of heads.
    """

    halves: Halves
    seen: Seen
    counts: NDArray[np.float32]

    @classmethod
    def of(cls, halves: Halves, middle: Tensor | None) -> Rough:
        """`middle`: as of `Subjects.middle_on`."""
        channels = torch.cat((halves.scene.pair, halves.scene.others), dim=1)
        small = sampling.downsample(channels, FIELD_STRIDE)
        moving, fixed = sampling.warp(small, halves.u, halves.voxel).cpu().numpy()
        counts = inference.counted(halves)
        if middle is not None:
            counts = counts * sampling.downsample(middle, FIELD_STRIDE)[0, 0].numpy()
        return cls(halves, list(zip(moving, fixed, strict=True)), counts)

    def alike_early(self, weights: Sequence[float]) -> bool:
        """Whether all channels that pull surely have one contrast; of brains and heads."""
        channels = zip(weights, self.seen, strict=True)
        return all(relates_early(*both, self.counts) for weight, both in channels if weight)


def give_one_contrast(
    pair: Pair, method: Method, aligned: Aligned, settings: Settings
) -> tuple[Aligned, Method] | None:
    """Give images of different contrast one, if MIND's coarse steps tell how; see `matching`.

    None: these steps show that all channels have one contrast, see `matching.differing`. Brains and
    heads may show it after the first level.
    """
    if not prepare.may_match(method, settings):
        return aligned, method
    scene = prepare.scene_of(aligned, method, settings.device)
    middle = aligned.subjects.middle_on(scene.grid, aligned.affine)
    brains = organs.of_brains(pair.kinds)
    levels = inference.after_levels(scene, method)
    halves = next(levels)
    if brains and Rough.of(halves, middle).alike_early(settings.channels):
        return None
    for finer in levels:
        halves = finer
    rough = Rough.of(halves, middle)
    subjects, seen, counts = aligned.subjects, rough.seen, rough.counts
    if brains:
        even = [
            evenness(*both, counts) if weight else None
            for both, weight in zip(seen, settings.channels, strict=True)
        ]
        voxels = strided(scene.grid, FIELD_STRIDE)
        subjects, seen = without_common_bias(subjects, seen, even, voxels, aligned.affine)
    differs = differing(settings.channels, seen, counts, brains=brains)
    if not any(differs):
        return None
    found = matched(subjects, settings.channels, seen, differs, counts)
    if found is None:
        notes = (*aligned.notes, UNMATCHED)
        return replace(aligned, notes=notes, unmatched=differs[0]), method
    subjects, shares, note = found
    chosen = replace(settings, weights=NONE, similarity=prepare.NETWORKS_FOR, channels=shares)
    features = method.networks.sn.features
    method = prepare.choose(pair, chosen, features).on(settings.device)
    affine = aligned.affine
    if middle is not None and settings.affine == "affine":
        content = np.logical_and(*(image > DARKEST for image in seen[0]))
        affine = refitted(affine, rough.halves, counts * content)
    notes = (*aligned.notes, note)
    return replace(aligned, subjects=subjects, affine=affine, notes=notes), method
