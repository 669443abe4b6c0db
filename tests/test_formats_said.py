"""Forms of other programs by what their files say: SPM, NiftyReg, greedy, FreeSurfer."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from forms import array, field, read
from samples import GRIDS

from hsyn_cli.cli import run
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import files, formats, images, writing
from hsyn_cli.space import to_ras
from hsyn_cli.tools.convert import convert

GRID = GRIDS["oblique"]
LPS = array(field(GRID))  # (Z, Y, X, 3)


def ras_of(vectors: np.ndarray) -> np.ndarray:
    """(Z, Y, X, 3) LPS -> (X, Y, Z, 1, 3) RAS, as NIfTI has it."""
    return (vectors * (-1, -1, 1)).transpose(2, 1, 0, 3)[:, :, :, None].astype("f4")


def own() -> np.ndarray:
    """(X, Y, Z, 1, 3): the place of each voxel, mm RAS, by nibabel."""
    index = np.stack(np.meshgrid(*map(np.arange, GRID.size), indexing="ij"), -1)
    return nib.affines.apply_affine(to_ras(GRID), index)[:, :, :, None].astype("f4")


def save(path: Path, vectors: np.ndarray, code: int, name: str = "", p1: float = 0) -> Path:
    image = nib.Nifti1Image(vectors, to_ras(GRID))
    image.header.set_intent(code, name=name, allow_unknown=True)
    image.header["intent_p1"] = p1
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("form", "values", "name", "p1"),
    [
        ("spm", own() + ras_of(LPS), "Mapping", 0),
        ("niftyreg", own() + ras_of(LPS), "NREG_TRANS", 0),
        ("niftyreg", ras_of(LPS), "NREG_TRANS", 1),
    ],
)
def test_a_field_that_says_what_it_is(
    form: str, values: np.ndarray, name: str, p1: float, tmp_path: Path
) -> None:
    path = save(tmp_path / "a b.nii", values, 1007, name, p1)
    assert formats.guess_form(path) == form
    np.testing.assert_allclose(array(read(path)), LPS, atol=1e-4)
    with pytest.raises(InputError) as caught:
        images.read_field(path)
    command = caught.value.hint.removeprefix("convert it: ")
    assert command == f"hsyn convert '{path}' field.nii.gz --from {form}"
    convert(path, tmp_path / "b.nii.gz")
    np.testing.assert_allclose(
        array(images.read_field(tmp_path / "b.nii.gz").image), LPS, atol=1e-4
    )
    convert(path, tmp_path / "c.nii", target_form=form)
    assert nib.load(tmp_path / "c.nii").header.get_intent()[2] == name
    np.testing.assert_allclose(array(read(tmp_path / "c.nii")), LPS, atol=1e-4)


def test_control_points_and_velocities_are_no_fields(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ras_of(LPS), 1007, "NREG_TRANS", 5)
    for reading in (images.read_field, read):
        with pytest.raises(InputError, match="control points or velocities") as caught:
            reading(path)
        assert "reg_transform" in caught.value.hint


def test_positions_that_nothing_describes(tmp_path: Path) -> None:
    """The command that the refusal names works, and so does the other one."""
    path = save(tmp_path / "a.nii", own() + ras_of(LPS), 1007)
    with pytest.raises(InputError, match="holds positions, it seems") as caught:
        convert(path, tmp_path / "b.nii")
    assert "--from spm;" in caught.value.hint
    convert(path, tmp_path / "b.nii", source_form="spm")
    np.testing.assert_allclose(array(images.read_field(tmp_path / "b.nii").image), LPS, atol=1e-4)
    convert(path, tmp_path / "c.nii", source_form="itk")
    images.read_field(tmp_path / "c.nii")
    flipped = save(tmp_path / "d.nii", (own() + ras_of(LPS)) * np.float32([-1, -1, 1]), 1007)
    with pytest.raises(InputError) as caught:
        images.read_field(flipped)
    assert "--from positions;" in caught.value.hint
    convert(flipped, tmp_path / "e.nii", source_form="positions")
    np.testing.assert_allclose(array(images.read_field(tmp_path / "e.nii").image), LPS, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_intent_1006_is_ras_wherever_the_components_stand(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = save(tmp_path / "a.nii", ras_of(LPS).reshape(*GRID.size, *shape), 1006)
    np.testing.assert_allclose(array(images.read_field(path).image), LPS, atol=1e-5)
    np.testing.assert_allclose(array(read(path)), LPS, atol=1e-5)


def test_a_warp_of_freesurfer(tmp_path: Path) -> None:
    vectors = ras_of(LPS)[:, :, :, 0]
    nib.save(nib.MGHImage(vectors, to_ras(GRID).astype("f4")), tmp_path / "a.mgz")
    plain = files.content(tmp_path / "a.mgz")
    with plain as stream:
        raw = bytearray(stream.read(1 << 20))
    raw[2] = 1  # the intent, in the version
    (tmp_path / "b.mgh").write_bytes(raw)
    with pytest.raises(InputError, match="is a warp of FreeSurfer") as caught:
        images.read_field(tmp_path / "b.mgh")
    assert "--from ras" in caught.value.hint
    with pytest.raises(InputError, match="does not say what its vectors are"):
        images.read_field(tmp_path / "a.mgz")
    for name in ("a.mgz", "b.mgh"):
        np.testing.assert_allclose(array(read(tmp_path / name, "ras")), LPS, atol=1e-5)


def test_a_plain_matrix_in_mat_is_flirts_or_greedys(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, 3] = (1, 2, 3)
    np.savetxt(tmp_path / "a.mat", matrix)
    with pytest.raises(UsageError, match="may be fsl or ras") as caught:
        convert(tmp_path / "a.mat", tmp_path / "b.tfm")
    assert "--from fsl or ras" in caught.value.hint
    convert(tmp_path / "a.mat", tmp_path / "b.tfm", source_form="ras")
    moved = sitk.ReadTransform(str(tmp_path / "b.tfm")).TransformPoint((0.0, 0.0, 0.0))
    assert moved == pytest.approx((-1, -2, 3))


def test_a_chain_in_one_file_that_begins_with_an_affine_leads_to_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    warp = sitk.DisplacementFieldTransform(field(GRID))
    chain = sitk.CompositeTransform([warp, sitk.AffineTransform(3)])
    sitk.WriteTransform(chain, "chain.h5")
    writing.write_image(sitk.Cast(field(GRID), sitk.sitkVectorFloat32), tmp_path / "f.nii.gz")
    for command in (["invert", "chain.h5"], ["convert", "chain.h5", "x.nii.gz"]):
        assert run(command) == 3
        error = capfd.readouterr().err
        assert "hsyn compose -t chain.h5 -r IMAGE -o field.nii.gz" in error
        assert error.count("\n") == 2
    assert run(["compose", "-t", "chain.h5", "-r", "f.nii.gz", "-o", "one.nii.gz"]) == 0
    np.testing.assert_allclose(
        array(images.read_field(tmp_path / "one.nii.gz").image), LPS, atol=1e-4
    )
