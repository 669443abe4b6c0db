#!/usr/bin/env python3
"""What hsyn makes of slabs, lesions and turned images, and whether it tells what cannot work.

    python examples/hard_pairs.py
    python examples/hard_pairs.py --parts slabs,lesions --preset fast

The script cuts, paints, turns and spoils the pair of examples/brain; "impossible" uses the scans of
examples/lung, too. Dice counts inside a slab or outside a lesion; beside it stands that of the pair
as given in the same place. A pair is accused if its report names problems: all impossible pairs
should be, and no other one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

import hsyn_cli
from hsyn_cli.errors import HsynError

HERE = Path(__file__).resolve().parent
SLAB, RADIUS = 40, 15  # mm
PLACES = {"left": (32.0, -15.0, 22.0), "right": (-30.0, 25.0, 20.0)}  # mm from the middle, LPS
GREYS = {"dark": 0.25, "bright": 1.6}  # times the median grey value of the brain
TURNS = [(180, 0, 0), (0, 180, 0), (0, 0, 180), (90, 0, 0), (0, 90, 0), (0, 0, 90), (90, 90, 0)]
PARTS = ("slabs", "lesions", "poses", "impossible")
Pair = tuple[sitk.Image, sitk.Image]


def read(folder: str, name: str) -> sitk.Image:
    kind = sitk.sitkUnknown if "labels" in name else sitk.sitkFloat32
    return sitk.ReadImage(str(HERE / folder / f"{name}.nii.gz"), kind)


def like(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    out = sitk.GetImageFromArray(values.astype(np.float32))
    out.CopyInformation(image)
    return out


def middle_of(image: sitk.Image) -> list[float]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def slab_of(image: sitk.Image) -> sitk.Image:
    """The middle SLAB mm, in voxels of 1 mm."""
    first = image.GetSize()[2] // 2 - SLAB // 2
    return image[:, :, first : first + SLAB]


def turned(image: sitk.Image, degrees: tuple[float, float, float], away: float) -> sitk.Image:
    """By the header alone, about the middle of the image; then shifted."""
    angles = [float(np.deg2rad(v)) for v in degrees]
    turn = sitk.Euler3DTransform(middle_of(image), *angles)
    out = sitk.Image(image)
    out.SetOrigin((np.array(turn.TransformPoint(image.GetOrigin())) + away).tolist())
    axes = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    out.SetDirection(axes.ravel().tolist())
    return out


def scaled(image: sitk.Image, factor: float) -> sitk.Image:
    out = sitk.Image(image)
    out.SetSpacing([factor * s for s in image.GetSpacing()])
    return out


class Study:
    """The example pair, and the rows of the table."""

    def __init__(self, preset: str) -> None:
        self.preset, self.console = preset, Console()
        self.table = Table("pair", "Dice", "as given, there", "note")
        self.moving, self.fixed = read("brain", "moving"), read("brain", "fixed")
        self.labels = read("brain", "moving_labels"), read("brain", "fixed_labels")
        self.accused: dict[str, list[bool]] = {"possible": [], "impossible": []}
        self.plain = self.run("as given", (self.moving, self.fixed))
        self.row("as given", self.dice(self.plain))

    def run(self, name: str, pair: Pair, kind: str = "possible", **options: object):
        try:
            found = hsyn_cli.register(*pair, preset=self.preset, **options)
        except HsynError as error:
            if kind == "possible":
                raise
            self.accused[kind].append(True)
            self.row(name, note=f"refused: {error}")
            return None
        self.accused[kind].append(bool(found.facts.problems))
        if kind == "impossible":
            self.row(name, note=found.facts.problems[0] if found.facts.problems else "NOT TOLD")
        elif found.facts.problems:
            self.row(name, note=f"ACCUSED: {found.facts.problems[0]}")
        return found

    def row(
        self, name: str, own: float | None = None, usual: float | None = None, note: str = ""
    ) -> None:
        shown = [name, *("" if v is None else f"{v:.3f}" for v in (own, usual)), note]
        self.table.add_row(*shown)
        self.console.print("  ".join(shown), highlight=False)

    def dice(self, found, where: np.ndarray | None = None, labels: Pair | None = None) -> float:
        """Mean Dice of the fixed labels, where it counts."""
        moving, fixed = labels or self.labels
        field = sitk.DisplacementFieldTransform(
            sitk.Cast(found.forward_field, sitk.sitkVectorFloat64)
        )
        warped = sitk.Resample(moving, fixed, field, sitk.sitkNearestNeighbor)
        one, other = (sitk.GetArrayFromImage(v) for v in (warped, fixed))
        if where is not None:
            one, other = one[where], other[where]
        shares = [
            2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum())
            for k in np.unique(other)
            if k
        ]
        return float(np.mean(shares))

    def carried(self, mask: sitk.Image) -> np.ndarray:
        """A mask of the moving image on the fixed grid, by the plain registration."""
        field = sitk.Cast(self.plain.forward_field, sitk.sitkVectorFloat64)
        way = sitk.DisplacementFieldTransform(field)
        warped = sitk.Resample(mask, self.fixed, way, sitk.sitkNearestNeighbor)
        return sitk.GetArrayFromImage(warped) > 0


def slabs(study: Study) -> None:
    moving, fixed = study.labels
    part = slab_of(study.fixed)
    there = (moving, slab_of(fixed))
    inside = np.zeros(sitk.GetArrayViewFromImage(fixed).shape, bool)
    first = fixed.GetSize()[2] // 2 - SLAB // 2
    inside[first : first + SLAB] = True
    found = study.run("whole onto slab", (study.moving, part))
    study.row(
        f"fixed slab of {SLAB} mm", study.dice(found, labels=there), study.dice(study.plain, inside)
    )
    part = slab_of(study.moving)
    found = study.run("slab onto whole", (part, study.fixed))
    inside = study.carried(sitk.Cast(part > -1, sitk.sitkUInt8))
    study.row(
        f"moving slab of {SLAB} mm", study.dice(found, inside), study.dice(study.plain, inside)
    )


def lesions(study: Study) -> None:
    for side, image in (("moving", study.moving), ("fixed", study.fixed)):
        values = sitk.GetArrayFromImage(image)
        usual = float(np.median(values[values > 0]))
        for (where, place), (look, grey) in zip(PLACES.items(), GREYS.items(), strict=True):
            point = (np.array(middle_of(image)) + place).tolist()
            centre = image.TransformPhysicalPointToContinuousIndex(point)[::-1]
            axes = np.ogrid[tuple(map(slice, values.shape))]
            square = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))  # voxels of 1 mm
            lesion = (square < RADIUS**2) & (values > 0)
            mask, ill = like(image, lesion), like(image, np.where(lesion, grey * usual, values))
            pair = (ill, study.fixed) if side == "moving" else (study.moving, ill)
            own = study.carried(mask) if side == "moving" else sitk.GetArrayFromImage(mask) > 0
            healthy = study.dice(study.plain, ~own)
            name = f"{look} lesion, {where}, {side}"
            masked = study.run(
                f"{name}, masked", pair, **{f"{side}_lesion": sitk.Cast(mask, sitk.sitkUInt8)}
            )
            bare = study.run(name, pair)
            change = f"its volume times {masked.facts.lesions[side]:.2f}"
            study.row(f"{name}, masked", study.dice(masked, ~own), healthy, change)
            study.row(f"{name}, not masked", study.dice(bare, ~own), healthy)


def poses(study: Study) -> None:
    usual = study.dice(study.plain)
    moving = study.labels[0]
    for degrees in [(0, 0, 0), *TURNS]:
        pair = (turned(study.moving, degrees, 300.0), study.fixed)
        found = study.run(f"turned by {degrees}", pair, search="full")
        labels = (turned(moving, degrees, 300.0), study.labels[1])
        study.row(f"turned by {degrees}, 300 mm off", study.dice(found, labels=labels), usual)


def impossible(study: Study) -> Iterator[tuple[str, Pair, dict[str, object]]]:
    """Name, pair and options."""
    moving, fixed = study.moving, study.fixed
    values = sitk.GetArrayFromImage(moving)
    brain, rng, top = values > 0, np.random.default_rng(0), float(values.max())
    noise = rng.uniform(0, top, values.shape)
    smooth = sitk.SmoothingRecursiveGaussian(like(moving, noise), 6.0)
    z, y, x = np.indices(values.shape)
    ball = np.linalg.norm(np.stack((z, y, x), -1) - np.array(values.shape) / 2, axis=-1) < 70
    blocks = np.where(brain, ((z // 12 + y // 12 + x // 12) % 2 + 1) * top / 2, 0)
    chest, off = read("lung", "fixed"), sitk.Euler3DTransform(middle_of(moving))
    off.SetTranslation((20.0, 0.0, 0.0))
    tilted = sitk.Euler3DTransform(middle_of(moving), 0.0, 0.0, float(np.deg2rad(20)))
    pictures = {
        "noise": noise,
        "noise in the shape of a brain": np.where(brain, noise, 0),
        "smooth noise in that shape": np.where(brain, sitk.GetArrayFromImage(smooth), 0),
        "a ball": ball * top,
        "blocks in the shape of a brain": blocks,
        "a ramp in that shape": np.where(brain, 1 + x, 0),
        "head down": values[::-1],
        "back to front": values[:, ::-1],
        "upside down and back to front": values[::-1, ::-1],
    }
    for name, picture in pictures.items():
        yield name, (like(moving, picture), fixed), {}
    other = sitk.GetArrayFromImage(fixed)
    mixed = rng.permuted(other, axis=None)
    yield "the fixed image with its voxels mixed", (moving, like(fixed, mixed)), {}
    yield "a chest on a brain", (chest, fixed), {}
    yield "a brain on a chest", (moving, chest), {}
    yield "half as large", (scaled(moving, 0.5), fixed), {}
    yield "twice as large", (scaled(moving, 2.0), fixed), {}
    halves = {
        "the left half on the right one": x < values.shape[2] // 2,
        "the front half on the back one": y < values.shape[1] // 2,
        "the lower half on the upper one": z < values.shape[0] // 2,
    }
    for name, part in halves.items():
        one, rest = np.where(part, values, 0), np.where(part, 0, values)
        yield name, (like(moving, one), like(moving, rest)), {}
    skip = {"affine": "none"}
    yield "20 mm off, not aligned", (sitk.Resample(moving, moving, off), fixed), skip
    yield "20 degrees off, not aligned", (sitk.Resample(moving, moving, tilted), fixed), skip
    both = sitk.CompositeTransform([tilted, off])
    yield "both off, not aligned", (sitk.Resample(moving, moving, both), fixed), skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--preset", default="default", help="default: %(default)s")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    study = Study(arguments.preset)
    for name, part in (("slabs", slabs), ("lesions", lesions), ("poses", poses)):
        if name in parts:
            part(study)
    if "impossible" in parts:
        for name, pair, options in impossible(study):
            study.run(name, pair, "impossible", **options)
    study.console.print(study.table)
    for kind, accused in study.accused.items():
        study.console.print(f"{kind}: {sum(accused)} of {len(accused)} accused", highlight=False)


if __name__ == "__main__":
    main()
