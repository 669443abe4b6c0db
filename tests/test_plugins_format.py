"""A form of fields that someone adds: one file in the folder of the forms, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from samples import GRIDS, field_image

from hsyn_cli import cli
from hsyn_cli.cli import run
from hsyn_cli.errors import UsageError
from hsyn_cli.io import endings, formats
from hsyn_cli.tools.convert import convert

GRID = GRIDS["oblique"]
VALUES = np.random.default_rng(0).normal(0, 5, (*GRID.size[::-1], 3)).astype(np.float32)

METRES = '''
"""Vectors in metres, R, P, I: what a NIfTI file of an intent of its own holds."""

import numpy as np

from hsyn_cli.io.formats import Form


class Metres(Form):
    about = "metres, RPI: NIfTI intent 2050; affines .metres"
    affine_endings = (".metres",)
    intent = 2050

    def coordinates(self, grid):
        return np.diag([-1e-3, 1e-3, -1e-3, 1]) @ super().coordinates(grid)


FORM = Metres()
'''
RAW = '''
"""Vectors in mm, LPS, and where they lie, in a file of a kind of its own."""

import json
from pathlib import Path

import numpy as np

from hsyn_cli.io import atomic
from hsyn_cli.io.formats import Form
from hsyn_cli.space import Grid


class Raw(Form):
    about = "mm, LPS: .raw with one line of JSON on top"
    field_endings = (".raw",)

    def load_field(self, path, told):
        head, data = path.read_bytes().split(b"\\n", 1)
        grid = Grid(*map(tuple, json.loads(head)))
        return np.frombuffer(data, "<f4").reshape(*grid.size[::-1], 3).astype(float), grid

    def save_field(self, vectors, grid, path, layout):
        where = [grid.size, grid.spacing, grid.origin, grid.direction]
        data = vectors.astype("<f4").tobytes()
        atomic.write_bytes(path, json.dumps(where).encode() + b"\\n" + data)


FORM = Raw()
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with field.nii.gz; the forms metres and raw lie in its folder forms."""
    folder = tmp_path / "forms"
    folder.mkdir()
    (folder / "metres.py").write_text(METRES)
    (folder / "raw.py").write_text(RAW)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    for name in ("metres", "raw", "raw_twin"):  # gone again after the test
        monkeypatch.setitem(sys.modules, f"{formats.__name__}.{name}", None)
        monkeypatch.delitem(sys.modules, f"{formats.__name__}.{name}")
        monkeypatch.setattr(formats, name, None, raising=False)
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(sitk.Cast(field_image(GRID, VALUES), sitk.sitkVectorFloat32), "field.nii.gz")
    return tmp_path


def values(path: str) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(path)))


def test_help_and_choices_list_a_new_form(here: Path) -> None:
    text = CliRunner().invoke(cli.cli, ["convert", "--help"]).output
    assert "  metres      metres, RPI: NIfTI intent 2050; affines .metres" in text
    assert "  raw         mm, LPS: .raw with one line of JSON on top" in text
    assert "  itk         mm, LPS" in text
    wrong = CliRunner().invoke(cli.cli, ["convert", "a.nii", "b.nii", "--to", "none"])
    assert wrong.exit_code == 2
    assert "'metres'" in wrong.output
    command = cli.cli.commands["convert"]
    option = next(each for each in command.params if each.name == "target_form")
    items = option.shell_complete(click.Context(command), "r")
    assert [item.value for item in items] == ["ras", "raw"]


def test_convert_writes_and_guesses_an_intent_of_its_own(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "field.nii.gz", "m.nii.gz", "--to", "metres"]) == 0
    assert "field, itk to metres: m.nii.gz" in capfd.readouterr().out
    image = nib.load("m.nii.gz")
    assert int(image.header["intent_code"]) == 2050
    stored = image.get_fdata()[:, :, :, 0].transpose(2, 1, 0, 3)
    np.testing.assert_allclose(stored, VALUES * (-1e-3, 1e-3, -1e-3), rtol=1e-6)
    assert run(["convert", "m.nii.gz", "back.nii.gz"]) == 0
    assert "field, metres to itk: back.nii.gz" in capfd.readouterr().out
    np.testing.assert_allclose(values("back.nii.gz"), VALUES, rtol=0, atol=1e-5)


def test_convert_writes_and_guesses_an_ending_of_its_own(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "field.nii.gz", "f.raw"]) == 0
    assert "field, itk to raw: f.raw" in capfd.readouterr().out
    assert run(["convert", "f.raw", "back.nii.gz"]) == 0
    np.testing.assert_array_equal(values("back.nii.gz"), VALUES)
    assert run(["convert", "f.raw", "again.nii.gz", "--from", "itk"]) == 2
    assert "f.raw can only hold the form raw, not itk" in capfd.readouterr().err
    assert run(["convert", "field.nii.gz", "f.nii", "--to", "raw"]) == 2
    assert "the form raw of a field is written as .raw" in capfd.readouterr().err


def test_convert_takes_an_affine_of_a_new_form_there_and_back(here: Path) -> None:
    matrix = np.array([[1.0, 0.1, 0, 5], [0, 1.1, 0, -6], [0.2, 0, 0.9, 7], [0, 0, 0, 1]])
    formats.write_affine(matrix, Path("a.mat"), "itk")
    done = convert(Path("a.mat"), Path("a.metres"))
    assert (done.content, done.target_form) == ("affine", "metres")
    flip = np.diag([-1e-3, 1e-3, -1e-3, 1])
    expected = flip @ matrix @ np.linalg.inv(flip)
    np.testing.assert_allclose(np.loadtxt("a.metres"), expected, atol=1e-12)
    assert convert(Path("a.metres"), Path("b.tfm")).source_form == "metres"
    np.testing.assert_allclose(formats.read(Path("b.tfm")), matrix, atol=1e-9)


def test_two_forms_that_claim_one_name_are_told(here: Path) -> None:
    twin = (here / "forms" / "raw.py").read_text()
    (here / "forms" / "raw_twin.py").write_text(twin)
    (here / "f.raw").write_bytes(b"")
    with pytest.raises(UsageError, match=r"f\.raw may be raw or raw_twin") as caught:
        formats.guess_form(here / "f.raw")
    assert caught.value.hint == "give --from raw or raw_twin"
    with pytest.raises(UsageError, match=r"f\.raw may be raw or raw_twin"):
        formats.guess_target_form(here / "f.raw", "field")


def test_the_forms_of_hsyn_are_their_files_and_found_by_name() -> None:
    assert formats.names() == [
        "freesurfer", "fsl", "itk", "niftyreg", "positions", "ras", "spm", "voxel",
    ]  # fmt: skip
    for name in formats.names():
        form = formats.find(name)
        assert form.name == name
        assert form.about
        assert form.field_endings or form.affine_endings
    with pytest.raises(UsageError, match="unknown form 'none'"):
        formats.find("none")


def test_the_table_of_endings_names_each_once_and_ignores_case() -> None:
    tables = (endings.IMAGES, endings.WRITABLE, endings.NUMPY, endings.TRANSFORMS)
    for table in tables:
        assert len(set(table)) == len(table)
        assert all(ending == ending.lower() and ending.startswith(".") for ending in table)
    assert set(endings.NIFTI) < set(endings.WRITABLE) < set(endings.IMAGES)
    assert set(endings.HDF5) < set(endings.TRANSFORMS)
    assert not set(endings.IMAGES) & {*endings.TRANSFORMS, *endings.NUMPY}
    assert endings.ends(Path("some.nii/A.NII.GZ"), endings.NIFTI)
    assert not endings.ends(Path("a.nii.gz/b.mat"), endings.IMAGES)


def test_help_of_convert_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom hsyn_cli.cli import run\nrun(['convert', '--help'])\n"
        "print(sorted({'torch', 'SimpleITK', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
