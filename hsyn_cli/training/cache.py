"""The cache of a training run: every subject on one common grid, as small integers. Reading it takes no SimpleITK.

Arrays are (N, Z, Y, X) uint8, axes nearest to LPS: images scaled to 0..255, label maps as indices into the list of ids (0: none).
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsyn_cli import files
from hsyn_cli.config import Training
from hsyn_cli.errors import InputError

Volume = NDArray[np.uint8]


@dataclass(frozen=True)
class Cache:
    """`images` and `labels` (N, Z, Y, X), one row per subject, zeros where it has none; `ids` of the labels, by index - 1."""

    images: Volume
    labels: Volume
    has_image: tuple[bool, ...]
    has_labels: tuple[bool, ...]
    ids: tuple[int, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    counted: int | None = (
        None  # so many of the ids, the first ones, count as labels; the others are painted only; None: all
    )
    made_with: tuple[str, ...] = ()  # the settings that decide what a cache holds, see `settings`

    def rows(self, of_maps: bool) -> list[int]:
        """Subjects with an image, or those of which there is nothing but a label map."""
        return [k for k, image in enumerate(self.has_image) if image != of_maps]


def settings(training: Training) -> tuple[str, ...]:
    """What of a config decides the content of a cache, as text; a cache made with other settings is of no use."""
    spacing = training.sn_net.spacing
    about = [spacing, training.size, training.labels, training.intensities]
    about.append("brains without bias" if training.sn_net.organ == "brain" else training.sn_net.organ)
    if training.surroundings:
        about.append("surroundings")
    return tuple(json.dumps(v, sort_keys=True) for v in about)


def save_cache(cache: Cache, out: Path) -> None:
    """Write `cache`, compressed. Raises OutputError."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("images", "labels"):
        with files.replacing(out / f"{kind}.npy.xz") as path, lzma.open(path, "wb", preset=1) as stream:
            np.save(stream, getattr(cache, kind))
    about = {key: value for key, value in vars(cache).items() if key not in ("images", "labels")}
    files.write_text(out / "cache.json", json.dumps(about, indent=1) + "\n")


def load_cache(folder: Path) -> Cache:
    """Read what `build_cache` wrote, whole, into memory. Raises InputError."""
    try:
        about = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {}
        for kind in ("images", "labels"):
            with lzma.open(folder / f"{kind}.npy.xz") as stream:
                arrays[kind] = np.load(stream, allow_pickle=False)
        arrays |= {key: tuple(v) if isinstance(v, list) else v for key, v in about.items()}
        return Cache(**arrays)
    except (OSError, EOFError, lzma.LZMAError, ValueError, TypeError) as error:
        raise InputError(
            f"cache {folder} cannot be read: {error}", "remove it, and it is made again"
        ) from error
