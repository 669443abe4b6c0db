"""A stage of a template on the disk: what the next one starts from, and whether it stands."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.cohort.jobs import PAIRS
from hsyn_cli.cohort.keys import Hashes
from hsyn_cli.errors import HsynError
from hsyn_cli.io import atomic
from hsyn_cli.io.images import read_image
from hsyn_cli.io.plain import dump
from hsyn_cli.io.transforms import read_transform, write_transform
from hsyn_cli.io.writing import write_image
from hsyn_cli.space import Grid, affine_from, affine_parts
from hsyn_cli.template.averages import Means, to_image
from hsyn_cli.template.frame import Map

WORK = "work"  # folder in the template's
WITHIN, VISITS = "within", "visits"  # folders of a longitudinal one
ENTRY, MASK, SHIFT = "stage.json", "mask.nii.gz", "shift.nii.gz"
AFFINES = "affines"


@dataclass(frozen=True)
class Stage:
    """A finished stage. `entry`: the content of its stage.json."""

    folder: Path
    entry: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Such as "round-2"."""
        return self.folder.name

    @property
    def key(self) -> str:
        """Equal keys stand for equal files."""
        return str(self.entry["key"])

    @property
    def left_out(self) -> list[Mapping[str, Any]]:
        """The subjects that failed in it."""
        found: list[Mapping[str, Any]] = self.entry["left_out"]
        return found

    @property
    def doubts(self) -> list[str]:
        """A line for each of its registrations that is not to be trusted."""
        found = self.entry["doubtful"].items()
        return [f"{self.name}: {name} is not to be trusted: {why[0]}" for name, why in found]

    def mean(self, channel: int = 1) -> Path:
        """The file of a mean channel, from 1."""
        return self.folder / mean_name(channel)

    def values(self, channel: int = 1) -> NDArray[np.float32]:
        """A mean channel as (Z, Y, X)."""
        values: NDArray[np.float32] = sitk.GetArrayFromImage(self._image(channel))
        return values

    def _image(self, channel: int) -> sitk.Image:
        return read_image(self.mean(channel), "mean image").image

    @cached_property
    def grid(self) -> Grid:
        """That of the template so far."""
        return Grid.of(self._image(1))

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(Z, Y, X)."""
        mask = read_image(self.folder / MASK, "mask of the mean").image
        return np.asarray(sitk.GetArrayViewFromImage(mask) > 0)

    def affine(self, name: str) -> Path:
        """The file of the affine map, template -> scan, of a subject."""
        return self.folder / AFFINES / f"{name}.mat"

    def map(self, name: str) -> Map:
        """The same map."""
        return affine_parts(read_transform(self.affine(name), "affine").transform)


def mean_name(channel: int, stem: str = "mean") -> str:
    """The file name of a mean channel, from 1."""
    return f"{stem}.nii.gz" if channel == 1 else f"{stem}_{channel}.nii.gz"


def key_of(content: Any) -> str:
    """The SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find(folder: Path, key: str, hashes: Hashes, *, whole: bool) -> Stage | None:
    """The stage in a folder if it has this key and its files are as it wrote them.

    `whole`: it must not have left out a subject.
    """
    try:
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        if entry["key"] != key or (whole and entry["left_out"]):
            return None
        for name, sha256 in entry["files"].items():
            if hashes.of(folder / name) != sha256:
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, HsynError):
        return None
    return Stage(folder, entry)


def put(
    folder: Path,
    entry: Mapping[str, Any],
    means: Means,
    maps: Mapping[str, Map],
    grid: Grid,
    hashes: Hashes,
) -> Stage:
    """Write the files of a stage, its stage.json last. Raises OutputError.

    `maps`: {id of a subject: its affine map}. The shift of a round is there already.
    """
    names = [MASK]
    write_image(to_image(means.mask.astype(np.uint8), grid), folder / MASK)
    for k, values in enumerate(means.images, 1):
        names.append(mean_name(k))
        write_image(to_image(values, grid), folder / names[-1])
    (folder / AFFINES).mkdir(exist_ok=True)
    for name, (a, t) in maps.items():
        names.append(f"{AFFINES}/{name}.mat")
        write_transform(affine_from(a, t), folder / names[-1], grid.dimension)
    names += [SHIFT] if (folder / SHIFT).exists() else []
    whole = {**entry, "files": {name: hashes.of(folder / name) for name in names}}
    atomic.write_text(folder / ENTRY, dump(whole))
    return Stage(folder, json.loads(dump(whole)))


def forget_pairs(folder: Path) -> None:
    """Remove the files of a stage's pairs, which nothing needs any more."""
    shutil.rmtree(folder / PAIRS, ignore_errors=True)
