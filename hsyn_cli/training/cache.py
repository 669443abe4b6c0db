"""The cache of a training run: every subject on one common grid, as small integers.

Arrays are (N, Z, Y, X) uint8, axes nearest to LPS: images scaled to 0..255, label maps as indices
into the list of ids (0: none). Reading a cache does not import SimpleITK.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsyn_cli.anatomy import organs
from hsyn_cli.config.training import Training
from hsyn_cli.errors import InputError
from hsyn_cli.io import atomic

Volume = NDArray[np.uint8]
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Cache:
    """The subjects of a training run.

    Attributes:
        images, labels: (N, Z, Y, X), one row per subject; zeros if it lacks one.
        ids: of the labels, by index - 1.
        counted: the first so many ids count as labels, the others are only painted; None: all
            count.
        made_with: the settings that decide the content, see `settings`.
        splits: TRAIN or VALIDATION for each subject, if the data say so; else ().
    """

    images: Volume
    labels: Volume
    has_image: tuple[bool, ...]
    has_labels: tuple[bool, ...]
    ids: tuple[int, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    counted: int | None = None
    made_with: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def rows(self, of_maps: bool) -> list[int]:
        """Rows of the subjects with an image or, if `of_maps`, with a label map alone."""
        return [k for k, image in enumerate(self.has_image) if image != of_maps]

    def parts(self, of_maps: bool, held_out: int) -> tuple[list[int], list[int]]:
        """The rows of a kind to train on, and those to validate on.

        Without `splits`, the last `held_out` are for validation, as long as two remain to train on.
        If none are, the last two do both.
        """
        rows = self.rows(of_maps)
        if self.splits:
            train, validation = (
                [k for k in rows if self.splits[k] == split] for split in (TRAIN, VALIDATION)
            )
            return train if len(train) > 1 else [], validation
        if len(rows) < 2:
            return [], []
        kept = min(held_out, len(rows) - 2)
        kept = kept if kept >= 2 else 0
        return rows[: len(rows) - kept], rows[-kept:] if kept else rows[-2:]


def settings(training: Training) -> tuple[str, ...]:
    """The settings of a config that decide the content of a cache, as text."""
    spacing = training.sn_net.spacing
    about = [spacing, training.size, training.labels, training.intensities]
    organ = training.sn_net.organ
    about.append(organs.find(organ).prepared_as or organ)
    if training.surroundings:
        about.append("surroundings")
    return tuple(json.dumps(v, sort_keys=True) for v in about)


def save_cache(cache: Cache, out: Path) -> None:
    """Write `cache`, compressed; its files appear together. Raises OutputError."""
    paths = {kind: out / f"{kind}.npy.xz" for kind in ("images", "labels")}
    about = {key: value for key, value in vars(cache).items() if key not in paths}
    with atomic.claim([*paths.values(), out / "cache.json"], force=True) as staging:
        for kind, path in paths.items():
            with (
                atomic.replacing(staging.path(path)) as temporary,
                lzma.open(temporary, "wb", preset=1) as stream,
            ):
                np.save(stream, getattr(cache, kind))
        atomic.write_text(staging.path(out / "cache.json"), json.dumps(about, indent=1) + "\n")
        staging.commit()


def load_cache(folder: Path) -> Cache:
    """Read the cache that `build_cache` wrote into memory. Raises InputError."""
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
            f"cache {folder} cannot be read: {error}", "remove the folder; hsyn then makes it again"
        ) from error
