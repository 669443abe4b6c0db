"""Forms of FSL, SPM and FreeSurfer against nitransforms, and against files of those programs.

The files come with nitransforms: FreeSurfer's bbregister, mri_robust_register and lta_convert wrote
them, the last one also in the forms of ITK and FSL.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nitransforms
import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, waves
from forms import OTHER, array, blank, every_grid, read, saved
from nitransforms.io.lta import FSLinearTransform
from nitransforms.nonlinear import DenseFieldTransform
from samples import GRIDS, voxel_points

from hsyn_cli.cli import run
from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import formats
from hsyn_cli.io.formats import freesurfer
from hsyn_cli.space import Array, Grid, affine_parts, from_ras
from hsyn_cli.tools import chain
from hsyn_cli.tools.convert import convert

FILES = Path(nitransforms.__file__).parent / "tests" / "data"
OF_FREESURFER = (
    "from-fsnative_to-bold_mode-image",
    "from-fsnative_to-scanner_mode-image",
    "from-scanner_to-bold_mode-image",
    "from-scanner_to-fsnative_mode-image",
)
FLIP = np.diag([-1.0, -1, 1, 1])
TOLERANCE = 1e-4  # mm

every_file = pytest.mark.parametrize("name", OF_FREESURFER)


def affine() -> Array:
    """That of `chains`, (4, 4), mm LPS."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine_parts(AFFINE)
    return matrix


def by_itk(path: Path) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine_parts(sitk.ReadTransform(str(path)))
    return matrix


def apart(a: Array, b: Array) -> float:
    """How far two affines take a point within 100 mm apart."""
    corners = np.array(
        [(x, y, z, 1) for x in (-100, 100) for y in (-100, 100) for z in (-100, 100)]
    )
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def grids_of(path: Path) -> tuple[Grid, Grid]:
    """The fixed and the moving grid that an LTA file names."""
    lines = path.read_text().splitlines()
    _, _, *both = freesurfer._parsed([line.partition("#")[0] for line in lines])
    sizes = [[int(n) for n in line.split()[2:]] for line in lines if line.startswith("volume")]
    assert both[0] is not None
    assert both[1] is not None
    return from_ras(both[1], sizes[1]), from_ras(both[0], sizes[0])


@every_file
def test_files_of_freesurfer_say_what_lta_convert_made_of_them(name: str, tmp_path: Path) -> None:
    path = FILES / "regressions" / f"{name}.lta"
    assert formats.guess_form(path) == "freesurfer"
    expected = by_itk(path.with_suffix(".tfm"))
    assert apart(expected, np.eye(4)) > 0.01
    found = formats.read(path)
    assert apart(np.asarray(found), expected) < 2e-3  # the .tfm has float32 of v2v matrices
    fixed, moving = grids_of(path)
    flirt = formats.read(path.with_suffix(".fsl"), "fsl", fixed, moving)
    assert apart(np.asarray(flirt), np.asarray(found)) < 2e-3
    convert(path, tmp_path / "again.lta", fixed=fixed, moving=moving)
    assert apart(np.asarray(formats.read(tmp_path / "again.lta")), np.asarray(found)) < 1e-9
    in_mm = path.with_name(f"{name}_type-ras2ras.lta")
    if in_mm.exists():
        assert apart(np.asarray(formats.read(in_mm)), np.asarray(found)) < 2e-3


@every_grid
def test_nitransforms_reads_and_writes_lta_alike(name: str, tmp_path: Path) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    formats.write_affine(affine(), tmp_path / "a.lta", "freesurfer", fixed, moving)
    theirs = FSLinearTransform.from_filename(tmp_path / "a.lta")
    assert apart(FLIP @ theirs.to_ras() @ FLIP, affine()) < TOLERANCE
    images = blank(moving, tmp_path / "m.nii"), blank(fixed, tmp_path / "f.nii")
    for key, image in zip(("src", "dst"), images, strict=True):
        np.testing.assert_allclose(theirs[key].as_affine(), image.affine, atol=1e-4)
        assert theirs[key]["volume"].tolist() == list(image.shape)
    made = FSLinearTransform.from_ras(FLIP @ affine() @ FLIP, moving=images[0], reference=images[1])
    made.to_filename(tmp_path / "b.lta")
    assert apart(np.asarray(formats.read(tmp_path / "b.lta")), affine()) < TOLERANCE


@every_grid
def test_lta_in_voxels(name: str, tmp_path: Path) -> None:
    """Source voxel -> destination voxel, with the geometry in the file or of the images."""
    fixed, moving = GRIDS[name], OTHER[name]
    path = tmp_path / "a.lta"
    formats.write_affine(affine(), path, "freesurfer", fixed, moving)
    to_moving, to_fixed = (
        blank(grid, tmp_path / "x.nii").affine.astype(float) for grid in (moving, fixed)
    )
    back = np.linalg.inv(FLIP @ affine() @ FLIP)  # moving -> fixed, mm RAS
    voxels = np.linalg.inv(to_fixed) @ back @ to_moving
    lines = path.read_text().splitlines()
    lines[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    lines[5:9] = [" ".join(map(str, row)) for row in voxels.tolist()]
    path.write_text("\n".join([*lines, "subject someone", "fscale 0.1", ""]))
    assert apart(np.asarray(formats.read(path)), affine()) < TOLERANCE
    assert apart(np.asarray(formats.read(path, None, fixed, moving)), affine()) < TOLERANCE
    with pytest.raises(GeometryError, match="not on the grid") as turned:
        formats.read(path, None, moving, fixed)
    assert "the other way round" in turned.value.hint
    path.write_text(path.read_text().replace("valid = 1  # volume info valid", "valid = 0"))
    with pytest.raises(UsageError, match="lacks the geometry") as caught:
        formats.read(path)
    assert "--reference FIXED --moving MOVING" in caught.value.hint
    assert apart(np.asarray(formats.read(path, None, fixed, moving)), affine()) < TOLERANCE


def test_lta_files_that_hsyn_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid, path = GRIDS["oblique"], Path("a.lta")
    saved(waves(grid), Path("f.nii.gz"))
    formats.write_affine(affine(), path, "freesurfer", grid, grid)
    good = path.read_text()
    for old, new, told in (
        ("type      = 1", "type      = 14", "does not read LTA files of type 14"),
        ("nxforms   = 1", "nxforms   = 2", "not a whole LTA file of one matrix"),
        ("1 4 4", "1 4 3", "not a whole LTA file"),
        ("src volume info", "", "not a whole LTA file"),
        ("voxelsize", "voxel", "not a whole LTA file"),
        (good[-300:], "", "not a whole LTA file"),
    ):
        path.write_text(good.replace(old, new))
        with pytest.raises(InputError, match=told) as caught:
            formats.read(path)
        assert "lta_convert" in caught.value.hint
    path.write_text(good)
    with pytest.raises(UsageError, match="geometry of both images"):
        convert(path, Path("b.lta"))
    with pytest.raises(UsageError, match="no field of form freesurfer"):
        convert(Path("f.nii.gz"), Path("b.lta"), target_form="freesurfer")
    with pytest.raises(InputError, match="no such file"):
        formats.read(Path("none.lta"))
    assert run(["compose", "-t", "a.lta", "-r", "f.nii.gz", "-o", "o.nii.gz"]) == 3
    assert "hsyn convert FILE.lta affine.tfm" in capfd.readouterr().err
    assert run(["convert", "a.lta", "affine.tfm"]) == 0
    assert run(["compose", "-t", "affine.tfm", "-r", "f.nii.gz", "-o", "o.nii.gz"]) == 0


@every_grid
def test_flirt_is_that_of_nitransforms(name: str, tmp_path: Path) -> None:
    fixed, moving = GRIDS[name], OTHER[name]
    images = {
        "moving": blank(moving, tmp_path / "m.nii"),
        "reference": blank(fixed, tmp_path / "f.nii"),
    }
    formats.write_affine(affine(), tmp_path / "a.mat", "fsl", fixed, moving)
    theirs = nitransforms.io.fsl.FSLLinearTransform.from_filename(tmp_path / "a.mat")
    assert apart(FLIP @ theirs.to_ras(**images) @ FLIP, affine()) < 1e-3  # float32 of the headers
    made = nitransforms.io.fsl.FSLLinearTransform.from_ras(FLIP @ affine() @ FLIP, **images)
    made.to_filename(tmp_path / "b.mat")
    found = np.asarray(formats.read(tmp_path / "b.mat", "fsl", fixed, moving))
    assert apart(found, affine()) < 1e-3


@pytest.mark.parametrize("x", [-1.0, 1.0], ids=["RAS", "LAS"])
def test_fsl_warps_on_one_grid_are_those_of_nitransforms(x: float, tmp_path: Path) -> None:
    """It flips x alone, which is right for these axes, if both images have one grid."""
    direction = (x, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    grid, path = replace(GRIDS["RAS"], direction=direction), tmp_path / "warp.nii.gz"
    formats.write_field(waves(grid), path, "fsl", grid)
    theirs = DenseFieldTransform(nitransforms.io.fsl.FSLDisplacementsField.from_filename(path))
    points = voxel_points(grid)[1:-1, 1:-1, 1:-1].reshape(-1, 3)
    moved = theirs.map(points * (-1, -1, 1)) * (-1, -1, 1)
    expected = points + array(waves(grid))[1:-1, 1:-1, 1:-1].reshape(-1, 3)
    assert np.abs(moved - expected).max() < TOLERANCE


@every_grid
def test_absolute_warps_of_fsl_are_read(name: str, tmp_path: Path) -> None:
    """convertwarp --absout adds the reference's own FSL coordinates."""
    fixed = GRIDS[name]
    moving = replace(fixed, size=(11, 10, 8), spacing=(1.1, 0.9, 2.3))
    formats.write_field(waves(fixed), tmp_path / "rel.nii.gz", "fsl", moving)
    relative = nib.load(tmp_path / "rel.nii.gz")
    index = np.stack(np.meshgrid(*map(np.arange, fixed.size), indexing="ij"), -1)
    to_fsl = formats.find("fsl").coordinates(fixed)
    own = index @ to_fsl[:3, :3].T + to_fsl[:3, 3]
    values = (relative.get_fdata() + own).astype("f4")
    absolute = nib.Nifti1Image(values, relative.affine, relative.header)
    nib.save(absolute, tmp_path / "abs.nii.gz")
    found = array(read(tmp_path / "abs.nii.gz", None, None, moving))
    assert np.abs(found - array(waves(fixed))).max() < TOLERANCE


@every_grid
def test_spm_is_that_of_nitransforms(name: str, tmp_path: Path) -> None:
    """Positions, mm RAS: there and back."""
    grid, path = GRIDS[name], tmp_path / "y_a.nii.gz"
    formats.write_field(waves(grid), path, "spm")
    image = nib.load(path)
    points = voxel_points(grid)[1:-1, 1:-1, 1:-1].reshape(-1, 3)
    theirs = DenseFieldTransform(
        nib.Nifti1Image(image.get_fdata()[:, :, :, 0], image.affine), is_deltas=False
    )
    moved = theirs.map(points * (-1, -1, 1)) * (-1, -1, 1)
    expected = points + array(waves(grid))[1:-1, 1:-1, 1:-1].reshape(-1, 3)
    assert np.abs(moved - expected).max() < TOLERANCE
    assert np.abs(array(read(path)) - array(waves(grid))).max() < TOLERANCE


def test_a_composite_that_ants_wrote() -> None:
    path = FILES / "affine-antsComposite.h5"
    (link,) = chain.read([path]).links
    (theirs,) = nitransforms.io.itk.ITKCompositeH5.from_filename(path)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine_parts(link.transform)
    assert apart(matrix, FLIP @ theirs.to_ras() @ FLIP) < 1e-4
