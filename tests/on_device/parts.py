"""The parts of the method: networks, forces, refinement, repair, inverse, total fields, warps."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, field_image, picture, save_checkpoint, smooth_field
from torch import Tensor

from hsyn_cli.config.architecture import (
    DINetConfig,
    InputConfig,
    Level,
    SNNetConfig,
    Steps,
    TissueConfig,
)
from hsyn_cli.config.presets import RefineStage
from hsyn_cli.fields import repair as folds
from hsyn_cli.fields import sampling
from hsyn_cli.fields.change import measure_change
from hsyn_cli.fields.grids import resample_field, sample_mm
from hsyn_cli.fields.inverse import fixed_point_inverse, restart_elsewhere
from hsyn_cli.fields.totals import field_on, total_fields
from hsyn_cli.method import forces as force
from hsyn_cli.method import similarity
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.networks import invert_half, load_networks
from hsyn_cli.method.refine import refine
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.where import Where
from hsyn_cli.space import Grid, affine_parts
from hsyn_cli.tools.invert import invert

Results = list[Tensor]
SIZE = (16, 24, 20)  # z, y, x
VOXEL = 2.0
FOLDER = Path(tempfile.mkdtemp(prefix="hsyn-device-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
STEPS = Steps(2, momentum=0.5, step_sigma=1.0, field_sigma=0.7, calm=0.2, diffusion=0.3, tissue=4.0)
LEVEL = Level(4, 1, (4, 6), (4,), window=5, forces=True, steps=replace(STEPS, tissue=0.0))
LEVELS = (LEVEL, Level(2, 1, (4, 6), (4,), window=5, forces=True))
TISSUE = TissueConfig(({"2": 1.0, "3": 0.5}, {"41": 1.0}), encoder=(4, 6), head=(4,))
SN = SNNetConfig(VOXEL, LEVELS, tissue=TISSUE)
DI = DINetConfig(stride=2, encoder=(4, 6), head=(4,), repeats=2)


@functools.cache
def checkpoint() -> Path:
    """Networks of all kinds with a handful of channels."""
    torch.manual_seed(0)
    sn, di = SNNet(SN), DINet(DI)
    for net in (*sn.levels, di):
        for name, value in net.named_parameters():
            if "flow.weight" in name:
                torch.nn.init.normal_(value, std=0.5)
    return save_checkpoint(FOLDER / "tiny.safetensors", sn, di)


def _pair(device: str, channels: int = 1, batch: int = 2) -> Tensor:
    """(2, channels, *SIZE), dark around a ball."""
    axes = (np.linspace(-1, 1, n) for n in SIZE)
    radius = sum(np.square(v) for v in np.meshgrid(*axes, indexing="ij"))
    inside = torch.from_numpy((radius < 0.6).astype(np.float32))
    shown = [picture(SIZE, seed, batch) for seed in range(channels)]
    return (torch.cat(shown, 1) * inside).to(device)


def _field(device: str, strain: float, batch: int = 1, seed: int = 1) -> Tensor:
    return (VOXEL * smooth_field(SIZE, strain, seed, batch)).to(device)


def host(values: Iterable[Tensor]) -> Results:
    return [v.detach().cpu() for v in values]


def networks(device: str) -> Results:
    """SN-Net with its force steps, the tissue net, and DI-Net with the exact inverse."""
    sn, di, _ = load_networks(str(checkpoint()), torch.device(device))
    moving, fixed = _pair(device).chunk(2)
    with torch.no_grad():
        seen = sn.look(torch.cat((moving, fixed)))
        maps = moving.new_zeros(2, 0, *SIZE)
        u = sampling.resize_linear(torch.cat(sn(moving, fixed, None, maps)), torch.Size(SIZE))
        return host((seen, u, invert_half(di, u[:1] / 4, VOXEL)))


def forces(device: str) -> Results:
    """Of each similarity, of two channels beside a map, one of them weighted voxel by voxel."""
    a, b = _pair(device, 3, 1), _pair(device, 3, 2)[1:]
    weight = _pair(device, 1, 1)
    out: list[Tensor] = []
    for name in similarity.names():
        out += force.forces(a, b, 5, name, InputConfig(), [0.5, weight])
        value = similarity.find(name).value
        out += [value(a[:, :1], b[:, :1], 5), value(a[:, :1], b[:, :1], 5, weight)]
    return host(out)


def refinement(device: str) -> Results:
    """At two scales, with weights, and an image that lacks a part."""
    pair, counts = _pair(device, 3), torch.ones(2, 2, *SIZE, device=device)
    counts[0, :, :4] = 0
    shows = counts[:, :1].clone()
    start = torch.zeros(2, 3, *(n // 2 for n in SIZE), device=device)
    stages = (RefineStage(4 / 3, STEPS), RefineStage(1, STEPS))
    share: list[float] = []
    first = refine(
        start, pair, VOXEL, stages, Where(counts, shows), SNNetConfig(), share.append, (0.5, 0.5)
    )
    lone = torch.zeros(2, 1, 36, 34, 32, device=device)
    lone[0, :, 17:20, 16:19, 15:18] = lone[1, :, 16:19, 16:19, 15:18] = (
        1  # most of the grid is dark
    )
    lone_start = torch.zeros(2, 3, 36, 34, 32, device=device)
    calmless = RefineStage(1, replace(STEPS, calm=0.0, tissue=0.0))
    one_way = refine(start, pair, VOXEL, [calmless], config=SNNetConfig(symmetric=False))
    return host((first, one_way, refine(lone_start, lone, VOXEL, stages)))


def repair(device: str) -> Results:
    """Of fields that fold a little, and of fields that fold on the grid of an image."""
    u = _field(device, 1.6, 2)
    mended, count = folds.repair(u, VOXEL, 0.25)
    grid = Grid(SIZE[::-1], (1.5, 2.0, 2.5), (1.0, 2.0, 3.0), DIRECTIONS["oblique"])
    flat, few = folds.repair(2 * u[:, :, 8:9], VOXEL, 0.25)
    fields = (mended, flat, folds.unfolded(u[:1], grid, 3.0), folds.taper(u, 3.0, 4))
    return [*host(fields), torch.tensor([count, few])]


def inverse(device: str) -> Results:
    """With Newton's method at the voxels that need it, and of a field on another grid."""
    u = _field(device, 0.9)
    fold = torch.zeros(3, 16, 16, 16, device=device)
    fold[0, ..., 4:10] = torch.tensor([0.0, -1.0, -2.0, -1.5, -1.0, -0.5]).to(device)
    at, stuck = torch.tensor([[[4.5, 8, 8]], [[0.5, 0, 0]]]).to(device)
    left = stuck + sampling.sample_points(fold, at + stuck)[0]
    restart_elsewhere(fold, at, stuck, left, 0.005)
    out = host([fixed_point_inverse(u, VOXEL, -u, 0.001), stuck])
    grid = Grid(SIZE[::-1], (1.2, 1.5, 2.0), (-20.0, 12.0, 5.0), DIRECTIONS["oblique"])
    bent = smooth_field(SIZE, 1.3, 3)[0].movedim(0, -1).numpy()
    field = field_image(grid, bent @ grid.index_to_point.T)
    found = invert(field, tolerance=0.002, fit=True, device=device, threads=1)
    return [*out, *map(values, (found.inverse, found.residual_map))]


def values(image: sitk.Image) -> Tensor:
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float64))


AFFINE = sitk.AffineTransform((1.05, 0.1, 0, -0.1, 0.95, 0.05, 0, 0, 1.0), (2.0, -1.0, 1.0))


def composition(device: str) -> Results:
    """To total fields that fold at first, with their fit and all that is measured."""
    u, v = _field(device, 0.8), _field(device, 0.8, seed=2)
    size = (SIZE[2], SIZE[1], SIZE[0])
    working = Grid(size, (VOXEL,) * 3, (0.0, 0.0, 0.0), DIRECTIONS["RAS"])
    fixed = Grid(size, (1.4, 1.7, 1.9), (-3.0, -5.0, 3.0), DIRECTIONS["RAS"])
    moving = replace(fixed, spacing=(1.6, 1.6, 1.6))
    there = sampling.compose(u, v, VOXEL)
    totals = total_fields(there, -there, working, affine_parts(AFFINE), fixed, moving)
    contents = (np.ones(SIZE, bool), np.ones(SIZE, bool))
    contents[0][:, :3] = False
    settled = totals.settle(contents, 2)
    _, change = measure_change(totals, contents[0])
    measured = [f.min_det for f in settled.folding] + [e.mean_mm for e in settled.errors]
    told = torch.tensor([*measured, change.log_det_mean, change.max_mm])
    return [*host((totals.forward, totals.inverse, field_on(u, working, fixed))), told]


def resampling(device: str) -> Results:
    """Warps, resizes and samples of fields and images."""
    u, image = _field(device, 0.5), _pair(device)[:1]
    grid = Grid(SIZE[::-1], (VOXEL,) * 3, (0.0, 0.0, 0.0), DIRECTIONS["oblique"])
    target = replace(grid, size=(9, 12, 7), spacing=(2.5, 3.0, 1.5))
    points = resample_field(u, grid, target, np.eye(3), np.zeros(3))
    index = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)).to(device) * 15
    return host(
        (
            sampling.warp(image, u, VOXEL, "nearest"), sampling.warp(image, u, VOXEL), points,
            sample_mm(u, grid, points), *sampling.sample_points(u[0], index),
            sampling.sample_index(u, 5 + u), sampling.downsample(image, 2),
        )
    )  # fmt: skip
