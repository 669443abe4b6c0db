"""Composed steps along the forces: half-way fields that are diffeomorphic by construction. Ours.

Each step is a map of its own, too short to fold, and the fields so far are composed with it:
u <- s + u o (id + s). SN-Net's levels start with such steps, and the refinement takes more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hsyn_cli.anatomy.tensors import Part
from hsyn_cli.config.architecture import SNNetConfig, Steps
from hsyn_cli.devices import return_memory
from hsyn_cli.fields.regularity import less_divergence, smoothed_where_flat
from hsyn_cli.fields.sampling import Voxels, warp
from hsyn_cli.fields.slabs import ON_GPU, each_slab
from hsyn_cli.fields.smoothing import box_operator, gaussian, resize_smooth, separable
from hsyn_cli.method import similarity
from hsyn_cli.method.forces import forces
from hsyn_cli.method.where import Where, stand_in, told, usual_contrast

PLAIN = SNNetConfig()
EVERYWHERE = Where()
SLAB = 400_000  # voxels of one image in one slab
LARGE = 8_000_000  # voxels of a grid; on larger ones, each step starts with little memory kept
NEAR = 6  # voxels around content in which the forces of all steps act
MOST = 0.7  # of the grid; a list of more voxels saves nothing


@torch.no_grad()
def pull(
    pair: Tensor,
    u: Tensor,
    voxel: float,
    steps: Steps,
    *,
    config: SNNetConfig = PLAIN,
    where: Where = EVERYWHERE,
    channels: Sequence[float] = (1.0,),
    step_done: Callable[[], None] = lambda: None,
) -> Tensor:
    """Half-way fields after `steps` from `u`: the mean of both forces pulls both images together.

    Both halves take the same step, in opposite directions. What the mean space still drifts is
    taken back at the end (see `centre`). Momentum is Polyak's heavy ball (USSR Computational
    Mathematics and Mathematical Physics 1964). Overshoot of the forces cancels, and the rest adds
    up. After each step, the fields become smoother where the images have little contrast, and their
    volume change becomes smoother everywhere (see `fields.regularity`).

    Args:
        pair: (2B, N + C, Z, Y, X) in [0, 1], moving images first, each with N channels and C maps.
            voxel: its voxel in mm.
        u: (2B, 3, ...) in mm, mid to moving first, on voxels as fine as the pair's or coarser.
        config: its `symmetric` (False moves the moving images alone), `similarity` and `inputs`.
        where: the images count and show what the other has. Warped by the first `u`.
        channels: N weights, with the sum 1.
        step_done: called after each step.
    """
    u = resize_smooth(u, pair.shape[2:]).clone(memory_format=torch.contiguous_format)
    weight = where.weight(u, voxel)
    lacks = where.lacks(u, voxel)
    pair = pair if steps.tissue else pair[:, : len(channels)]
    of_step = gaussian(pair, pair.shape[2:], steps.step_sigma)
    blur = [mm / voxel for mm in where.blur]
    to_moving, to_fixed = (1.0, -1.0) if config.symmetric else (2.0, 0.0)
    voxels = _lively(_brightest(pair, channels), u, voxel)
    motion, usual = torch.zeros_like(u[: len(u) // 2]), None
    for _ in range(steps.steps):
        if u[0, 0].numel() > LARGE:
            return_memory()
        seen = stand_in(_seen(pair, u, voxel, voxels), lacks)
        force, contrast = _pulls(seen, voxel, steps, config, channels, weight)
        if weight is not None:
            force *= weight[:, :1]
            contrast *= weight[:, :1]
        if steps.calm and usual is None:
            noise, middle = usual_contrast(contrast, _brightest(seen, channels), weight)
            usual = noise, steps.calm * middle + where.doubt * noise
        del seen
        for moved, pulled in zip(_parts(motion), _parts(force), strict=True):
            moved.mul_(steps.momentum).add_(separable(pulled, of_step))
        del force
        for half, way in zip(u.chunk(2), (to_moving, to_fixed), strict=True):
            compose_into(half, way * motion, voxel, voxels)
        _smooth(u, steps, None if usual is None else told(contrast, *usual), blur)
        step_done()
    if config.symmetric:
        centre(u, voxel)
    return u


def centre(u: Tensor, voxel: float) -> None:
    """Move the mean space of half-way fields (2B, 3, Z, Y, X) in mm to the middle of the pair.

    There, both halves are opposite, to first order in their mean. The whole map between the images
    stays. Changes u.
    """
    of_moving, of_fixed = u.chunk(2)
    back = (of_moving + of_fixed).div_(-2)
    for half in (of_moving, of_fixed):
        compose_into(half, back, voxel)


def compose_into(u: Tensor, s: Tensor, voxel: float, voxels: Voxels | None = None) -> None:
    """u <- s + u o (id + s), (B, 3, Z, Y, X) in mm, u contiguous.

    Args:
        voxels: those that `s` moves; None: all.
    """
    if voxels is None:
        u.copy_(warp(u, s, voxel).add_(s))
        return
    steps = voxels.values(s)
    voxels.put(u, voxels.sample(u, steps, voxel).add_(steps))


def _parts(fields: Tensor) -> Sequence[Tensor]:
    """Views of (B, C, Z, Y, X): of large fields, one component after the other to save memory."""
    return fields.chunk(fields.shape[1] if fields[0, 0].numel() > SLAB else 1, dim=1)


def _smooth(u: Tensor, steps: Steps, say: Tensor | None, blur: Sequence[float]) -> None:
    """Smooth half-way fields after a step, in place; see `fields.regularity` for `say`."""
    sigma = [math.hypot(steps.field_sigma, s) for s in blur]
    of_field = gaussian(u, u.shape[2:], sigma)
    for half in u.chunk(2):
        for part in _parts(half):
            if say is None:
                part.copy_(separable(part, of_field))
            else:
                part.copy_(smoothed_where_flat(part, say, sigma, blur))
        if steps.diffusion:
            half.copy_(less_divergence(half, steps.diffusion))


def _seen(pair: Tensor, u: Tensor, voxel: float, voxels: Voxels | None) -> Tensor:
    """The pair as warped by `u`; empty but for the `voxels`, if given."""
    if voxels is None:
        return warp(pair, u, voxel)
    out = torch.zeros_like(pair)
    voxels.put(out, voxels.sample(pair, voxels.values(u), voxel))
    return out


def _pulls(
    seen: Tensor,
    voxel: float,
    steps: Steps,
    config: SNNetConfig,
    channels: Sequence[float],
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The mean force on the moving images in mm (B, 3, Z, Y, X), and the contrast (B, 1, Z, Y, X).

    The contrast is the local variance of the mean of both images, or, where their contrasts differ,
    the mean of both variances; of several channels, the weighted mean.
    """
    moving, fixed = seen.chunk(2)
    force = moving.new_zeros(len(moving), 3, *moving.shape[2:])
    contrast = torch.zeros_like(moving[:, :1])
    measure = similarity.find(config.similarity)
    beyond = max(measure.reach(steps.window), steps.window // 2) + 1

    of_moving, of_fixed = _brightest(seen, channels).chunk(2)

    def work(first: int, last: int) -> None:
        part = _content(of_moving, of_fixed, first, last, beyond)
        if part is None:
            return
        z, y, x = part
        a, b = (
            _weighted(image[..., z, y, x], steps.tissue, len(channels)) for image in (moving, fixed)
        )
        inner = slice(first - z.start, last - z.start)
        local = _local(channels, None if weight is None else weight[..., z, y, x])
        forward, backward = forces(a, b, steps.window, config.similarity, config.inputs, local)
        pulled = forward.sub_(backward).mul_(steps.rate * voxel / 2)
        force[:, :, first:last, y, x] = pulled[:, :, inner]
        for share, one, other in zip(local, a.split(1, 1), b.split(1, 1), strict=False):
            spread = _contrast(one, other, steps.window, measure.same_contrast) * share
            contrast[:, :, first:last, y, x].add_(spread[:, :, inner])

    each_slab(work, moving.shape[2], _deep(moving), moving.device)
    return force, contrast


def _local(channels: Sequence[float], counts: Tensor | None) -> list[float | Tensor]:
    """The weight of each channel; a (B, 1, Z, Y, X) tensor where its own border cuts it."""
    if counts is None or counts.shape[1] == 1:
        return list(channels)
    return [channels[0], *(w * counts[:, k : k + 1] for k, w in enumerate(channels[1:], 1))]


def _contrast(a: Tensor, b: Tensor, window: int, same: bool) -> Tensor:
    """The local variance of the mean of two images, or the mean of both where contrasts differ."""
    if same:
        return _variance((a + b) / 2, window)
    return (_variance(a, window) + _variance(b, window)).div_(2)


def _variance(image: Tensor, window: int) -> Tensor:
    """The variance in the window around each voxel, same shape."""
    box = box_operator(image, window)
    mean = separable(image, box)
    return separable(image.square(), box).addcmul_(mean, mean, value=-1).clamp_min_(0)


def _weighted(images: Tensor, weight: float, n: int) -> Tensor:
    """Images (B, n + C, Z, Y, X) whose C maps count `weight` times in a squared difference."""
    if images.shape[1] == n:
        return images
    return torch.cat((images[:, :n], images[:, n:] * weight**0.5), dim=1)


def _brightest(images: Tensor, channels: Sequence[float]) -> Tensor:
    """(B, 1, Z, Y, X): the largest of the channels that count; 0 where all are empty."""
    used = [k for k, weight in enumerate(channels) if weight]  # the first is among them
    return images[:, :1] if len(used) == 1 else images[:, used].amax(1, keepdim=True)


def _lively(pair: Tensor, u: Tensor, voxel: float) -> Voxels | None:
    """The voxels near content of (2B, 1, Z, Y, X) images; None if that is most of the grid.

    Away from content, warped images stay empty, and no force acts.
    """
    full = (warp(pair, u, voxel) > 0).any(0, keepdim=True).float()
    near = separable(full, box_operator(full, 2 * NEAR + 1))[0, 0] > 1e-6
    return Voxels.of(near) if near.count_nonzero() < MOST * near.numel() else None


def _deep(images: Tensor) -> int:
    """Voxels along z in one slab; each thread gets as many slabs."""
    count, threads = images[0, 0].numel(), torch.get_num_threads()
    if images.device.type != "cpu":
        return math.ceil(images.shape[2] / math.ceil(count / ON_GPU))
    if count < SLAB / 4:
        return images.shape[2]
    return math.ceil(images.shape[2] / (threads * math.ceil(count / (SLAB * threads))))


def _content(moving: Tensor, fixed: Tensor, first: int, last: int, beyond: int) -> Part | None:
    """The part around a slab that its forces depend on: all that is not empty, and `beyond`.

    On a GPU, all: the host would wait for the answer longer than what is empty takes.
    """
    if moving.device.type != "cpu":
        return _whole(moving, fixed, first, last, beyond)
    low, high = max(first - beyond, 0), min(last + beyond, moving.shape[2])
    full = (moving[:, 0, low:high] + fixed[:, 0, low:high]).gt(0).flatten(0, 1).any(0)
    part = _box(full, low, high)
    if part is None:
        return None
    _, y, x = part
    return part[0], _grown(y, 2 * beyond, full.shape[0]), _grown(x, 2 * beyond, full.shape[1])


def _whole(moving: Tensor, fixed: Tensor, first: int, last: int, beyond: int) -> Part:
    """All of a slab, and `beyond`."""
    low, high = max(first - beyond, 0), min(last + beyond, moving.shape[2])
    return slice(low, high), slice(0, moving.shape[3]), slice(0, moving.shape[4])


def _box(full: Tensor, first: int, last: int) -> Part | None:
    """The slices of planes first to last around what is True in (Y, X)."""
    sides = [full.any(k).nonzero() for k in (1, 0)]
    if not len(sides[0]):
        return None
    y, x = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return slice(first, last), y, x


def _grown(side: slice, by: int, size: int) -> slice:
    return slice(max(side.start - by, 0), min(side.stop + by, size))
