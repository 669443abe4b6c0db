"""Bias fields: drifts of a tissue's brightness, estimated and removed before all other steps."""

from __future__ import annotations

import itertools

import SimpleITK as sitk
import torch
from numpy.polynomial.legendre import legvander
from torch import Tensor

from hsyn_cli.anatomy.intensity import read_intensities, without
from hsyn_cli.space import Grid, shrink_factors

LOOK_MM = 4.0  # voxel size of the estimate
CONTENT_EDGE_MM = 8.0  # deeper inside the content, its edges have no effect
DARKEST = 0.05  # of the range; darker voxels are background
DEGREE = 6  # of the polynomial
CLASSES, ROUNDS = 3, 12
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
    gain = sitk.Exp(field * -share)
    gain = sitk.Resample(
        gain, image, sitk.Transform(), sitk.sitkLinear, 1.0, sitk.sitkFloat32, True
    )
    return image + sitk.Maximum(image - low, 0.0) * (gain - 1.0)


def _log_bias(
    image: sitk.Image, lesion: sitk.Image | None, part: sitk.Image | None
) -> tuple[sitk.Image, float, float] | None:
    """The log bias field on LOOK_MM voxels, its deviation in the content, and the grey value zero.

    None if there is too little content. Van Leemput et al., IEEE TMI 18(10), 1999: intensities are
    a mixture of Gaussians times a polynomial, and each is fitted in turn to what the other leaves.
    Sizes of tensors: N voxels, K classes, P terms.
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
    ends = [(int(i.min()), int(i.max())) for i in index]
    every = -(-len(index[0]) // MOST_VOXELS)
    index = tuple(i[::every] for i in index)
    log = values[index].log()  # (N,)
    powers = itertools.product(range(DEGREE + 1), repeat=3)
    degrees = torch.tensor([d for d in powers if 0 < sum(d) <= DEGREE])  # (P, 3)
    along = [_polynomials(i, *e)[:, d] for i, e, d in zip(index, ends, degrees.T, strict=True)]
    terms = along[0] * along[1] * along[2]  # (N, P)
    stiffness = torch.diag(degrees.square().sum(1).double() ** 2) * (STIFFNESS * len(log))
    bias, classes = torch.zeros_like(log), _Mixture(log)
    for _ in range(ROUNDS):
        expected, precision = classes.fitted(log - bias)
        weights = _least_squares(terms, log - expected, precision / precision.mean(), stiffness)
        bias = terms @ weights
        middle = bias.mean()
        bias -= middle
    axes = [_polynomials(torch.arange(n), *e) for n, e in zip(values.shape, ends, strict=True)]
    cube = log.new_zeros((DEGREE + 1,) * 3)
    cube[tuple(degrees.T)] = weights
    field = torch.einsum("ijk,zi,yj,xk->zyx", cube, *axes)
    field.sub_(middle).clamp_(bias.min(), bias.max())
    out = sitk.GetImageFromArray(field.float().numpy())
    out.CopyInformation(small)
    return out, float(bias.std()), low


class _Mixture:
    """K Gaussians, which start on equal shares of `values`."""

    def __init__(self, values: Tensor) -> None:
        ranks = ((torch.arange(CLASSES) + 0.5) / CLASSES * len(values)).long()
        self.means = values.sort().values[ranks]
        self.deviations = (values.std() / CLASSES + 0.05).expand(CLASSES)
        self.shares = torch.full_like(self.means, 1 / CLASSES)

    def fitted(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Expected value of each voxel (N,) and its precision (N,), after three rounds of EM."""
        for _ in range(3):
            z = (values[:, None] - self.means) / self.deviations
            height = (self.shares / self.deviations + 1e-9).log()
            of = torch.softmax(height - 0.5 * z * z, dim=1)  # (N, K)
            counts = of.sum(0) + 1e-6
            self.means = of.T @ values / counts
            spread = (of * (values[:, None] - self.means).square()).sum(0) / counts
            self.deviations = (spread + LEAST_DEVIATION**2).sqrt()
            self.shares = counts / counts.sum()
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
