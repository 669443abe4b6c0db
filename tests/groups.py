"""A made-up group: one anatomy with fine structure, bent by fields whose mean is known to be 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import smooth_field, voxel_points

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.tasks import Event, Task
from hsyn_cli.cohort.worker import carry_out
from hsyn_cli.fields.images import as_transform, to_image
from hsyn_cli.space import Grid
from hsyn_cli.tools.invert import invert

VOXEL = 3.0
GRID = Grid((36, 34, 32), (VOXEL,) * 3, (-54.0, -51.0, -48.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
STRAIN = 0.12


def anatomy(grid: Grid = GRID, seed: int = 0) -> sitk.Image:
    """An ellipsoid of random texture, 0 outside."""
    rng = np.random.default_rng(seed)
    coarse, fine = (
        torch.from_numpy(rng.normal(size=(1, 1, *(max(4, int(n / part)) for n in grid.size[::-1]))))
        for part in (6, 3)
    )
    values = np.zeros(grid.size[::-1])
    for part, weight in ((coarse, 18.0), (fine, 9.0)):
        wide = torch.nn.functional.interpolate(part, grid.size[::-1], mode="trilinear")
        values += weight * wide[0, 0].numpy()
    middle = grid.points((np.array(grid.size) - 1) / 2)
    half = 0.36 * np.array(grid.size) * grid.spacing
    radius = np.linalg.norm((voxel_points(grid) - middle) / half, axis=-1)
    edge = np.clip((1 - radius) * 8, 0, 1)
    return grid.stamp(sitk.GetImageFromArray((edge * (100 + values)).astype(np.float32)))


def bends(count: int = 4) -> list[torch.Tensor]:
    """Displacements (1, 3, Z, Y, X) in mm on GRID, with the sum 0: pairs of opposite ones."""
    halves = [smooth_field(GRID.size[::-1], STRAIN, 1 + k) * VOXEL for k in range(count // 2)]
    return [sign * u for u in halves for sign in (1.0, -1.0)]


def group(folder: Path, count: int = 4) -> list[Path]:
    """The scans: what lies at x in the anatomy lies at x + u(x) in the scan of u."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, base = [], anatomy()
    for k, u in enumerate(bends(count)):
        back = invert(to_image(u, GRID), tolerance=0.01).inverse
        scan = sitk.Resample(base, base, as_transform(back), sitk.sitkLinear, 0.0)
        paths.append(folder / f"sub-{k}.nii.gz")
        sitk.WriteImage(scan, str(paths[-1]))
    return paths


class InThisProcess:
    """A source of work that registers one pair after the other, without starting a process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._task: Task | None = None

    def free(self) -> int:
        """One pair at a time."""
        return int(self._task is None)

    def start(self, task: Task) -> None:
        """Keep the task until somebody asks for news."""
        self._task = task

    def events(self, patience: float) -> list[Event]:
        """Do the task."""
        task, self._task = self._task, None
        return [] if task is None else [Event(task.id, outcome=carry_out(task, lambda line: None))]

    def close(self) -> None:
        """Nothing to end."""


def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pairs of cohorts run in this process."""
    monkeypatch.setattr(Work, "source", lambda work, sign: InThisProcess(work.limits))
