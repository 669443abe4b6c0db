"""What runs on a device, as checks: each takes "cpu" or "cuda" and returns what it computed there.

`test_device.py` runs each on the CPU and on the pretend device.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, balls, chest, field_image, picture, save_checkpoint, smooth_field
from torch import Tensor

from hsyn_cli.anatomy.intensity import resample_image, resample_mask
from hsyn_cli.config.architecture import (
    DINetConfig,
    InputConfig,
    Level,
    SNNetConfig,
    Steps,
    TissueConfig,
)
from hsyn_cli.config.presets import RefineStage
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.fields import repair as folds
from hsyn_cli.fields import sampling
from hsyn_cli.fields.change import measure_change
from hsyn_cli.fields.grids import resample_field, sample_mm
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.totals import field_on, total_fields
from hsyn_cli.method import forces as force
from hsyn_cli.method import similarity
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.networks import invert_half, load_networks
from hsyn_cli.method.refine import refine
from hsyn_cli.method.register import register
from hsyn_cli.method.result import Registration
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.method.where import Where
from hsyn_cli.space import Grid
from hsyn_cli.tools.invert import invert
from hsyn_cli.training import breathing, loop, phases, runs
from hsyn_cli.training.cache import Cache
from hsyn_cli.training.pairs import PairSource

Results = list[Tensor]
SIZE = (16, 24, 20)  # z, y, x
VOXEL = 2.0
FOLDER = tempfile.TemporaryDirectory(prefix="hsyn-device-")
STEPS = Steps(
    2, momentum=0.5, step_sigma=1.0, field_sigma=0.7, calm=0.2, diffusion=0.3, tissue=4.0
)
LEVEL = Level(4, 1, (4, 6), (4,), window=5, forces=True, steps=STEPS)
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
    return save_checkpoint(Path(FOLDER.name) / "tiny.safetensors", sn, di)


def _pair(device: str, channels: int = 1, batch: int = 2) -> Tensor:
    """(2, channels, *SIZE), dark around a ball."""
    axes = (np.linspace(-1, 1, n) for n in SIZE)
    radius = sum(np.square(v) for v in np.meshgrid(*axes, indexing="ij"))
    inside = torch.from_numpy((radius < 0.6).astype(np.float32))
    shown = [picture(SIZE, seed, batch) for seed in range(channels)]
    return (torch.cat(shown, 1) * inside).to(device)


def _field(device: str, strain: float, batch: int = 1, seed: int = 1) -> Tensor:
    return (VOXEL * smooth_field(SIZE, strain, seed, batch)).to(device)


def _host(values: Iterable[Tensor]) -> Results:
    return [v.detach().cpu() for v in values]


def networks(device: str) -> Results:
    """SN-Net with its force steps, the tissue net, and DI-Net with the exact inverse."""
    sn, di, _ = load_networks(str(checkpoint()), torch.device(device))
    moving, fixed = _pair(device).chunk(2)
    with torch.no_grad():
        seen = sn.look(torch.cat((moving, fixed)))
        maps = moving.new_zeros(2, 0, *SIZE)
        u = sampling.resize_linear(torch.cat(sn(moving, fixed, None, maps)), torch.Size(SIZE))
        return _host((seen, u, invert_half(di, u[:1] / 4, VOXEL)))


def forces(device: str) -> Results:
    """Of each similarity, of two channels beside a map, one of them weighted voxel by voxel."""
    a, b = _pair(device, 3, 1), _pair(device, 3, 2)[1:]
    weight = _pair(device, 1, 1)
    out: list[Tensor] = []
    for name in similarity.names():
        out += force.forces(a, b, 5, name, InputConfig(), [0.5, weight])
        value = similarity.find(name).value
        out += [value(a[:, :1], b[:, :1], 5), value(a[:, :1], b[:, :1], 5, weight)]
    return _host(out)


def refinement(device: str) -> Results:
    """At two scales, with a border, weights, and an image that lacks a part."""
    pair, counts = _pair(device, 3), torch.ones(2, 2, *SIZE, device=device)
    counts[0, :, :4] = 0
    shows = counts[:, :1].clone()
    start = torch.zeros(2, 3, *(n // 2 for n in SIZE), device=device)
    stages = (RefineStage(4 / 3, STEPS), RefineStage(1, STEPS))
    share: list[float] = []
    first = refine(
        start, pair, VOXEL, stages, Where(counts, shows), SNNetConfig(), share.append, 2, (0.5, 0.5)
    )
    return _host((first, refine(start, pair[:, :1], VOXEL, stages, config=replace(SN, levels=()))))


def repair(device: str) -> Results:
    """Of fields that fold a little, and of fields that fold on the grid of an image."""
    u = _field(device, 1.6, 2)
    mended, count = folds.repair(u, VOXEL, 0.25)
    grid = Grid(SIZE[::-1], (1.5, 2.0, 2.5), (1.0, 2.0, 3.0), DIRECTIONS["oblique"])
    return _host((mended, folds.unfolded(u[:1], grid, 3.0), folds.taper(u, 4))) + [
        torch.tensor(count)
    ]


def inverse(device: str) -> Results:
    """With Newton's method at the voxels that need it, and of a field on another grid."""
    u = _field(device, 0.9)
    out = _host([fixed_point_inverse(u, VOXEL, -u, 0.001)])
    grid = Grid(SIZE[::-1], (1.2, 1.5, 2.0), (-20.0, 12.0, 5.0), DIRECTIONS["oblique"])
    bent = smooth_field(SIZE, 1.3, 3)[0].movedim(0, -1).numpy()
    field = field_image(grid, bent @ grid.index_to_point.T)
    found = invert(field, tolerance=0.002, fit=True, device=device, threads=1)
    return [*out, *map(_values, (found.inverse, found.residual_map))]


def _values(image: sitk.Image) -> Tensor:
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
    totals = total_fields(there, -there, working, AFFINE, fixed, moving)
    contents = (np.ones(SIZE, bool), np.ones(SIZE, bool))
    contents[0][:, :3] = False
    settled = totals.settle(contents, 2)
    _, change = measure_change(totals, contents[0])
    measured = [f.min_det for f in settled.folding] + [e.mean_mm for e in settled.errors]
    told = torch.tensor([*measured, change.log_det_mean, change.max_mm])
    return [*_host((totals.forward, totals.inverse, field_on(u, working, fixed))), told]


def resampling(device: str) -> Results:
    """Warps, resizes and samples of fields and images."""
    u, image = _field(device, 0.5), _pair(device)[:1]
    grid = Grid(SIZE[::-1], (VOXEL,) * 3, (0.0, 0.0, 0.0), DIRECTIONS["oblique"])
    target = replace(grid, size=(9, 12, 7), spacing=(2.5, 3.0, 1.5))
    points = resample_field(u, grid, target, np.eye(3), np.zeros(3))
    index = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)).to(device) * 15
    return _host(
        (
            sampling.warp(image, u, VOXEL, "nearest"), sampling.warp(image, u, VOXEL), points,
            sample_mm(u, grid, points), *sampling.sample_points(u[0], index),
            sampling.sample_index(u, 5 + u), sampling.downsample(image, 2),
        )
    )  # fmt: skip


PARTS: tuple[Callable[[str], Results], ...] = (
    networks, forces, refinement, repair, inverse, composition, resampling,
)  # fmt: skip


def _image(grid: Grid, centre: tuple[float, float, float], seed: int = 7) -> sitk.Image:
    """An ellipsoid with texture, zero outside."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    d = (grid.points(np.stack((x, y, z), -1).astype(float)) - centre) / [20, 24, 18]
    texture = picture((25, 25, 25), seed)[0, 0].double().numpy()
    at = (np.clip((d + 1) / 2, 0, 1) * 24).round().astype(int)
    values = 50 + 100 * texture[at[..., 2], at[..., 1], at[..., 0]]
    image = sitk.GetImageFromArray(np.where((d**2).sum(-1) < 1, values, 0).astype(np.float32))
    return sitk.Cast(sitk.SmoothingRecursiveGaussian(grid.stamp(image), 2.0), sitk.sitkFloat32)


GRID = Grid((24, 28, 22), (VOXEL,) * 3, (-24.0, -28.0, -22.0), DIRECTIONS["LPS"])


@functools.cache
def _images(seed: int = 7) -> tuple[sitk.Image, sitk.Image]:
    return _image(GRID, (3.0, -2.0, 1.0), seed), _image(GRID, (0.0, 0.0, 0.0), seed)


def _chained(device: str, *, moving: object = None, fixed: object = None, **more: object) -> Results:
    """A registration's fields and what else it computes."""
    usual = {"preset": "fast", "affine": "none", "weights": "none", "threads": 1, "device": device}
    images = _images() if moving is None else (moving, fixed)
    found: Registration = register(*images, **{**usual, **more})  # type: ignore[arg-type]
    half = found.midspace
    shown = [found.forward_field, found.inverse_field, found.warp_field, found.inverse_warp_field]
    return [_values(image) for image in (*shown, found.warped, half.moving)]


def fast(device: str) -> Results:
    return _chained(device, weights=str(checkpoint()))


def default(device: str) -> Results:
    return _chained(device, weights=str(checkpoint()), preset="default")


def accurate(device: str) -> Results:
    return _chained(device, preset="accurate", smoothness=0.5)


def channels(device: str) -> Results:
    first, second = _images(), _images(8)
    weights = (2.0, 1.0)
    return _chained(
        device, moving=[first[0], second[0]], fixed=[first[1], second[1]], channel_weights=weights
    )


def masks(device: str) -> Results:
    """Masks of both images, and a lesion."""
    moving, fixed = _images()
    (here, there), lesion = (image > 20 for image in (moving, fixed)), fixed > 90
    return _chained(device, moving_mask=here, fixed_mask=there, fixed_lesion=lesion)


def cut(device: str) -> Results:
    """An image that its border cuts, so that the other one stands in."""
    moving, fixed = _images()
    return _chained(device, moving=moving, fixed=fixed[:, :, 8:], preset="default")


def slices(device: str) -> Results:
    moving, fixed = (image[:, :, 11] for image in _images())
    return _chained(device, moving=moving, fixed=fixed, preset="default")


def contrast(device: str) -> Results:
    """Images of different contrast, which are given one after steps along MIND."""
    moving, fixed = _images()
    inside = sitk.Cast(moving > 20, sitk.sitkFloat32)
    return _chained(device, moving=(200 - moving) * inside, fixed=fixed)


def affine(device: str) -> Results:
    return _chained(device, transform="translation", affine="affine")


CHAINS: tuple[Callable[[str], Results], ...] = (
    fast, default, accurate, channels, masks, cut, slices, contrast, affine,
)  # fmt: skip

SHAPE = (16, 24, 20)
TRAINING = Training(
    sn_net=replace(SN, spacing=1.0), di_net=DI, size=SHAPE[::-1], log_every=1, validate_every=2,
    precision="float32", seed=3, di_steps=2, tissue_steps=2, tissue_crop=(16, 16, 16), batch=2,
    intensities={"2": 0.3, "3": 0.6, "41": 0.9}, background_noise=0.5, thick_share=0.5,
    stages=(Stage(0, 1, 2, 3e-3, look=2), Stage(1, 2, 2, 2e-3, crop=(8, 8, 8))),
)  # fmt: skip


def _trained(device: str, training: Training, cache: Cache) -> Results:
    """All phases; stopped after each record, saved, and gone on with."""
    run = runs.RunFolder(Path(tempfile.mkdtemp(dir=FOLDER.name)))
    told: list[float] = []
    state, place, bf16 = loop.State(), torch.device(device), training.precision == "bfloat16"

    def keep(state: loop.State) -> None:
        runs.save_state(run, training, networks, state)

    while True:
        networks = phases.build(training, place, bf16)
        if run.state.exists():
            state = runs.load_state(run, training, networks)
        todo = phases.phases(training, networks, PairSource(cache, training, place))
        if state.phase == len(todo):
            return [torch.tensor(told), *_host(networks.tensors().values())]
        records = loop.run(todo, networks, state, training, keep, save_every=0.0)
        record = next(records, {})
        keep(state)
        told += [float(v) for k, v in record.items() if k == "loss" or k.startswith("val_")]


def training(device: str) -> Results:
    return _trained(device, TRAINING, balls(SHAPE))


def bfloat16(device: str) -> Results:
    """A step of each phase with convolutions in bfloat16, whose gradients differ run by run."""
    place = torch.device(device)
    networks = phases.build(TRAINING, place, bf16=True)
    source, out = PairSource(balls(SHAPE), TRAINING, place), []
    for phase in phases.phases(TRAINING, networks, source):
        out += loop.step(phase, torch.optim.Adam(phase.parameters), 0, 1).values()
    return [torch.tensor([len(out), *(v.dim() for v in _host(out))])]


def breaths(device: str) -> Results:
    """Chests that breathe."""
    parts = [chest(mm, voxel=14.0) for mm in (0.0, 20.0)]
    grid = Grid.of(parts[0][0])
    images = np.stack([255 * resample_image(v, grid)[0, 0].clamp(0, 1).numpy() for v, _ in parts])
    lungs = np.stack([resample_mask(v, grid)[0, 0].numpy() for _, v in parts])
    labelled = Cache(
        images.astype(np.uint8), lungs.astype(np.uint8), (True,) * 2, (True,) * 2, (1,), ("a", "b")
    )
    sn = replace(SN, spacing=14.0, organ="lung", tissue=None)
    training = replace(
        TRAINING, sn_net=sn, size=grid.size, tissue_steps=0, breathing=0.7, cut_share=0.5,
        truth=0.1, intensities=None, stages=(Stage(0, 1, 3, 3e-3),), di_steps=0,
    )  # fmt: skip
    random = torch.randn(breathing.NUMBERS, generator=torch.Generator().manual_seed(0))
    there = [torch.from_numpy(v[:1, None] / m).float().to(device)
             for v, m in ((images, 255), (lungs, 1))]  # fmt: skip
    made = breathing.breathe(*(v[:, :, :20, :16, :22] for v in there), 14.0, 20.0, random)
    return [*_trained(device, training, labelled), *_host((made.fixed, made.truth))]


LOOPS: tuple[Callable[[str], Results], ...] = (training, bfloat16, breaths)
