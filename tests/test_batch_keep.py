"""Which outputs remain, on which grid and with how many digits, and what that costs."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import turned
from stand_ins import MOVING, FakeResult, fake_result, grid_image, register
from test_outputs import make_report

from hsyn_cli.cli import run
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.fields.compact import FIELD_STEP, IMAGE_STEP, compact_field, compact_image
from hsyn_cli.io import atomic
from hsyn_cli.results import page, run_folder, written
from hsyn_cli.results.report import Report, apply_lines, to_dict
from hsyn_cli.results.run_folder import KEEP, Wanted, targets, words_of
from hsyn_cli.space import Grid
from hsyn_cli.tools.evaluate import evaluate_images


def write(wanted: Wanted, result: FakeResult | None = None, labels: bool = False) -> Report:
    moving_labels = sitk.Cast(grid_image(MOVING, 9) * 10, sitk.sitkInt16) if labels else None

    def report() -> Report:
        return dataclasses.replace(
            make_report(), outputs={k: str(v) for k, v in targets(wanted).items()}
        )

    with atomic.claim(targets(wanted).values(), force=True) as staging:
        return written.write(
            result or fake_result(), wanted, staging, report, moving_labels=moving_labels
        )


@pytest.mark.parametrize(
    ("keep", "files"),
    [
        ("warped", ["warped.nii.gz"]),
        ("fields , affine", ["affine.mat", "forward_field.nii.gz", "inverse_field.nii.gz"]),
        ("inverse_warped,page", ["inverse_warped.nii.gz", "report.html"]),
        ("forward_field,labels", ["forward_field.nii.gz", "warped_labels.nii.gz"]),
        ("midspace", sorted(run_folder.MIDSPACE_FILES.values())),
        ("report", []),
    ],
)
def test_only_what_is_kept_is_written(tmp_path: Path, keep: str, files: list[str]) -> None:
    wanted = Wanted(tmp_path, labels=True, keep=words_of(keep))
    report = write(wanted, labels=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*files, "report.json"])
    assert sorted(Path(path).name for path in report.outputs.values()) == sorted(
        [*files, "report.json"]
    )
    assert run_folder.needed_bytes(wanted, 100, 100) < run_folder.needed_bytes(
        Wanted(tmp_path, midspace=True, labels=True), 100, 100
    )


def test_channels_follow_their_kind_and_midspace_its_flag(tmp_path: Path) -> None:
    wanted = Wanted(tmp_path, midspace=True, html=False, channels=3, keep=words_of("warped,page"))
    names = ["warped", "warped_2", "warped_3", *run_folder.MIDSPACE_FILES, "report"]
    assert sorted(targets(wanted)) == sorted(names)


@pytest.mark.parametrize("text", ["", "warp", "warped,inverse", ","])
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--keep") as caught:
        words_of(text)
    assert all(word in caught.value.hint for word in KEEP)


def test_files_of_ants_are_written_without_their_twins(tmp_path: Path) -> None:
    result = fake_result()
    write(Wanted(tmp_path / "o", str(tmp_path / "a_"), keep=words_of("affine")), result)
    assert sorted(os.listdir(tmp_path / "o")) == ["affine.mat", "report.json"]
    warped = sitk.ReadImage(str(tmp_path / "a_Warped.nii.gz"))
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (warped, result.warped)))
    assert (tmp_path / "a_InverseWarped.nii.gz").is_file()


def test_lines_to_paste_fit_what_there_is(tmp_path: Path) -> None:
    assert apply_lines("m.nii", "f.nii", targets(Wanted(tmp_path, keep=words_of("warped")))) == {}
    ants = Wanted(tmp_path, "a_", keep=words_of("warped"))
    (line,) = apply_lines("m.nii", "f.nii", targets(ants)).values()
    assert "a_1Warp.nii.gz" in line
    report = to_dict(dataclasses.replace(make_report(), apply={}))
    assert "No field was kept" in page.tables.lines_to_paste(report)


def test_what_an_earlier_run_wrote_goes_and_other_files_stay(tmp_path: Path) -> None:
    write(Wanted(tmp_path))
    (tmp_path / "warped_labels.nii.gz").write_bytes(b"the user's own")
    write(Wanted(tmp_path, keep=words_of("affine")))
    assert sorted(os.listdir(tmp_path)) == ["affine.mat", "report.json", "warped_labels.nii.gz"]


def test_names_of_files(tmp_path: Path) -> None:
    names = {"warped": "sub-1_T1w.nii.gz", "report": "sub-1_report.json", "page": "sub-1.html"}
    wanted = Wanted(tmp_path, keep=words_of("warped,page"), names=names)
    (tmp_path / "report.html").write_bytes(b"of another pair")
    for _ in range(2):
        report = write(wanted)
        assert sorted(os.listdir(tmp_path)) == ["report.html", *sorted(names.values())]
    assert report.outputs["report"] == str(tmp_path / "sub-1_report.json")
    write(dataclasses.replace(wanted, keep=words_of("report")))
    assert sorted(os.listdir(tmp_path)) == ["report.html", "sub-1_report.json"]


def test_a_folder_without_its_fields_says_so(tmp_path: Path) -> None:
    write(Wanted(tmp_path, keep=words_of("warped")))
    with pytest.raises(InputError, match=r"lacks forward_field\.nii\.gz, which --keep left out"):
        written.read(tmp_path)


def smooth(size: tuple[int, int, int], seed: int = 0) -> sitk.Image:
    """A smooth field of some mm on a turned grid."""
    grid = Grid(size, (1.5, 1.0, 2.0), (3, 4, 5), turned(0.2, 0.1, 0.3))
    noise = np.random.default_rng(seed).normal(size=(*size[::-1], 3)) * 40
    image = sitk.GetImageFromArray(noise.astype(np.float32), isVector=True)
    return grid.stamp(sitk.SmoothingRecursiveGaussian(image, 3.0))


@pytest.mark.parametrize("mm", [None, 0.5, 2.9, 4.0, 100.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_coarser_field_is_off_by_what_is_told(mm: float | None, rounded: bool) -> None:
    """ITK reads the field anew at every voxel of its grid."""
    field = smooth((14, 19, 11))
    coarse, error = compact_field(field, mm, rounded=rounded)
    grid, there = Grid.of(field), Grid.of(coarse)
    np.testing.assert_allclose(there.corners(), grid.corners(), atol=1e-9)
    if mm and mm > 2:
        assert all(s <= mm or n == 2 for s, n in zip(there.spacing, there.size, strict=True))
        assert there.size < grid.size
    else:
        assert there.size == grid.size
    way = sitk.DisplacementFieldTransform(sitk.Cast(coarse, sitk.sitkVectorFloat64))
    index = np.argwhere(np.ones(grid.size))
    points = grid.points(index * (1 - 2e-9) + 1e-9)  # not beyond the border by rounding
    read = np.array([way.TransformPoint(p) for p in points.tolist()]) - points
    wanted = sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3).reshape(-1, 3)
    apart = np.linalg.norm(read - wanted, axis=1)
    found = (error.mean_mm, error.p99_mm, error.max_mm)
    expected = (apart.mean(), np.sort(apart)[round(0.99 * len(apart)) - 1], apart.max())
    assert found == pytest.approx(expected, abs=1e-4)
    if rounded:
        values = sitk.GetArrayFromImage(coarse)
        np.testing.assert_array_equal(values, np.round(values / FIELD_STEP) * FIELD_STEP)
        if there.size == grid.size:
            assert 0 < np.abs(read - wanted).max() < 0.001
    elif there.size == grid.size:
        assert error.max_mm == 0


def test_a_field_of_two_dimensions() -> None:
    plane = smooth((20, 30, 5))[:, :, 2]
    field = sitk.Compose([sitk.VectorIndexSelectionCast(plane, k) for k in range(2)])
    coarse, error = compact_field(field, 3.0, rounded=True)
    assert coarse.GetDimension() == coarse.GetNumberOfComponentsPerPixel() == 2
    assert coarse.GetSize() < field.GetSize()
    assert 0.01 < error.max_mm < 5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rounded_images_pack_to_half(scale: float) -> None:
    image = sitk.VectorMagnitude(smooth((40, 40, 40))) * scale
    few, share = compact_image(sitk.Cast(image, sitk.sitkFloat32))
    values, had = sitk.GetArrayFromImage(few), sitk.GetArrayFromImage(image)
    span = had.max() - had.min()
    assert np.abs(values - had).max() == pytest.approx(share * span, rel=1e-3)
    assert 0 < share <= IMAGE_STEP / 2
    assert Grid.of(few).same_as(Grid.of(image))
    sizes = [len(gzip.compress(v.astype(np.float32).tobytes(), 1)) for v in (values, had)]
    assert sizes[0] < 0.55 * sizes[1]


def test_whole_numbers_and_flat_images_stay() -> None:
    whole = sitk.Cast(grid_image((5, 6, 7), 1) * 100, sitk.sitkInt16)
    for image in (whole, sitk.Image([4, 5, 6], sitk.sitkFloat32)):
        few, share = compact_image(image)
        assert share == 0
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (few, image)))


def test_the_report_tells_what_was_saved_at(tmp_path: Path) -> None:
    result = fake_result()
    fields = {"forward_field": smooth((14, 19, 11)), "inverse_field": smooth((12, 13, 14), 1)}
    wanted = Wanted(tmp_path, field_spacing=4.0, rounded=True)
    report = write(wanted, dataclasses.replace(result, **fields))
    stored = to_dict(report)["stored"]
    assert stored["field_spacing_mm"] == 4.0
    assert stored["rounded"] is True
    assert stored["field_errors"].keys() == fields.keys()
    assert stored["largest_error_percent"].keys() == {"warped", "inverse_warped"}
    assert all(0 < v <= 0.05 for v in stored["largest_error_percent"].values())
    assert json.loads((tmp_path / "report.json").read_text())["stored"] == stored
    assert "every 4 mm" in (tmp_path / "report.html").read_text()
    plain = to_dict(write(Wanted(tmp_path)))["stored"]
    assert plain["field_errors"] == plain["largest_error_percent"] == {}


def test_coarse_fields_are_evaluated_on_the_grids_of_the_images() -> None:
    grid = Grid.of(smooth((14, 19, 11)))
    fixed = sitk.VectorMagnitude(smooth(grid.size))
    shift = np.broadcast_to(np.array([1.0, 2, -1], np.float32), (*grid.size[::-1], 3))
    there, back = (
        compact_field(grid.stamp(sitk.GetImageFromArray(d, isVector=True)), 4.0, rounded=True)[0]
        for d in (shift, -shift)
    )
    found = evaluate_images(there, fixed, inverse=back)
    assert found.inverse_error is not None
    assert found.inverse_error.max_mm < 1e-4
    assert found.folding.min_det == pytest.approx(1, abs=1e-4)


def test_words_that_stand_for_a_file_are_kept(tmp_path: Path) -> None:
    every = frozenset(KEEP)
    run_folder.check_keep(Wanted(tmp_path, labels=True, keep=every))
    run_folder.check_keep(Wanted(tmp_path, html=False, keep=every - {"labels", "page"}))
    run_folder.check_keep(Wanted(tmp_path, html=False))
    with pytest.raises(UsageError, match="--keep labels keeps nothing"):
        run_folder.check_keep(Wanted(tmp_path, keep=every))


@pytest.mark.usefixtures("calls", "here")
def test_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert register("--keep", "warped,affine", "--field-spacing", "3", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["outputs"].keys() == {"warped", "affine", "report"}
    assert told["apply"] == {}
    assert sorted(os.listdir("out")) == ["affine.mat", "report.json", "warped.nii.gz"]
    assert register("--keep", "warps", out="other") == 2
    assert "--keep warps: no such output" in capfd.readouterr().err
    for words, why in (
        (("--keep", "warped,page", "--no-html"), "page keeps nothing: --no-html is given"),
        (("--keep", "labels"), "labels keeps nothing: no moving labels are given"),
    ):
        assert register(*words, out="other") == 2
        assert capfd.readouterr().err.startswith(f"error: --keep {why}\n")
    assert not Path("other").exists()
    assert run(["evaluate", "out"]) == 2
    assert "without a forward field" in capfd.readouterr().err
