"""Facts, reports and results that stand for real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import hsyn_cli.method
from hsyn_cli.cli import run
from hsyn_cli.fields.change import Change, Linear
from hsyn_cli.fields.folding import Folding
from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.io.checkpoints import CheckpointId
from hsyn_cli.method.result import Facts, SimilarityScores
from hsyn_cli.results.report import Report, Source, assemble

FACTS = Facts(
    folding=Folding(0, 0.0, 12, 0.081, (-31.5, 20.0, 104.25)),
    inverse_folding=Folding(0, 0.0, 9, 0.09, (1.0, 2.0, 3.0)),
    inverse_error_fixed=ErrorStats(0.0042, 0.031, 0.21),
    inverse_error_moving=ErrorStats(0.0051, 0.033, 0.25),
    similarity=SimilarityScores("local NCC", 0.31, 0.52, 0.81),
    preset="default",
    affine="affine",
    checkpoint=CheckpointId("brain-t1", "ab" * 32, verified=True),
    device="cpu",
    threads=2,
    seed=7,
    seconds={"reading": 0.4, "affine": 3.1, "networks": 1.5, "refinement": 9.75, "writing": 1.1},
    warnings=("the moving image is much larger",),
    linear=Linear((1.04, 0.97, 1.1234), 3.21, 0.0123, (1.5, -2.0, 30.25)),
    change=Change(0.0321, 0.2345, 2.75, 9.375),
)


def assembled(facts: Facts = FACTS, folder: Path = Path("out"), **more: Path) -> Report:
    outputs = {
        "forward_field": folder / "forward_field.nii.gz",
        **more,
        "report": folder / "report.json",
    }
    return assemble(
        facts,
        inputs={
            "moving": Source("m.nii.gz", "a" * 64),
            "fixed": Source("it's f.nii.gz", "b" * 64),
        },
        outputs=outputs,
        warnings=("sform and qform disagree",),
        seconds_total=16.25,
        peak_memory_mb=1834.0,
    )


TURN = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4).GetMatrix()


def grid_image(size: tuple[int, int, int], seed: int, vector: bool = False) -> sitk.Image:
    shape = (*size[::-1], 3) if vector else size[::-1]
    image = sitk.GetImageFromArray(
        np.random.default_rng(seed).normal(size=shape).astype(np.float32), isVector=vector
    )
    image.SetSpacing((1.1, 0.9, 1.3))
    image.SetDirection(TURN)
    image.SetOrigin((5, -6, 7))
    return image


FIXED, MOVING = (7, 9, 5), (6, 8, 11)


@dataclass(frozen=True)
class FakeMidspace:
    to_moving_field: sitk.Image
    to_fixed_field: sitk.Image
    moving: sitk.Image
    fixed: sitk.Image


@dataclass(frozen=True)
class FakeResult:
    """Stands for a Registration: random content on the right grids."""

    moving: sitk.Image
    fixed: sitk.Image
    warped: sitk.Image
    inverse_warped: sitk.Image
    forward_field: sitk.Image
    inverse_field: sitk.Image
    affine: sitk.AffineTransform
    warp_field: sitk.Image
    inverse_warp_field: sitk.Image
    midspace: FakeMidspace
    facts: Facts = FACTS
    others: tuple[Any, ...] = ()


def fake_result() -> FakeResult:
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1, 2, 3))
    half = FakeMidspace(*(grid_image(FIXED, seed, seed < 22) for seed in (20, 21, 22, 23)))
    return FakeResult(
        grid_image(MOVING, 7),
        grid_image(FIXED, 8),
        grid_image(FIXED, 1),
        grid_image(MOVING, 2),
        grid_image(FIXED, 3, True),
        grid_image(MOVING, 4, True),
        affine,
        grid_image(FIXED, 5, True),
        grid_image(FIXED, 6, True),
        half,
    )


def replace_pipeline(monkeypatch: pytest.MonkeyPatch, register: Callable[..., Any]) -> None:
    module = ModuleType("hsyn_cli.method.register")
    module.register = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hsyn_cli.method.register", module)
    monkeypatch.setattr(hsyn_cli.method, "register", module, raising=False)


def register(
    *more: str, moving: str = "m.nii.gz", fixed: str = "f.nii.gz", out: str = "out"
) -> int:
    """`hsyn register` on a pair; `more` may name another moving or fixed image."""
    images = [("-m", moving), ("-f", fixed)]
    usual = [word for pair in images if pair[0] not in more for word in pair]
    return run(["register", *usual, "-o", out, *more])


SIZE = (7, 9, 5)
