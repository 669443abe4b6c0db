"""The output folder: which files, what is in them, and that they read elsewhere as they should."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from stand_ins import FACTS, FIXED, MOVING, FakeResult, fake_result, grid_image

from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.io import atomic, files
from hsyn_cli.results import report as reports
from hsyn_cli.results import run_folder
from hsyn_cli.results import written as written_files
from hsyn_cli.tools.labels import warp_labels


def make_report() -> reports.Report:
    source = reports.Source("x.nii.gz", "0" * 64)
    paths = {"forward_field": Path("forward_field.nii.gz")}
    return reports.assemble(
        FACTS, inputs={"moving": source, "fixed": source}, outputs=paths, seconds_total=1.0
    )


def written(wanted: run_folder.Wanted, labels: sitk.Image | None = None) -> FakeResult:
    result = fake_result()
    with atomic.claim(run_folder.targets(wanted).values()) as staging:
        written_files.write(result, wanted, staging, make_report, moving_labels=labels)
    return result


def same(path: Path, image: sitk.Image) -> bool:
    return bool(
        np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))), sitk.GetArrayFromImage(image)
        )
    )


def test_the_seven_files_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    result = written(run_folder.Wanted(folder))
    assert sorted(os.listdir(folder)) == [
        "affine.mat",
        "forward_field.nii.gz",
        "inverse_field.nii.gz",
        "inverse_warped.nii.gz",
        "report.html",
        "report.json",
        "warped.nii.gz",
    ]
    for name in ("warped", "inverse_warped", "forward_field", "inverse_field"):
        assert same(folder / f"{name}.nii.gz", getattr(result, name))
    for name in ("forward_field", "inverse_field"):
        assert int(nib.load(folder / f"{name}.nii.gz").header["intent_code"]) == 1007
    assert sitk.ReadTransform(str(folder / "affine.mat")).TransformPoint((0, 0, 0)) == (1, 2, 3)
    assert json.loads((folder / "report.json").read_text())["schema_version"] == 1
    assert "No voxel folds." in (folder / "report.html").read_text(encoding="utf-8")


def test_without_the_page(tmp_path: Path) -> None:
    written(run_folder.Wanted(tmp_path, html=False))
    assert "report.html" not in os.listdir(tmp_path)
    assert len(os.listdir(tmp_path)) == 6


def test_everything_that_can_be_asked_for(tmp_path: Path) -> None:
    wanted = run_folder.Wanted(
        tmp_path, str(tmp_path / "ants" / "sub1_"), midspace=True, labels=True
    )
    labels = sitk.Cast(grid_image(MOVING, 9) * 10, sitk.sitkInt16)
    result = written(wanted, labels)
    assert sorted(os.listdir(tmp_path / "ants")) == [
        "sub1_0GenericAffine.mat",
        "sub1_1InverseWarp.nii.gz",
        "sub1_1Warp.nii.gz",
        "sub1_InverseWarped.nii.gz",
        "sub1_Warped.nii.gz",
    ]
    assert same(tmp_path / "ants" / "sub1_1Warp.nii.gz", result.warp_field)
    assert same(tmp_path / "ants" / "sub1_1InverseWarp.nii.gz", result.inverse_warp_field)
    assert same(tmp_path / "ants" / "sub1_Warped.nii.gz", result.warped)
    assert same(tmp_path / "ants" / "sub1_InverseWarped.nii.gz", result.inverse_warped)
    assert same(tmp_path / "mid_to_moving_field.nii.gz", result.midspace.to_moving_field)
    assert same(tmp_path / "mid_to_fixed_field.nii.gz", result.midspace.to_fixed_field)
    assert same(tmp_path / "mid_moving.nii.gz", result.midspace.moving)
    assert same(tmp_path / "mid_fixed.nii.gz", result.midspace.fixed)
    assert sitk.ReadImage(str(tmp_path / "warped_labels.nii.gz")).GetPixelID() == sitk.sitkInt16
    assert all(path.is_file() for path in run_folder.targets(wanted).values())


@pytest.mark.parametrize("spacing", [None, 2.5])
def test_composites_hold_what_the_files_for_ants_hold(
    tmp_path: Path, spacing: float | None
) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    more = {"html": False, "keep": frozenset({"warped"}), "field_spacing": spacing}
    wanted = run_folder.Wanted(both, f"{both}/a_", composite=f"{both}/a_", **more)
    written(wanted)
    written(run_folder.Wanted(alone, composite=f"{alone}/a_", **more))
    names = ["a_Composite.h5", "a_InverseComposite.h5"]
    assert sorted(os.listdir(alone)) == [*names, "report.json", "warped.nii.gz"]
    for name in names:
        assert (both / name).read_bytes() == (alone / name).read_bytes()
    warp, back = (
        sitk.DisplacementFieldTransform(sitk.ReadImage(str(both / name), sitk.sitkVectorFloat64))
        for name in ("a_1Warp.nii.gz", "a_1InverseWarp.nii.gz")
    )
    affine = sitk.ReadTransform(str(both / "a_0GenericAffine.mat"))
    chains = ([affine, warp], [back, affine.GetInverse()])  # the last one first
    middle = fake_result().fixed.TransformContinuousIndexToPhysicalPoint((3.3, 4.1, 2.2))
    for name, chain in zip(names, chains, strict=True):
        expected = sitk.CompositeTransform(chain).TransformPoint(middle)
        assert np.linalg.norm(np.subtract(expected, middle)) > 1
        found = sitk.ReadTransform(str(alone / name)).TransformPoint(middle)
        assert found == pytest.approx(expected, abs=1e-4)
    report = json.loads((alone / "report.json").read_text())
    if spacing is not None:
        assert report["stored"]["field_errors"].keys() == {
            "ants_composite", "ants_inverse_composite"
        }  # fmt: skip
    assert run_folder.output_bytes(wanted, 10, 20)["ants_composite"] == 12 * 20


def test_an_ants_prefix_may_be_a_folder() -> None:
    paths = run_folder.targets(run_folder.Wanted(Path("out"), "ants/"))
    assert paths["ants_warp"] == Path("ants/1Warp.nii.gz")
    assert list(paths)[-1] == "report"


def test_an_ants_prefix_that_would_collide_where_case_does_not_count(tmp_path: Path) -> None:
    wanted = run_folder.Wanted(tmp_path, f"{tmp_path}/")  # Warped.nii.gz and warped.nii.gz
    with pytest.raises(OutputError, match="are one file on some disks"):
        written(wanted)


def test_labels_keep_large_ids_and_follow_the_field() -> None:
    values = np.zeros(FIXED[::-1], np.uint32)
    values[2, 3, 4], values[2, 3, 6] = 2**24 + 1, 2**32 - 1
    labels = sitk.GetImageFromArray(values)
    shift = np.zeros((*FIXED[::-1], 3), np.float32)
    shift[..., 0] = 2.2  # a fixed point is found 2.2 mm further left in the moving image
    warped = warp_labels(labels, sitk.GetImageFromArray(shift, isVector=True))
    assert warped.GetPixelID() == sitk.sitkUInt32
    expected = np.zeros_like(values)
    expected[..., :-2] = values[..., 2:]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(warped), expected)


def test_a_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> reports.Report:
        raise KeyboardInterrupt

    wanted = run_folder.Wanted(tmp_path / "out", str(tmp_path / "ants" / "a"))

    def run() -> None:
        with atomic.claim(run_folder.targets(wanted).values()) as staging:
            written_files.write(fake_result(), wanted, staging, broken)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert os.listdir(tmp_path) == []


def test_needed_bytes_cover_the_uncompressed_outputs(tmp_path: Path) -> None:
    wanted = run_folder.Wanted(tmp_path, str(tmp_path / "a_"), midspace=True, labels=True)
    result = fake_result()
    half = result.midspace
    scalars = [result.warped, result.inverse_warped] * 2 + [half.moving, half.fixed, result.warped]
    fields = [
        result.forward_field,
        result.inverse_field,
        result.warp_field,
        result.inverse_warp_field,
    ]
    fields += [half.to_moving_field, half.to_fixed_field]
    raw = sum(4 * image.GetNumberOfPixels() for image in scalars)
    raw += sum(12 * image.GetNumberOfPixels() for image in fields)
    moving, fixed = result.inverse_warped.GetNumberOfPixels(), result.warped.GetNumberOfPixels()
    needed = run_folder.needed_bytes(wanted, moving, fixed) - run_folder.PAGE_BYTES
    assert raw <= needed <= 2 * raw


@dataclass(frozen=True)
class Finished:
    folder: Path
    moving: Path
    fixed: Path
    result: FakeResult


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """A folder as `hsyn register` leaves it, and its two images."""
    result = fake_result()
    paths = {side: tmp_path / f"{side}.nii.gz" for side in ("moving", "fixed")}
    for side, path in paths.items():
        sitk.WriteImage(getattr(result, side), str(path))
    wanted = run_folder.Wanted(tmp_path / "out", html=False)

    def report() -> reports.Report:
        inputs = {s: reports.Source(str(p), files.fingerprint(p).sha256) for s, p in paths.items()}
        return reports.assemble(
            FACTS, inputs=inputs, outputs=run_folder.targets(wanted), seconds_total=1.0
        )

    with atomic.claim(run_folder.targets(wanted).values()) as staging:
        written_files.write(result, wanted, staging, report)
    return Finished(wanted.folder, paths["moving"], paths["fixed"], result)


def test_a_run_is_read_back(finished: Finished) -> None:
    run = written_files.read(finished.folder)
    for name in ("moving", "fixed", "warped", "forward_field", "inverse_field"):
        got, expected = (sitk.GetArrayFromImage(getattr(r, name)) for r in (run, finished.result))
        np.testing.assert_array_equal(got, expected)
    assert run.affine.TransformPoint((0, 0, 0)) == (1, 2, 3)
    assert run.report == json.loads((finished.folder / "report.json").read_text())


def test_images_that_moved_are_named_and_can_be_told(finished: Finished) -> None:
    place = finished.moving.rename(finished.moving.with_name("elsewhere.nii.gz"))
    with pytest.raises(InputError, match=r"moving image .*moving\.nii\.gz: no such file") as caught:
        written_files.read(finished.folder)
    assert "--moving FILE" in caught.value.hint
    assert same(place, written_files.read(finished.folder, moving=place).moving)
    with pytest.raises(InputError, match="is not the file that was registered"):
        written_files.read(finished.folder, moving=finished.fixed)
    (finished.folder / "inverse_field.nii.gz").unlink()
    with pytest.raises(InputError, match=r"inverse field .*inverse_field\.nii\.gz: no such file"):
        written_files.read(finished.folder, moving=place)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is not an output folder of hsyn register"),
        ("{", "cannot be read"),
        ("[]", "not a report of this version"),
        ('{"schema_version": 99}', r"schema 99"),
        ('{"schema_version": 1, "folding": {}}', "is incomplete: it lacks affine, apply"),
    ],
)
def test_a_folder_of_something_else(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=told):
        written_files.read(tmp_path)
