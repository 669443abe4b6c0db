"""The verbs from Python: images and paths give the same.

And the results are those of the command line's functions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, field_image, smooth_field

import hsyn_cli
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.space import Grid

GRID = Grid((20, 18, 16), (1.5, 1.2, 2.0), (-10.0, 4.0, 7.0), DIRECTIONS["oblique"])


@pytest.fixture
def field() -> sitk.Image:
    u = np.moveaxis(smooth_field(GRID.size[::-1], 0.5, 1)[0].numpy(), 0, -1)
    return sitk.Cast(field_image(GRID, u @ GRID.index_to_point.T), sitk.sitkVectorFloat32)


@pytest.fixture
def picture() -> sitk.Image:
    rng = np.random.default_rng(0)
    return GRID.stamp(
        sitk.GetImageFromArray(rng.uniform(0, 100, GRID.size[::-1]).astype(np.float32))
    )


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_all_verbs_are_there() -> None:
    for name in hsyn_cli.__all__:
        assert getattr(hsyn_cli, name) is not None
    with pytest.raises(AttributeError):
        _ = hsyn_cli.nothing


def test_apply_field_takes_images_and_paths_alike(
    field: sitk.Image, picture: sitk.Image, tmp_path: Path
) -> None:
    paths = [str(tmp_path / name) for name in ("p.nii.gz", "f.nii.gz")]
    for image, path in zip((picture, field), paths, strict=True):
        sitk.WriteImage(image, path)
    moved = hsyn_cli.apply_field(picture, field)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    np.testing.assert_array_equal(values(moved), values(sitk.Resample(picture, picture, transform)))
    np.testing.assert_allclose(
        values(hsyn_cli.apply_field(*paths, picture)), values(moved), atol=1e-3
    )
    near = values(hsyn_cli.apply_field(picture, [field], interpolation="nearest"))
    assert set(near.ravel()) <= set(values(picture).ravel()) | {0}


def test_invert_and_compose_give_the_identity_and_evaluate_agrees(
    field: sitk.Image, picture: sitk.Image
) -> None:
    inverse = hsyn_cli.invert(field).inverse
    round_trip = values(hsyn_cli.compose([inverse, field], picture))
    inner = (slice(3, -3),) * 3
    assert np.linalg.norm(round_trip[inner], axis=-1).max() < 0.006
    scores = hsyn_cli.evaluate(field, picture, inverse=inverse)
    assert scores.folding.min_det == pytest.approx(
        hsyn_cli.jacobian(field).folding.min_det, abs=1e-5
    )
    assert scores.folding.voxels == 0
    assert scores.labels is None


def test_evaluate_reads_labels_and_landmarks(
    field: sitk.Image, picture: sitk.Image, tmp_path: Path
) -> None:
    ids = sitk.Cast(picture > 50, sitk.sitkUInt8)
    middle = GRID.points(np.array([9.0, 8.0, 7.0]))
    table = tmp_path / "points.csv"
    row = ",".join(map(str, [*middle, *middle]))
    table.write_text(f"fx,fy,fz,mx,my,mz\n{row}\n")
    still = GRID.stamp(sitk.Image(list(GRID.size), sitk.sitkVectorFloat32, 3))
    still = sitk.Cast(still, sitk.sitkVectorFloat32)
    scores = hsyn_cli.evaluate(still, picture, fixed_labels=ids, moving_labels=ids, landmarks=table)
    assert scores.labels is not None
    assert scores.labels[0].dice == 1
    assert scores.landmarks is not None
    assert scores.landmarks.after.mean_mm == pytest.approx(0, abs=1e-4)


def test_images_in_memory_are_held_to_the_same_rules(
    field: sitk.Image, picture: sitk.Image
) -> None:
    broken = sitk.Image(field)
    broken[3, 3, 3] = (0.0, float("nan"), 0.0)
    for verb in (hsyn_cli.invert, hsyn_cli.jacobian):
        with pytest.raises(InputError, match="NaN"):
            verb(broken)
        with pytest.raises(InputError, match="not a displacement field"):
            verb(picture)
    with pytest.raises(InputError, match="fractional"):
        hsyn_cli.apply_field(picture, field, interpolation="label")
    with pytest.raises(UsageError, match="unknown interpolation"):
        hsyn_cli.apply_field(picture, field, interpolation="cubic")
    with pytest.raises(InputError, match="constant"):
        hsyn_cli.register(picture * 0 + 3, picture)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        hsyn_cli.jacobian(tmp_path / "none.nii.gz")
