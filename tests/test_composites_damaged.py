"""Composite.h5 that is damaged, cut, empty or of no use: one clear line, and no crash of HDF5."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from chains import AFFINE, grid, waves

from hsyn_cli.errors import InputError, OutputError, UsageError
from hsyn_cli.io import images
from hsyn_cli.io.composites import write_composite
from hsyn_cli.tools import chain as chains
from hsyn_cli.tools.convert import convert

GROUP = "TransformGroup/"


def replaced(name: str, value: Any) -> Callable[[Any], None]:
    """A change of one item of a file; None removes it."""

    def change(file: Any) -> None:
        del file[GROUP + name]
        if value is not None:
            file[GROUP + name] = value

    return change


def fixed(index: int, number: float) -> Callable[[Any], None]:
    """A change of one of the fixed parameters of the field."""

    def change(file: Any) -> None:
        file[GROUP + "2/TransformFixedParameters"][index] = number

    return change


NO_READER = "is not a transform that ITK can read"
DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no group": (lambda file: file.__delitem__("TransformGroup"), NO_READER),
    "no parameters": (replaced("2/TransformParameters", None), NO_READER),
    "few parameters": (
        replaced("2/TransformParameters", np.zeros(99, "f4")),
        "too many or too few",
    ),
    "no kind": (replaced("2/TransformType", None), NO_READER),
    "unknown kind": (replaced("2/TransformType", [b"FooTransform_float_3_3"]), NO_READER),
    "size": (fixed(0, 1e6), "too many or too few"),
    "spacing": (fixed(6, 0), NO_READER),
    "origin": (fixed(3, np.nan), "holds numbers that are no use"),
    "direction": (fixed(9, np.nan), "holds numbers that are no use"),
    "affine nan": (replaced("1/TransformParameters", np.full(12, np.nan)), "are no use"),
    "affine short": (
        replaced("1/TransformParameters", np.eye(3).ravel()[:7]),
        "too many or too few",
    ),
    "affine flat": (replaced("1/TransformParameters", np.zeros(12)), "cannot be inverted"),
    "2-D": (replaced("1/TransformType", [b"AffineTransform_float_2_2"]), "too many or too few"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_told(
    tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path, (damage, told) = tmp_path / "bad.h5", DAMAGE[what]
    write_composite([waves(grid("RAS")), AFFINE], path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=told):
        images.read_field(path)
    with pytest.raises(InputError, match=told):
        chains.read([path])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_cut_file_is_told(tmp_path: Path, share: float) -> None:
    path = tmp_path / "bad.h5"
    write_composite([waves(grid("RAS")), AFFINE], path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=NO_READER):
        chains.read([path])


def test_nan_in_the_field_and_an_empty_composite(tmp_path: Path) -> None:
    field = waves(grid("RAS"))
    field[3, 3, 3] = (np.nan, 0, 0)
    write_composite([field], tmp_path / "nan.h5")
    for read in (images.read_field, lambda path: chains.read([path])):
        with pytest.raises(InputError, match="NaN"):
            read(tmp_path / "nan.h5")
    write_composite([], tmp_path / "empty.h5")
    with pytest.raises(InputError, match="holds no transform"):
        chains.read([tmp_path / "empty.h5"])


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("size", [0, 900, 20_000])
def test_a_full_disk_is_told(tmp_path: Path, size: int) -> None:
    """HDF5 itself crashes on one."""
    import resource

    field = waves(grid("RAS"))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        with pytest.raises(OutputError, match=r"all\.h5: no space left"):
            write_composite([field, AFFINE], tmp_path / "all.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert os.listdir(tmp_path) == []


def test_h5_can_only_be_of_itk(tmp_path: Path) -> None:
    write_composite([waves(grid("RAS"))], tmp_path / "a.h5")
    with pytest.raises(UsageError, match="can only hold the form itk"):
        convert(tmp_path / "a.h5", tmp_path / "b.nii.gz", source_form="ras")
