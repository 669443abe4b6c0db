"""Bias fields: drifts of a tissue's brightness, estimated and removed before all other steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.anatomy.intensity import read_intensities, without
from hsyn_cli.space import Grid, shrink_factors

LOOK_MM = 4.0  # voxel size of the estimate
CONTENT_EDGE_MM = 8.0  # deeper inside the content, its edges have no effect
DARKEST = 0.05  # of the range; darker voxels are background
DEGREE = 6  # of the polynomial
CLASSES, JOINT_CLASSES = 3, 6  # of one image, and of several images of one anatomy
ROUNDS = 12
LEAST_DEVIATION = 0.02  # of a class, in log intensity
STIFFNESS = 1e-5  # penalty on high degrees
# Voxels of the content. Of more than MOST_VOXELS, evenly spaced ones are fitted.
LEAST_CONTENT_VOXELS, MOST_VOXELS = 1000, 60_000
UNSURE = 0.06  # deviation of an estimate without any bias field, in log intensity


def without_bias(
    image: sitk.Image, lesion: sitk.Image | None = None, part: sitk.Image | None = None
) -> sitk.Image:
    """`image` divided by its bias field, float32.

    If the field is too weak to be distinguished from anatomy, the intensities stay as they are.
    Otherwise the estimate is shrunk by the share that its own error explains (James and Stein
    1961), so a weak estimate does no harm.

    Args:
        lesion: a mask, 0 outside, on any grid. Its voxels do not count for the estimate.
        part: a mask on the grid of `image`. Only its voxels count for the estimate.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    estimate = _log_bias(image, lesion, part)
    if estimate is None:
        return image
    field, deviation, low = estimate
    share = 1 - (UNSURE / max(deviation, 1e-6)) ** 2
    if share <= 0:
        return image
    return divided(image, field * share, low)


def divided(
    image: sitk.Image, field: sitk.Image, low: float, way: sitk.Transform | None = None
) -> sitk.Image:
    """`image` without a log bias field, float32; `low` is its grey value zero.

    `way`: from points of the image to those of the field; None: they are the same.
    """
    image, way = sitk.Cast(image, sitk.sitkFloat32), way or sitk.Transform()
    gain = sitk.Resample(
        sitk.Exp(field * -1.0), image, way, sitk.sitkLinear, 1.0, sitk.sitkFloat32, True
    )
    return image + sitk.Maximum(image - low, 0.0) * (gain - 1.0)


def _log_bias(
    image: sitk.Image, lesion: sitk.Image | None, part: sitk.Image | None
) -> tuple[sitk.Image, float, float] | None:
    """The log bias field on LOOK_MM voxels, its deviation in the content, and the grey value zero.

    None if there is too little content.
    """
    factors = shrink_factors(Grid.of(image), LOOK_MM)
    small = sitk.BinShrink(image, factors)
    if small.GetNumberOfPixels() < LEAST_CONTENT_VOXELS:
        return None
    grey = read_intensities(without(small, lesion))
    low, high = grey.low, grey.high
    values = torch.from_numpy(sitk.GetArrayFromImage(small)).double()
    values.sub_(low).div_(max(high - low, 1e-12))
    content = sitk.GetImageFromArray((values > DARKEST).byte().numpy())
    radius = [
        min(round(CONTENT_EDGE_MM / s), n)
        for s, n in zip(small.GetSpacing(), small.GetSize(), strict=True)
    ]
    eroded = sitk.BinaryErode(content, radius, sitk.sitkBall)
    inside = torch.from_numpy(sitk.GetArrayFromImage(eroded)) != 0
    for mask, all_of_it in ((lesion, 0), (part, 1)):
        if mask is not None:
            own = sitk.Resample(
                mask != 0, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkFloat32
            )
            share = sitk.GetArrayFromImage(sitk.BinShrink(own, factors))
            inside &= torch.from_numpy(share) == all_of_it
    if inside.sum() < LEAST_CONTENT_VOXELS:
        return None
    index = inside.nonzero(as_tuple=True)
    every = -(-len(index[0]) // MOST_VOXELS)
    index = tuple(i[::every] for i in index)
    log = values[index].log()  # (N,)
    fields, deviations = fit(log[:, None], index, values.shape, Mixture.of_one(log))
    out = sitk.GetImageFromArray(fields[0])
    out.CopyInformation(small)
    return out, float(deviations[0]), low


def fit(
    logs: Tensor,
    index: Sequence[Tensor],
    shape: Sequence[int],
    classes: Mixture,
    weights: Tensor | None = None,
) -> tuple[NDArray[np.float32], Tensor]:
    """The log bias fields (C, Z, Y, X) of C images of one anatomy, and their deviations (C,).

    Van Leemput et al., IEEE TMI 18(10), 1999: intensities are a mixture of Gaussians times a
    polynomial, and each is fitted in turn to what the other leaves. All images share the classes.
    Sizes of tensors: N voxels, K classes, P terms.

    Args:
        logs: (N, C) logarithms of intensities. index: their z, y, x, (N,) each, in `shape`.
        weights: (N,), of the voxels; None: all the same.
    """
    ends = [(int(i.min()), int(i.max())) for i in index]
    powers = itertools.product(range(DEGREE + 1), repeat=3)
    degrees = torch.tensor([d for d in powers if 0 < sum(d) <= DEGREE])  # (P, 3)
    along = [_polynomials(i, *e)[:, d] for i, e, d in zip(index, ends, degrees.T, strict=True)]
    terms = along[0] * along[1] * along[2]  # (N, P)
    stiffness = torch.diag(degrees.square().sum(1).double() ** 2) * (STIFFNESS * len(logs))
    counts = torch.ones_like(logs[:, 0]) if weights is None else weights / weights.mean()
    bias = torch.zeros_like(logs)
    for _ in range(ROUNDS):
        expected, precision = classes.fitted(logs - bias, counts)
        found = []
        for left, sure in zip((logs - expected).T, precision.T, strict=True):
            found.append(_least_squares(terms, left, counts * sure / sure.mean(), stiffness))
        factors = torch.stack(found, dim=1)  # (P, C)
        bias = terms @ factors
        middle = (counts[:, None] * bias).mean(0)
        bias -= middle
    axes = [_polynomials(torch.arange(n), *e) for n, e in zip(shape, ends, strict=True)]
    cubes = logs.new_zeros(logs.shape[1], *(DEGREE + 1,) * 3)
    at = (slice(None), *degrees.T)
    cubes[at] = factors.T
    fields = torch.einsum("cijk,zi,yj,xk->czyx", cubes, *axes)
    low, high = (v[:, None, None, None] for v in (bias.min(0).values, bias.max(0).values))
    fields = torch.minimum(torch.maximum(fields - middle[:, None, None, None], low), high)
    return fields.float().numpy(), bias.std(0)


@dataclass
class Mixture:
    """K Gaussians of C values: means and deviations (K, C), shares (K,)."""

    means: Tensor
    deviations: Tensor
    shares: Tensor

    @classmethod
    def of_one(cls, values: Tensor) -> Mixture:
        """Of one value (N,): CLASSES, which start on equal shares of the values."""
        ranks = ((torch.arange(CLASSES) + 0.5) / CLASSES * len(values)).long()
        means = values.sort().values[ranks][:, None]
        deviations = (values.std() / CLASSES + 0.05).expand(CLASSES, 1)
        return cls(means, deviations, torch.full_like(means[:, 0], 1 / CLASSES))

    @classmethod
    def of_several(cls, values: Tensor) -> Mixture:
        """Of several values (N, C): JOINT_CLASSES, which start on equal shares of the voxels.

        These follow one another along the direction in which the values vary most.
        """
        apart = (values - values.mean(0)) / values.std(0).clamp_min(1e-6)
        along = torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -1]
        order = (apart @ along * along[0].sign()).argsort()
        groups = [values[part] for part in order.chunk(JOINT_CLASSES)]
        means = torch.stack([group.mean(0) for group in groups])
        deviations = torch.stack([group.std(0) for group in groups]) + LEAST_DEVIATION
        return cls(means, deviations, torch.full_like(means[:, 0], 1 / len(groups)))

    def fitted(self, values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Expected values (N, C) and their precision (N, C), after three rounds of EM."""
        for _ in range(3):
            z = (values[:, None] - self.means) / self.deviations  # (N, K, C)
            height = (self.shares / self.deviations.prod(1) + 1e-9).log()
            of = torch.softmax(height - 0.5 * z.square().sum(2), dim=1)  # (N, K)
            own = of * counts[:, None]
            sums = own.sum(0) + 1e-6
            self.means = own.T @ values / sums[:, None]
            apart = (values[:, None] - self.means).square()
            spread = torch.einsum("nk,nkc->kc", own, apart) / sums[:, None]
            self.deviations = (spread + LEAST_DEVIATION**2).sqrt()
            self.shares = sums / sums.sum()
        precision = of @ self.deviations**-2
        return of @ (self.means / self.deviations**2) / precision, precision


def _polynomials(index: Tensor, first: int, last: int) -> Tensor:
    """(N, DEGREE + 1) Legendre polynomials, from -1 at `first` to 1 at `last`, constant beyond."""
    half = max(last - first, 1) / 2
    x = ((index - first) / half - 1).clamp(-1, 1).double().numpy()
    return torch.from_numpy(legvander(x, DEGREE))


def _least_squares(terms: Tensor, values: Tensor, weight: Tensor, stiffness: Tensor) -> Tensor:
    """(P,) weights of the terms without their weighted means; the classes fit a constant."""
    weighted = terms * weight[:, None]
    mean, total = weighted.sum(0), weight.sum()
    normal = terms.T @ weighted - torch.outer(mean, mean) / total + stiffness
    out: Tensor = torch.linalg.solve(normal, weighted.T @ values - mean * (weight @ values) / total)
    return out
