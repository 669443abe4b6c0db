"""Grids, smooth fields, pictures and a tiny checkpoint that several tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli.config import architecture as config
from hsyn_cli.io import checkpoints as weights
from hsyn_cli.method.di_net import DINet
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.space import Grid
from hsyn_cli.training.cache import Cache

EXAMPLES = Path(__file__).parents[1] / "examples" / "brain"


def turned(x: float, y: float, z: float) -> tuple[float, ...]:
    """The row-major matrix of a rotation by these angles in radians."""
    matrix: tuple[float, ...] = sitk.Euler3DTransform((0, 0, 0), x, y, z).GetMatrix()
    return matrix


LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
DIRECTIONS = {
    "LPS": LPS,
    "RAS": (-1.0, 0, 0, 0, -1, 0, 0, 0, 1),
    "flipped": (-1.0, 0, 0, 0, 1, 0, 0, 0, 1),  # a mirror: determinant -1
    "sagittal": (0.0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": turned(0.3, -0.2, 0.4),
    "oblique mirror": tuple(
        (np.reshape(turned(0.2, 0.3, -0.4), (3, 3)) * [1, -1, 1]).ravel().tolist()
    ),
}
GRIDS = {
    name: Grid((9, 12, 7), spacing, (-31.0, 12.5, 7.25), direction)
    for name, direction in DIRECTIONS.items()
    for spacing in [(1.5, 1.5, 1.5) if name == "LPS" else (1.2, 0.8, 2.5)]
}


def smooth_field(size: tuple[int, int, int], strain: float, seed: int, batch: int = 1) -> Tensor:
    """(batch, 3, Z, Y, X) for size (Z, Y, X): a few waves that fade towards the border; voxels.

    No difference between neighbours exceeds `strain`, so that below 1/3 nothing can fold.
    """
    rng = np.random.default_rng(seed)
    axes = [np.linspace(0, 1, n) for n in size]
    window = np.prod(np.meshgrid(*(np.sin(np.pi * a) for a in axes), indexing="ij"), axis=0)
    u = np.zeros((batch, 3, *size))
    for wave in rng.uniform(-1.5, 1.5, (4, 3)):
        phase = sum(
            2 * np.pi * w * a for w, a in zip(wave, np.meshgrid(*axes, indexing="ij"), strict=True)
        )
        for b, k in np.ndindex(batch, 3):
            u[b, k] += rng.normal() * np.sin(phase + rng.uniform(0, 6)) * window
    steepest = max(float(np.abs(np.diff(u, axis=axis)).max()) for axis in (2, 3, 4))
    return torch.from_numpy(u * (strain / steepest)).float()


def picture(size: tuple[int, int, int], seed: int = 0, batch: int = 1) -> Tensor:
    """(batch, 1, Z, Y, X) in [0, 1]: a smooth random picture."""
    coarse = torch.rand(
        batch, 1, *(max(3, n // 5) for n in size), generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def field_image(grid: Grid, values: np.ndarray) -> sitk.Image:
    """(Z, Y, X, 3) vectors in mm LPS as an image on `grid`."""
    return grid.stamp(
        sitk.GetImageFromArray(np.ascontiguousarray(values, np.float64), isVector=True)
    )


def voxel_points(grid: Grid) -> np.ndarray:
    """(Z, Y, X, 3): where each voxel lies, mm LPS."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    return grid.points(np.stack((x, y, z), axis=-1).astype(float))


def tiny_networks(spacing: float, flow: float = 0.0, seed: int = 0) -> tuple[SNNet, DINet]:
    """Two levels and DI-Net with a handful of channels.

    `flow`: standard deviation of the flow layers' weights; 0 leaves them as untrained.
    """
    torch.manual_seed(seed)
    levels = (
        config.Level(scale=4, stride=1, encoder=(4, 6), head=(4,), window=5),
        config.Level(scale=2, stride=1, encoder=(4, 6), head=(4,), window=5),
    )
    sn = SNNet(config.SNNetConfig(spacing, levels))
    di = DINet(config.DINetConfig(stride=2, encoder=(4, 6), head=(4,)))
    for net in (sn, di) if flow else ():
        for name, value in net.named_parameters():
            if "flow.weight" in name:
                torch.nn.init.normal_(value, std=flow)
    return sn, di


def tensors_of(sn: SNNet, di: DINet) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    nets = {"sn": sn, "di": di}
    return {
        f"{key}.{name}": value
        for key, net in nets.items()
        for name, value in net.state_dict().items()
    }


def save_checkpoint(path: Path, sn: SNNet, di: DINet) -> Path:
    """Write both networks as a checkpoint."""
    architecture = {"sn_net": config.to_dict(sn.config), "di_net": config.to_dict(di.config)}
    weights.save(path, tensors_of(sn, di), architecture)
    return path


def chest(
    breath: float = 0.0, direction: tuple[float, ...] = LPS, voxel: float = 4.0
) -> tuple[sitk.Image, sitk.Image]:
    """A chest CT in HU and its lungs: two ellipsoids with vessels in a body.

    Their lower end lies `breath` mm lower.
    """
    size = tuple(int(n / voxel) for n in (320, 240, 300))
    grid = Grid((size[0], size[1], size[2]), (voxel,) * 3, (-160.0, -120.0, -150.0), LPS)
    x, y, z = np.moveaxis(voxel_points(grid), -1, 0)
    depth = np.clip((90 - z) / 180, 0, 1)
    z = z + breath * depth  # the same anatomy, stretched downwards
    lungs = np.zeros(x.shape, bool)
    for side in (-70.0, 70.0):
        lungs |= ((x - side) / 50) ** 2 + (y / 80) ** 2 + (z / 95) ** 2 < 1
    values = np.where((x / 145) ** 2 + (y / 105) ** 2 < 1, 20.0, -1000.0)
    values = np.where(lungs, -830 + 130 * np.sin(x / 6) * np.sin(y / 7) * np.sin(z / 8), values)
    values += np.random.default_rng(0).normal(0, 8, values.shape)
    parts = [
        grid.stamp(sitk.GetImageFromArray(v))
        for v in (values.astype(np.float32), lungs.astype(np.uint8))
    ]
    for part in parts:  # turned as a whole, voxels and all
        part.SetDirection(direction)
    return parts[0], parts[1]


def balls(shape: tuple[int, int, int]) -> Cache:
    """Four scans, then four label maps with the ids 2, 3, 41: soft balls.

    They differ in place, size and contrast. `shape`: z, y, x.
    """
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    scans, maps = [], []
    for _ in range(4):
        cz, cy, cx = rng.uniform(-0.15, 0.15, 3)
        radius = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(0.9, 1.1)
        label = np.digitize(-radius, [-0.8, -0.5, -0.25]).astype(np.uint8)
        maps.append(label)
        scans.append(
            np.where(label > 0, 60 + 50 * label + 10 * np.sin(9 * radius), 0).astype(np.uint8)
        )
    blank = [np.zeros(shape, np.uint8)] * 4
    kinds = (True,) * 4 + (False,) * 4
    names = tuple(f"{k}.nii.gz" for k in range(8))
    return Cache(
        np.stack(scans + blank),
        np.stack(blank + maps),
        kinds,
        tuple(not k for k in kinds),
        (2, 3, 41),
        names,
    )


SIZE = (11, 8, 14)  # z, y, x


def constant(x: float, y: float, z: float, size: tuple[int, int, int] = SIZE) -> Tensor:
    return torch.tensor([x, y, z]).view(1, 3, 1, 1, 1).expand(1, 3, *size).contiguous()


INNER = (..., slice(3, -3), slice(3, -3), slice(3, -3))


def centred(size: tuple[int, int, int], spacing: float) -> Tensor:
    """(1, 3, Z, Y, X): each voxel's place in mm, components x, y, z.

    From the centre of the grid.
    """
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) - (n - 1) / 2 for n in size), indexing="ij")
    return torch.stack((x, y, z))[None] * spacing


def linear(matrix: np.ndarray, size: tuple[int, int, int] = SIZE, spacing: float = 1.0) -> Tensor:
    """u(x) = matrix x - x about the centre."""
    m = torch.from_numpy(np.asarray(matrix)).float() - torch.eye(3)
    return torch.einsum("ij,bjzyx->bizyx", m, centred(size, spacing))


def coarse_brain(name: str, mm: float) -> sitk.Image:
    """An image of the example pair, smoothed, on voxels of `mm`."""
    image = sitk.ReadImage(str(EXAMPLES / f"{name}.nii.gz"), sitk.sitkFloat32)
    smooth = sitk.SmoothingRecursiveGaussian(image, 0.4 * mm)
    x, y, z = (round(n * s / mm) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True))
    grid = replace(Grid.of(image), size=(x, y, z), spacing=(mm,) * 3)
    return sitk.Resample(smooth, grid.empty_image(sitk.sitkFloat32))
