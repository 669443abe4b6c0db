"""Fields and affines that hsyn does not convert: each with an error and a hint, and no file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from forms import OTHER, array, field, saved
from samples import GRIDS, field_image

from hsyn_cli.errors import GeometryError, InputError, OutputError, UsageError
from hsyn_cli.io import formats
from hsyn_cli.tools.convert import convert


def test_what_cannot_be_guessed_or_done_is_told(tmp_path: Path) -> None:
    grid = GRIDS["LPS"]
    warp, matrix = saved(field(grid), tmp_path / "w.nii.gz"), tmp_path / "a.mat"
    formats.write_affine(np.diag([1.1, 1.1, 1.1, 1.0]), matrix, "itk")
    np.savez(tmp_path / "d.npz", np.zeros((3, *grid.size), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.savez(tmp_path / "bad.npz", np.full((3, *grid.size), np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "x.xyz").write_text("hello")
    chain = sitk.CompositeTransform([sitk.Euler3DTransform(), sitk.BSplineTransform(3)])
    sitk.WriteTransform(chain, str(tmp_path / "chain.h5"))
    cases: list[tuple[type[Exception], str, Path, str, dict[str, object]]] = [
        (UsageError, "cannot be guessed from its name", tmp_path / "x.xyz", "o.nii", {}),
        (UsageError, "may be ITK's or a plain matrix", matrix, "o.txt", {}),
        (UsageError, "is written as", warp, "o.png", {}),
        (UsageError, "is written as", warp, "o.mhd", {}),
        (UsageError, "is written as .nii, .nii.gz", warp, "o.nrrd", {"target_form": "ras"}),
        (UsageError, "no affine of form voxel", matrix, "o.mat", {"target_form": "voxel"}),
        (UsageError, "moving image's grid", warp, "o.nii", {"target_form": "fsl"}),
        (UsageError, "depends on both images", matrix, "o.mat", {"target_form": "fsl"}),
        (UsageError, "holds no geometry", tmp_path / "d.npz", "o.nii", {}),
        (UsageError, "hold the form voxel", tmp_path / "d.npz", "o.nii", {"source_form": "ras"}),
        (UsageError, "--half and --channels", warp, "o.nii", {"half": True}),
        (InputError, "no such file", tmp_path / "none.nii.gz", "o.nii", {}),
        (InputError, "no such file", tmp_path / "none.npz", "o.nii", {"fixed": grid}),
        (InputError, "holds a, b", tmp_path / "two.npz", "o.nii", {"fixed": grid}),
        (InputError, "NaN", tmp_path / "bad.npz", "o.nii", {"fixed": grid}),
        (InputError, "no plain numpy array", tmp_path / "objects.npy", "o.nii", {"fixed": grid}),
        (
            GeometryError,
            "3 x 9 x 12 x 7|9 x 12 x 7 x 3",
            tmp_path / "d.npz",
            "o.nii",
            {"fixed": OTHER["LPS"]},
        ),
        (GeometryError, "another grid than the reference", warp, "o.npz", {"fixed": OTHER["LPS"]}),
        (InputError, "holds BSplineTransform, then Euler3D", tmp_path / "chain.h5", "o.nii", {}),
        (InputError, "not a matrix of form ras", matrix, "o.tfm", {"source_form": "ras"}),
    ]
    for kind, text, source, target, options in cases:
        with pytest.raises(kind, match=text) as caught:
            convert(source, tmp_path / target, **options)  # type: ignore[arg-type]
        assert caught.value.hint  # type: ignore[attr-defined]
        assert not (tmp_path / target).exists()


def test_coefficients_of_fnirt_are_no_field(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((5, 6, 7, 3), np.float32), np.eye(4))
    image.header["intent_code"] = 2007
    nib.save(image, tmp_path / "coef.nii.gz")
    with pytest.raises(InputError, match="coefficients"):
        convert(tmp_path / "coef.nii.gz", tmp_path / "o.nii.gz")


def test_a_file_that_comes_back_different_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(field(GRIDS["LPS"]), tmp_path / "in.nii.gz")
    true = formats.write_field

    def broken(image: sitk.Image, *more: object) -> float:
        return true(field_image(GRIDS["LPS"], array(image) * 1.001), *more)  # type: ignore[arg-type]

    monkeypatch.setattr(formats, "write_field", broken)
    with pytest.raises(OutputError, match="read back, it differs"):
        convert(source, tmp_path / "o.npz")
