"""Linear transforms in files: those of ITK come back, the others are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io.transforms import read_transform, write_transform


@pytest.mark.parametrize("extension", [".mat", ".tfm", ".txt", ".h5"])
def test_linear_transforms_come_back(tmp_path: Path, extension: str) -> None:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0, 1.2))
    affine.SetTranslation((3, -40, 5))
    affine.SetCenter((10, 20, 30))
    rigid = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))
    given: list[sitk.Transform] = [affine, rigid]
    if extension != ".mat":  # MATLAB files hold one transform
        given.append(sitk.CompositeTransform([affine, rigid]))
    for transform in given:
        path = tmp_path / f"t{extension}"
        write_transform(transform, path)
        read = read_transform(path)
        point = (7.0, -8.0, 9.0)
        assert read.transform.TransformPoint(point) == pytest.approx(
            transform.TransformPoint(point), abs=1e-6
        )
        assert read.transform.GetCenter() == (0, 0, 0)


def test_transforms_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "fsl.mat"
    path.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(InputError, match="not a transform that ITK can read") as caught:
        read_transform(path)
    assert "FSL" in caught.value.hint
    path.rename(tmp_path / "a.lta")
    with pytest.raises(InputError, match="not a transform that ITK can read") as caught:
        read_transform(tmp_path / "a.lta")
    assert "a.lta affine.tfm" in caught.value.hint
    with pytest.raises(InputError, match=r"initial transform .*: no such file"):
        read_transform(tmp_path / "none.mat")
    curved = sitk.BSplineTransformInitializer(sitk.Image([8, 8, 8], sitk.sitkFloat32), (2, 2, 2))
    flat = sitk.AffineTransform(3)
    flat.SetMatrix((1, 0, 0, 0, 1, 0, 0, 1, 0))
    for transform, text in (
        (sitk.BSplineTransform(2), "2-D BSplineTransform cannot be used"),
        (curved, "not a linear transform"),
        (flat, "cannot be inverted"),
    ):
        write_transform(transform, tmp_path / "t.tfm")
        with pytest.raises(InputError, match=text):
            read_transform(tmp_path / "t.tfm")
