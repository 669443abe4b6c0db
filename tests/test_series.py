"""4-D series: volume by volume in and out, the timing kept, the memory that of one volume."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import hsyn_cli
from hsyn_cli.errors import InputError, OutputError, UsageError
from hsyn_cli.io import series

SHAPE = (6, 5, 7, 4)  # x, y, z, t
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 9], [0, 0, 0, 1]])


def save(
    path: Path, shape: tuple[int, ...] = SHAPE, pixel: str = "<i2", slope: float | None = None
) -> np.ndarray:
    """Writes a series of 2.5 s per volume that begins at 1 s; returns the values."""
    values = np.random.default_rng(3).integers(0, 900, shape).astype(pixel)
    image = nib.Nifti1Image(values, AFFINE, nib.Nifti1Header(endianness=pixel[0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    image.header["toffset"] = 1.0
    if slope is not None:
        image.header.set_slope_inter(slope, 10)
    nib.save(image, path)
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("pixel", "slope"), [("<i2", None), (">i2", None), ("<f4", None), ("<u1", 0.5)]
)
def test_volumes_are_those_of_the_file(
    tmp_path: Path, name: str, pixel: str, slope: float | None
) -> None:
    values = save(tmp_path / name, pixel=pixel, slope=slope)
    found = series.find(tmp_path / name)
    assert found is not None
    assert found.count == 4
    seen = list(series.volumes(found))
    for k, image in enumerate(seen):
        np.testing.assert_allclose(sitk.GetArrayFromImage(image), values[..., k].T, rtol=1e-6)
    whole = sitk.ReadImage(str(tmp_path / name))
    alone = whole[:, :, :, 2]
    assert (alone.GetSpacing(), alone.GetOrigin()) == (seen[2].GetSpacing(), seen[2].GetOrigin())
    assert alone.GetDirection() == seen[2].GetDirection()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["b.nii", "b.nii.gz"])
def test_what_is_written_reads_elsewhere_and_keeps_its_timing(tmp_path: Path, name: str) -> None:
    values = save(tmp_path / "a.nii.gz")
    found = series.find(tmp_path / "a.nii.gz")
    assert found is not None
    halves = (sitk.Cast(image, sitk.sitkFloat32) / 2 for image in series.volumes(found))
    series.write(halves, found, tmp_path / name)
    read = nib.load(tmp_path / name)
    assert read.shape == SHAPE
    assert read.header.get_zooms() == pytest.approx((1.5, 2.0, 3.0, 2.5))
    assert read.header.get_xyzt_units() == ("mm", "sec")
    assert float(read.header["toffset"]) == 1.0
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(read.get_fdata(), values / 2)
    again = sitk.ReadImage(str(tmp_path / name))
    assert (again.GetSize(), again.GetSpacing()[3]) == (SHAPE, 2.5)
    assert sorted(os.listdir(tmp_path)) == ["a.nii.gz", name]


def test_single_volumes_and_other_formats_are_no_series(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", SHAPE[:3])
    save(tmp_path / "b.nii", (*SHAPE[:3], 1))
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32), str(tmp_path / "c.nii.gz"))
    sitk.WriteImage(sitk.Image([4, 4, 4, 3], sitk.sitkFloat32), str(tmp_path / "d.nrrd"))
    assert [series.find(path) for path in sorted(tmp_path.iterdir())] == [None] * 4


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with pytest.raises(InputError, match="no such file"):
        series.find(path)
    values = save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the gzip stream is truncated"):
        series.find(path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-50]))
    with pytest.raises(InputError, match="is truncated"):
        series.find(path)
    save(path, (*SHAPE, 2))
    with pytest.raises(InputError, match="more than four axes"):
        series.find(path)
    bad = values.astype("<f4")
    bad[1, 2, 3, 2] = np.nan
    nib.save(nib.Nifti1Image(bad, AFFINE), path)
    with pytest.raises(InputError, match="holds 1 NaN"):
        series.find(path)


def test_nothing_is_left_of_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.nii")
    found = series.find(tmp_path / "a.nii")
    assert found is not None
    with pytest.raises(UsageError, match=r"\.nrrd: a series is written as NIfTI"):
        series.write(series.volumes(found), found, tmp_path / "b.nrrd")

    def breaks() -> object:
        yield from list(series.volumes(found))[:2]
        raise OSError(28, "no space")

    with pytest.raises(OutputError, match="no space left"):
        series.write(breaks(), found, tmp_path / "b.nii.gz")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["a.nii"]


PEAK = """
import sys
from pathlib import Path
import SimpleITK as sitk
from hsyn_cli.io.images import read_grid
from hsyn_cli.tools import chain
from hsyn_cli.tools.apply import Settings
from hsyn_cli.tools.apply_files import move_file
given = chain.read([sitk.Euler3DTransform((0, 0, 0), 0.1, 0, 0)])
source, out = map(Path, sys.argv[1:])
move_file(source, out, given, read_grid(source), Settings(), lambda x: None)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_many_volumes_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """A volume is 0.9 MB as float32: were they all kept, 60 of them would show."""
    peak = {}
    for count in (2, 60):
        save(tmp_path / f"{count}.nii.gz", (60, 60, 60, count))
        arguments = [str(tmp_path / f"{count}.nii.gz"), str(tmp_path / f"out{count}.nii.gz")]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])},
        )
        peak[count] = int(done.stdout) / 1024  # MB
    assert nib.load(tmp_path / "out60.nii.gz").shape == (60, 60, 60, 60)
    assert peak[60] - peak[2] < 12
