"""Whole registrations, from images to total fields, and what a result computes when asked."""

from __future__ import annotations

import functools
from dataclasses import replace
from unittest import mock

import numpy as np
import SimpleITK as sitk
from samples import DIRECTIONS, picture

from hsyn_cli.config.architecture import NO_NETS
from hsyn_cli.method import networks
from hsyn_cli.method.register import register
from hsyn_cli.method.result import Registration
from hsyn_cli.space import Grid
from on_device.parts import VOXEL, Results, checkpoint, values


def _image(grid: Grid, centre: tuple[float, float, float], seed: int = 7) -> sitk.Image:
    """An ellipsoid with texture, zero outside."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    d = (grid.points(np.stack((x, y, z), -1).astype(float)) - centre) / [20, 24, 18]
    texture = picture((25, 25, 25), seed)[0, 0].double().numpy()
    at = (np.clip((d + 1) / 2, 0, 1) * 24).round().astype(int)
    values = 50 + 100 * texture[at[..., 2], at[..., 1], at[..., 0]]
    image = sitk.GetImageFromArray(np.where((d**2).sum(-1) < 1, values, 0).astype(np.float32))
    return sitk.Cast(sitk.SmoothingRecursiveGaussian(grid.stamp(image), 2.0), sitk.sitkFloat32)


FEW = [replace(level, steps=replace(level.steps, steps=3)) for level in NO_NETS.levels]
FEW_STEPS = replace(NO_NETS, levels=tuple(FEW))
GRID = Grid((24, 28, 22), (VOXEL,) * 3, (-24.0, -28.0, -22.0), DIRECTIONS["LPS"])


@functools.cache
def _images(seed: int = 7) -> tuple[sitk.Image, sitk.Image]:
    return _image(GRID, (3.0, -2.0, 1.0), seed), _image(GRID, (0.0, 0.0, 0.0), seed)


def _chained(device: str, images: object = None, **more: object) -> Results:
    """A registration's fields, the moving image as warped, and what else it computes."""
    usual = {"preset": "fast", "affine": "none", "weights": "none", "threads": 1, "device": device}
    with mock.patch.object(networks, "NO_NETS", FEW_STEPS):
        found: Registration = register(*(images or _images()), **{**usual, **more})
    shown = (found.forward_field, found.inverse_field, found.warp_field, found.inverse_warp_field)
    return [values(image) for image in (*shown, found.warped, found.midspace.moving)]


def fast(device: str) -> Results:
    return _chained(device, weights=str(checkpoint()))


def default(device: str) -> Results:
    return _chained(device, weights=str(checkpoint()), preset="default")


def channels(device: str) -> Results:
    first, second = _images(), _images(8)
    return _chained(device, zip(first, second, strict=True), channel_weights=(2.0, 1.0))


def masks(device: str) -> Results:
    """Masks of both images, and a lesion."""
    moving, fixed = _images()
    (here, there), lesion = (image > 20 for image in (moving, fixed)), fixed > 90
    return _chained(device, moving_mask=here, fixed_mask=there, fixed_lesion=lesion)


def cut(device: str) -> Results:
    """An image that its border cuts, so that the other one stands in."""
    moving, fixed = _images()
    return _chained(device, (moving, fixed[:, :, 8:]), preset="default")


def slices(device: str) -> Results:
    moving, fixed = (image[:, :, 11] for image in _images())
    return _chained(device, (moving, fixed), preset="default")


def contrast(device: str) -> Results:
    """Images of different contrast, which are given one after steps along MIND."""
    moving, fixed = _images()
    inside = sitk.Cast(moving > 20, sitk.sitkFloat32)
    return _chained(device, ((200 - moving) * inside, fixed))


def affine(device: str) -> Results:
    return _chained(device, transform="translation", affine="affine")
