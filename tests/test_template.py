"""A whole template of a made-up group whose mean shape is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import groups
import numpy as np
import pytest
import SimpleITK as sitk

from hsyn_cli.config.template import Settings
from hsyn_cli.fields.grids import as_transform, from_image
from hsyn_cli.io.images import read_field
from hsyn_cli.space import Grid
from hsyn_cli.template import build, shape
from hsyn_cli.template.build import Template, template_files
from hsyn_cli.tools.evaluate import evaluate_images

QUICK = Settings(rounds=1, preset="fast", sharpen=0.0, threads=1) if False else Settings(
    rounds=1, preset="fast", sharpen=0.0
)  # fmt: skip


def values(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    with pytest.MonkeyPatch.context() as patch:
        groups.here(patch)
        folder = tmp_path_factory.mktemp("group")
        yield template_files(groups.group(folder / "in"), folder / "tpl", QUICK)


def test_time(made: Template) -> None:
    print(json.dumps({k: v for k, v in made.record.items() if k != "subjects"}, indent=1))
