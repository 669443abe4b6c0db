"""A registration of two tiny phantoms that must come out as expected, in a second or two."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

SIZE = (24, 28, 20)  # voxels x, y, z
VOXEL_MM = 4.0
SHIFT = 0.25  # of half the image: how far the moving phantom is bent
LEAST_DICE, LEAST_GAIN = 0.88, 0.1
MOST_ERROR_MM = 0.2  # of the inverse, mean; 0.05 is usual
MOST_APART_MM = 0.5  # between two ways to invert a field, mean
NETWORK_SIZE = 32  # voxels along each axis


def trial() -> Iterator[str]:
    """Yield a line for each thing that is not as expected."""
    import SimpleITK as sitk

    from hsyn_cli.method.register import register
    from hsyn_cli.tools.apply import apply_field
    from hsyn_cli.tools.compose import compose
    from hsyn_cli.tools.invert import invert

    (fixed, here), (moving, there) = phantom(0.0), phantom(SHIFT)
    result = register(moving, fixed, weights="none", affine="rigid", threads=1)
    warped = apply_field(there, result.forward_field, fixed, interpolation="nearest")
    before, after = dice(there, here), dice(warped, here)
    if not (after >= LEAST_DICE and after >= before + LEAST_GAIN):
        yield f"registered, the labels have a Dice of {after:.3f} (at first {before:.3f})"
    facts = result.facts
    if facts.folding.voxels or facts.inverse_folding.voxels:
        yield f"{facts.folding.voxels + facts.inverse_folding.voxels} voxels of the fields fold"
    error = max(facts.inverse_error_fixed.mean_mm, facts.inverse_error_moving.mean_mm)
    if not error <= MOST_ERROR_MM:
        yield f"the inverse field is off by {error:.3g} mm"
    trip = compose([result.forward_field, result.inverse_field], fixed)
    inside = sitk.GetArrayViewFromImage(here) > 0
    if not _length(sitk.GetArrayViewFromImage(trip))[inside].mean() <= MOST_ERROR_MM:
        yield "the fields of both ways, composed, do not lead back"
    inverse = invert(result.forward_field, moving, threads=1).inverse
    apart = sitk.GetArrayFromImage(inverse) - sitk.GetArrayFromImage(result.inverse_field)
    inside = sitk.GetArrayViewFromImage(there) > 0
    if not _length(apart)[inside].mean() <= MOST_APART_MM:
        yield "the inverse of the forward field is not the inverse field"
    yield from _written(result.forward_field, result.warped)


def networks(name: str) -> str:
    """What is wrong when the networks of a checkpoint run once, or "". Raises WeightsError."""
    import torch

    from hsyn_cli.method.networks import load_networks

    found = load_networks(name, torch.device("cpu"))
    noise = torch.rand(1, 1, *[NETWORK_SIZE] * 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = noise.new_zeros(2, 0, *noise.shape[2:])
        halves = torch.cat(found.sn(noise, noise.flip(2), 1, maps))
        numbers = (halves, found.sn.look(noise))
    fine = all(torch.isfinite(v).all() for v in numbers)
    return "" if fine else "its networks give no numbers"


def _written(field: sitk.Image, image: sitk.Image) -> Iterator[str]:
    """Write both, and read them again."""
    import SimpleITK as sitk

    from hsyn_cli.io.images import read_field, read_image
    from hsyn_cli.io.writing import write_image
    from hsyn_cli.space import Grid

    with tempfile.TemporaryDirectory(prefix="hsyn-") as folder:
        for name, made, read in (
            ("field.nii.gz", field, read_field),
            ("image.nrrd", image, read_image),
        ):
            path = Path(folder) / name
            write_image(made, path)
            again = read(path).image
            same = np.array_equal(*(sitk.GetArrayViewFromImage(v) for v in (made, again)))
            if not (same and Grid.of(again).same_as(Grid.of(made))):
                yield f"{name} is not read as it was written"


def phantom(bend: float) -> tuple[sitk.Image, sitk.Image]:
    """An ellipsoid with structure, and its labels 1 and 2; `bend` moves its inside."""
    import SimpleITK as sitk

    from hsyn_cli.space import Grid

    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE[::-1]), indexing="ij")
    near = bend * np.exp(-2 * (x**2 + y**2 + z**2))
    x, y = x + near * np.cos(2 * y), y - near * np.sin(2 * z)
    inside = (x / 0.7) ** 2 + (y / 0.75) ** 2 + (z / 0.7) ** 2 < 1
    waves = np.sin(6 * x) * np.cos(5 * y)
    values = np.where(inside, 100 + 30 * waves + 20 * np.sin(6 * z), 0).astype(np.float32)
    labels = np.where(inside, 1 + (waves > 0), 0).astype(np.uint8)
    grid = Grid(SIZE, (VOXEL_MM,) * 3, (40.0, 50.0, -30.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    image, ids = (grid.stamp(sitk.GetImageFromArray(v)) for v in (values, labels))
    return image, ids


def dice(one: sitk.Image, other: sitk.Image) -> float:
    """The mean Dice of the labels 1 and 2."""
    import SimpleITK as sitk

    a, b = (sitk.GetArrayViewFromImage(image) for image in (one, other))
    both = [
        2 * ((a == k) & (b == k)).sum() / max((a == k).sum() + (b == k).sum(), 1) for k in (1, 2)
    ]
    return float(np.mean(both))


def _length(vectors: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(vectors, axis=-1)
    return length
