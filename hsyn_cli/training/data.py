"""Training data: every scan or label map once, on one common 1 mm grid, as small integers on disk.

The first image sets the frame; all others are brought to it by an affine alignment. Arrays are (N, Z, Y, X)
uint8, axes nearest to LPS. Scans hold intensities scaled to 0..255, label maps indices into `LABELS` (0 is
background).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli import affine
from hsyn_cli.space import Grid, working_grid

SIZE = (160, 192, 160)  # x, y, z at 1 mm: every brain fits after alignment

# FreeSurfer ids of the brain proper; the rest of the head becomes background.
LABELS = (
    *(2, 41, 3, 42, 4, 43, 7, 46, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52),
    *(14, 15, 16, 17, 53, 18, 54, 24, 26, 58, 28, 60),
)
_CSF, _WHITE = (4, 43, 14, 15, 24), (2, 41, 7, 46, 16, 28, 60)
_DEEP = (10, 49, 11, 50, 12, 51, 13, 52, 26, 58)


@dataclass(frozen=True)
class Cache:
    """A cache folder: scans and maps, memory-mapped, each (N, Z, Y, X) uint8, and their file names."""

    scans: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    scan_names: list[str]
    map_names: list[str]


def load_cache(folder: Path) -> Cache:
    """Open what `build_cache` wrote."""
    names = [(folder / f"{kind}.txt").read_text().split() for kind in ("scans", "maps")]
    arrays = [np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in ("scans", "maps")]
    return Cache(arrays[0], arrays[1], names[0], names[1])


def build_cache(scans: list[Path], maps: list[Path], out: Path, say: Callable[[str], None]) -> None:
    """Align every file to the first scan and write the arrays to `out`. Takes some seconds per file."""
    out.mkdir(parents=True, exist_ok=True)
    reference = sitk.ReadImage(str(scans[0]), sitk.sitkFloat32)
    grid = _frame(reference)
    for kind, paths in (("scans", scans), ("maps", maps)):
        arrays = np.zeros((len(paths), *reversed(grid.size)), np.uint8)
        for k, path in enumerate(paths):
            image = sitk.ReadImage(str(path))
            labels = _remap(image) if kind == "maps" else None
            picture = sitk.Cast(image, sitk.sitkFloat32) if labels is None else _t1_like(labels)
            transform = affine.align(reference, picture)
            if labels is None:
                resampled = sitk.Resample(
                    picture, grid.empty_image(sitk.sitkFloat32), transform, sitk.sitkLinear, 0.0
                )
                arrays[k] = _to_uint8(sitk.GetArrayFromImage(resampled))
            else:
                resampled = sitk.Resample(
                    labels, grid.empty_image(sitk.sitkUInt8), transform, sitk.sitkNearestNeighbor, 0
                )
                arrays[k] = sitk.GetArrayFromImage(resampled)
            say(f"{path.name}")
        np.save(out / f"{kind}.npy", arrays)
        (out / f"{kind}.txt").write_text("\n".join(p.name for p in paths))


def _frame(reference: sitk.Image) -> Grid:
    content = np.argwhere(sitk.GetArrayViewFromImage(reference) > 0)[:, ::-1].astype(float)
    box = (content.min(0), content.max(0))
    tight = working_grid(Grid.of(reference), box, 1.0, 0.0, 1)
    shift = (np.array(tight.size) - np.array(SIZE)) // 2
    origin = tight.points(shift.astype(float))
    return Grid(SIZE, (1.0, 1.0, 1.0), (origin[0], origin[1], origin[2]), tight.direction)


def _to_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    high = np.percentile(values[values > 0], 99.7)
    scaled: NDArray[np.uint8] = np.clip(np.rint(values * (255 / high)), 0, 255).astype(np.uint8)
    return scaled


def _remap(image: sitk.Image) -> sitk.Image:
    table = np.zeros(1 + max(int(sitk.GetArrayViewFromImage(image).max()), max(LABELS)), np.uint8)
    for index, label in enumerate(LABELS, start=1):
        table[label] = index
    out = sitk.GetImageFromArray(table[sitk.GetArrayViewFromImage(image)])
    out.CopyInformation(image)
    return out


def _t1_like(labels: sitk.Image) -> sitk.Image:
    table = np.full(len(LABELS) + 1, 0.6, np.float32)
    table[0] = 0.0
    for index, label in enumerate(LABELS, start=1):
        table[index] = 0.15 if label in _CSF else 0.95 if label in _WHITE else 0.75 if label in _DEEP else 0.6
    out = sitk.GetImageFromArray(table[sitk.GetArrayViewFromImage(labels)])
    out.CopyInformation(labels)
    return out
