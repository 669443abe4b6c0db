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


MATRIX_OFFSET = """#Insight Transform File V1.0
#Transform 0
Transform: MatrixOffsetTransformBase_{kind}
Parameters: {parameters}
FixedParameters: {fixed}
"""


def matrix_offset(kind: str = "double_3_3", parameters: str = "0 1 0 -1 0 0 0 0 1 2 3 4") -> str:
    """What c3d_affine_tool writes; SimpleITK has no class for it."""
    return MATRIX_OFFSET.format(
        kind=kind, parameters=parameters, fixed="5 6 7"[: 2 * int(kind[-1]) - 1]
    )


@pytest.mark.parametrize("kind", ["double_3_3", "float_3_3", "double_2_2"])
def test_a_transform_of_c3d_is_an_affine(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c3d.txt"
    flat = kind.endswith("2")
    path.write_text(matrix_offset(kind, "0 1 -1 0 2 3") if flat else matrix_offset(kind))
    found = read_transform(path)
    assert found.dimension == (2 if flat else 3)
    # A (p - c) + c + t, with c = (5, 6, 7)
    start = (7.0, 3.0, 0.0) if flat else (7.0, 3.0, 9.0)
    expected = (5 + (3 - 6) + 2, 6 - (7 - 5) + 3, 0.0 if flat else 7 + (9 - 7) + 4)
    assert found.transform.TransformPoint(start) == pytest.approx(expected)


def test_files_of_other_content_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    whole = matrix_offset()
    cases = (
        (matrix_offset(parameters="0 1 0 -1 0 0 0 0 1 2 3"), "not a transform that ITK can read"),
        (whole + whole.partition("\n")[2], "holds 2 transforms, and hsyn takes one"),
        (whole.rstrip("\n"), "its last line does not end"),
    )
    for content, text in cases:
        path.write_text(content)
        with pytest.raises(InputError, match=text) as caught:
            read_transform(path)
        assert "FSL" not in caught.value.hint


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
