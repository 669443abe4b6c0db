"""Longitudinal templates: made-up subjects whose visits differ by fields that are known."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import groups
import numpy as np
import pytest
import SimpleITK as sitk
from test_template import ALONE, ENVIRONMENT, QUICK, contents, values

from hsyn_cli.cli import run
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.fields.grids import as_transform
from hsyn_cli.space import Grid
from hsyn_cli.template import visits
from hsyn_cli.template.build import Template
from hsyn_cli.template.longitudinal import longitudinal_files

ROWS = (
    ("one", "before", "sub-0.nii.gz"),
    ("one", "after", "sub-1.nii.gz"),
    ("two", "before", "sub-2.nii.gz"),
    ("two", "after", "sub-3.nii.gz"),
    ("three", "", "only.nii.gz"),
)
KILLED = """
import os, sys
from pathlib import Path
import pytest, groups
from hsyn_cli.cohort.batch import Work
from hsyn_cli.config.template import Settings
from hsyn_cli.template import carry, longitudinal

real, count = carry.carry, [0]


def counted(its):
    count[0] += 1
    if count[0] > 2:
        os._exit(9)
    return real(its)


carry.carry = counted
groups.here(pytest.MonkeyPatch())
settings = Settings(rounds=1, preset="fast", sharpen=0.0)
longitudinal.longitudinal_files(Path(sys.argv[1]), Path(sys.argv[2]), settings, Work(threads=1))
"""


def table(folder: Path, rows: Sequence[tuple[str, ...]], name: str = "subjects.csv") -> Path:
    lines = [",".join(row) for row in (("subject", "visit", "scan"), *rows)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("visits")
    groups.group(made, 4)
    sitk.WriteImage(groups.anatomy(seed=0) + 1.0, str(made / "only.nii.gz"))
    return made


@pytest.fixture(scope="module")
def made(folder: Path) -> Iterator[Template]:
    with pytest.MonkeyPatch.context() as patch:
        groups.here(patch)
        yield longitudinal_files(table(folder, ROWS), folder / "tpl", QUICK, ALONE)


def test_time(made: Template) -> None:
    import json
    print(json.dumps(made.record["longitudinal"], indent=1)[:6000])
    print(made.record["warnings"])
