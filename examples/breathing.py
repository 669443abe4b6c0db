#!/usr/bin/env python3
"""Error of hsyn on synthetic breathing, for which the true field is known, inside the lungs.

    python examples/breathing.py CHEST.nii.gz LUNGS.nii.gz WORK
        [--motions 5,10,20,30,40] [--presets fast,default] [--seed 0]

The chest is the moving image. hsyn_cli/training/breathing.py makes the fixed image from it
(diaphragm, sliding chest wall, density), with other random numbers than in training. Both images
get noise of 25 HU. The script measures both directions: breathing in, and breathing out. It gives
hsyn no masks unless you say --masks. It needs a CT of about 2 mm in HU, and a mask of its lungs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console
from rich.table import Table

from hsyn_cli.anatomy.intensity import CT_WINDOW, content_box, resample_image, resample_mask
from hsyn_cli.space import Grid, field_to_lps, working_grid
from hsyn_cli.training.breathing import NUMBERS, breathe

VOXEL, MARGIN, NOISE_HU = 2.0, 40.0, 25.0


def make(
    chest: sitk.Image, lungs: sitk.Image, motion: float, seed: int, folder: Path
) -> tuple[sitk.Image, np.ndarray]:
    """Write both images and masks to `folder`. Returns the true field and the fixed lungs."""
    grid = working_grid(Grid.of(chest), content_box(lungs), VOXEL, MARGIN, 2)
    seen, inside = resample_image(chest, grid), resample_mask(lungs, grid)
    random = torch.Generator().manual_seed(100_000 + seed)
    breath = breathe(seen, inside, VOXEL, motion, torch.randn(NUMBERS, generator=random))
    low, high = CT_WINDOW
    for name, image, mask in (
        ("moving", breath.moving, breath.moving_lungs),
        ("fixed", breath.fixed, breath.fixed_lungs),
    ):
        hounsfield = (
            low
            + (high - low) * image[0, 0]
            + NOISE_HU * torch.randn(image.shape[2:], generator=random)
        )
        values = hounsfield.clamp(low - 24, high).round().short().numpy()
        sitk.WriteImage(grid.stamp(sitk.GetImageFromArray(values)), str(folder / f"{name}.nii.gz"))
        voxels = (mask[0, 0] > 0.5).numpy().astype(np.uint8)
        sitk.WriteImage(
            grid.stamp(sitk.GetImageFromArray(voxels)), str(folder / f"{name}_lungs.nii.gz")
        )
    return field_to_lps(breath.truth[0].numpy(), grid), (breath.fixed_lungs[0, 0] > 0.5).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chest", type=Path)
    parser.add_argument("lungs", type=Path)
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument(
        "--motions", default="5,10,20,30,40", help="largest displacement in the lungs, mm"
    )
    parser.add_argument("--presets", default="fast,default")
    parser.add_argument("--masks", action="store_true", help="give hsyn the masks of the lungs")
    parser.add_argument("--model", default="lung")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    chest, lungs = (sitk.ReadImage(str(path)) for path in (arguments.chest, arguments.lungs))
    presets = arguments.presets.split(",")
    table = Table("motion", "before", *(f"{preset}: error, 95 %, folds" for preset in presets))
    for size in map(float, arguments.motions.split(",")):
        cells: dict[str, list[tuple[float, float, float, int]]] = {preset: [] for preset in presets}
        for motion in (size, -size):
            folder = arguments.work / f"{motion:+.0f}"
            folder.mkdir()
            truth, inside = make(chest, lungs, motion, arguments.seed + int(motion), folder)
            true = sitk.GetArrayFromImage(truth)[inside]
            for preset in presets:
                command = [
                    sys.executable, "-m", "hsyn_cli", "register", "--preset", preset, "--no-html",
                    "--quiet", "--model", arguments.model, "-m", str(folder / "moving.nii.gz"),
                    "-f", str(folder / "fixed.nii.gz"), "-o", str(folder / preset),
                ]  # fmt: skip
                if arguments.masks:
                    command += ["--moving-mask", str(folder / "moving_lungs.nii.gz"),
                                "--fixed-mask", str(folder / "fixed_lungs.nii.gz")]  # fmt: skip
                subprocess.run(command, check=True)  # noqa: S603
                field = sitk.ReadImage(str(folder / preset / "forward_field.nii.gz"))
                error = np.linalg.norm(sitk.GetArrayFromImage(field)[inside] - true, axis=1)
                report = json.loads((folder / preset / "report.json").read_text())
                folds = report["folding"]["voxels"] + report["inverse_folding"]["voxels"]
                before = float(np.linalg.norm(true, axis=1).mean())
                cells[preset].append(
                    (before, float(error.mean()), float(np.percentile(error, 95)), folds)
                )
        means = {preset: np.mean(rows, axis=0) for preset, rows in cells.items()}
        shown = [
            f"{m[1]:.2f}, {m[2]:.2f} mm, {sum(row[3] for row in cells[preset])}"
            for preset, m in means.items()
        ]
        table.add_row(f"{size:.0f} mm", f"{means[presets[0]][0]:.2f} mm", *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
