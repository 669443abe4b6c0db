#!/usr/bin/env python3
"""Draw a picture of a registration from the folder that `hsyn register` wrote. Needs matplotlib.

    python examples/picture.py OUT PICTURE.png

The picture shows an axial and a coronal slice through the middle of the fixed image: the moving
image after the affine step, the fixed image, the warped image, and the determinant of the total
field with its grid. The outline of the fixed image (Otsu's threshold) is drawn on the first three.
"""

import argparse
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from PIL import Image

from hsyn_cli.anatomy.intensity import foreground, read_intensities

GRID_MM = 5.0  # between the lines of the deformed grid
INK, OUTLINE = "#1b1b1b", "#ff9f1c"


def determinant(field: sitk.Image) -> np.ndarray:
    """(Z, Y, X) determinant of p -> p + d(p) by central differences."""
    d = sitk.GetArrayFromImage(field).astype(np.float64)
    per_axis = [np.gradient(d, h, axis=2 - k) for k, h in enumerate(field.GetSpacing())]
    steps = np.stack(per_axis, -1)  # (Z, Y, X, component in mm, index axis)
    direction = np.array(field.GetDirection()).reshape(3, 3)
    return np.asarray(np.linalg.det(np.eye(3) + steps @ direction.T))


def lps(image: sitk.Image) -> sitk.Image:
    """`image` with its axes along LPS, as far as they can be, so that slices are upright."""
    return sitk.DICOMOrient(image, "LPS")


def targets_mm(field: sitk.Image) -> np.ndarray:
    """(Z, Y, X, 3) where the field sends each voxel: mm from the origin, along the grid's axes."""
    size = field.GetSize()[::-1]
    axes = (np.arange(n, dtype=float) for n in size)
    index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)
    along = sitk.GetArrayFromImage(field) @ np.array(field.GetDirection()).reshape(3, 3)
    return np.asarray(index * field.GetSpacing() + along)


def show(axes: Axes, image: np.ndarray, extent: tuple[float, ...], **settings: object) -> None:
    axes.imshow(image, origin="upper", extent=extent, interpolation="bilinear", **settings)
    axes.set_axis_off()


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("out", type=Path, help="folder written by hsyn register")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    report = json.loads((arguments.out / "report.json").read_text(encoding="utf-8"))
    fixed, moving = (
        sitk.ReadImage(report["inputs"][side]["path"], sitk.sitkFloat32)
        for side in ("fixed", "moving")
    )
    grey = {"fixed": read_intensities(fixed), "moving": read_intensities(moving)}
    affine = sitk.ReadTransform(str(arguments.out / "affine.mat"))
    field = lps(sitk.ReadImage(str(arguments.out / "forward_field.nii.gz"), sitk.sitkVectorFloat32))
    columns = {
        "moving, affine only": sitk.Resample(
            moving, fixed, affine, sitk.sitkLinear, grey["moving"].low
        ),
        "fixed": fixed,
        "warped": sitk.ReadImage(str(arguments.out / "warped.nii.gz"), sitk.sitkFloat32),
    }
    arrays = {name: sitk.GetArrayFromImage(lps(image)) for name, image in columns.items()}
    content = foreground(lps(fixed))
    clamped = sitk.Clamp(fixed, sitk.sitkFloat32, grey["fixed"].low, grey["fixed"].high)
    threshold = sitk.OtsuThreshold(clamped, 0, 1)
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(threshold, sitk.sitkFloat32), 0.7)
    outline = sitk.GetArrayFromImage(lps(smooth))
    det, sent = determinant(field), targets_mm(field)
    x, y, z = field.GetSpacing()
    middle = [
        int(np.median(np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {k}))))) for k in range(3)
    ]
    cuts = (
        ((middle[0], slice(None), slice(None)), (x, y), (0, 1), False),
        ((slice(None), middle[1], slice(None)), (x, z), (0, 2), True),
    )
    figure, panels = plt.subplots(2, 4, figsize=(11, 6.1), facecolor="white", layout="constrained")
    for row, (cut, (width, height), components, flip) in enumerate(cuts):
        turn = np.flipud if flip else np.asarray
        rows, across = det[cut].shape
        extent = (0.0, across * width, rows * height, 0.0)
        for axes, (name, array) in zip(panels[row], arrays.items(), strict=False):
            window = grey["fixed" if name == "fixed" else "moving"]
            show(axes, turn(array[cut]), extent, cmap="gray", vmin=window.low, vmax=window.high)
            at = ((np.arange(across) + 0.5) * width, (np.arange(rows) + 0.5) * height)
            axes.contour(*at, turn(outline[cut]), levels=[0.5], colors=OUTLINE, linewidths=0.7)
            if row == 0:
                axes.set_title(name, fontsize=13)
        axes = panels[row, 3]
        inside = np.where(turn(content[cut]), turn(det[cut]), np.nan)
        factor = np.log2(np.maximum(inside, 2.0**-3))
        drawn = axes.imshow(factor, extent=extent, cmap="RdBu_r", vmin=-2, vmax=2)
        axes.set_axis_off()
        for component in components:
            values = turn(sent[cut][..., component])
            levels = np.arange(np.floor(values.min() / GRID_MM) * GRID_MM, values.max(), GRID_MM)
            axes.contour(*at, values, levels=levels, colors=INK, linewidths=0.45)
        if row == 0:
            axes.set_title("grid and determinant", fontsize=13)
    bar = figure.colorbar(drawn, ax=panels[:, 3], shrink=0.6, ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["1/4", "1/2", "1", "2", "4"])
    memory = io.BytesIO()
    figure.savefig(memory, dpi=100)
    Image.open(memory).convert("RGB").quantize(256, kmeans=5).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
