"""The parts of a template: subjects, frame, averages, shape; closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import smooth_field, turned, voxel_points
from scipy.linalg import logm, polar

from hsyn_cli.cli import run
from hsyn_cli.errors import HsynError, InputError, UsageError
from hsyn_cli.fields.grids import affine_displacement
from hsyn_cli.fields.images import as_transform, from_image, to_image
from hsyn_cli.space import Grid, affine_from
from hsyn_cli.template import averages, frame, record, scans, shape, subjects
from hsyn_cli.template.averages import Average

GRID = Grid((16, 14, 12), (2.0, 2.0, 2.0), (-15.0, -13.0, -11.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


def write(path: Path, seed: int = 0, factor: float = 1.0, grid: Grid = GRID) -> Path:
    """A bright box with noise."""
    values = np.zeros(grid.size[::-1])
    inner = tuple(slice(3, -3) if n > 1 else slice(None) for n in values.shape)
    values[inner] = np.random.default_rng(seed).uniform(50, 100, values[inner].shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = grid.stamp(sitk.GetImageFromArray((factor * values).astype(np.float32)))
    sitk.WriteImage(image, str(path))
    return path


# Subjects


def test_subjects_have_an_order_of_their_own(tmp_path: Path) -> None:
    files = [write(tmp_path / f"s{k}.nii.gz", k) for k in range(5)]
    found = subjects.read(files)
    assert subjects.read(files[::-1]) == found
    assert [s.sha256 for s in found] == sorted(s.sha256 for s in found)
    assert {s.id for s in found} == {f"s{k}" for k in range(5)}


def test_scans_of_one_name_are_told_apart_by_folders(tmp_path: Path) -> None:
    files = [write(tmp_path / name / "T1.nii.gz", k) for k, name in enumerate(("a", "b"))]
    assert {s.id for s in subjects.read(files)} == {"a_T1", "b_T1"}


def test_a_table_and_a_plain_list(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / f"s{k}.nii.gz", k)
        write(tmp_path / f"t{k}.nii.gz", 10 + k)
        write(tmp_path / f"m{k}.nii.gz", 20 + k)
    rows = "".join(f"s{k}.nii.gz,one-{k},m{k}.nii.gz,t{k}.nii.gz\n" for k in range(2))
    (tmp_path / "list.csv").write_text("scan,id,mask,scan_2\n" + rows)
    (tmp_path / "list.txt").write_text("s0.nii.gz\n\ns1.nii.gz\n")
    table = {s.id: s for s in subjects.read([tmp_path / "list.csv"])}
    assert set(table) == {"one-0", "one-1"}
    assert table["one-0"].scans == (tmp_path / "s0.nii.gz", tmp_path / "t0.nii.gz")
    assert table["one-0"].mask == tmp_path / "m0.nii.gz"
    assert {s.id for s in subjects.read([tmp_path / "list.txt"])} == {"s0", "s1"}


FAULTS = {
    "one scan is given, and a template needs two": ["s0.nii.gz"],
    "s0.nii.gz is given twice": ["s0.nii.gz", "s1.nii.gz", "s0.nii.gz"],
    "scan no.nii.gz does not exist": ["s0.nii.gz", "no.nii.gz"],
    "scan flat.nii.gz is 2-D, and s0.nii.gz is 3-D": ["s0.nii.gz", "flat.nii.gz"],
    "two.csv is a list, and other files are given": ["s0.nii.gz", "two.csv"],
    "unknown column scam": ["wrong.csv"],
    "names no column scan": ["none.csv"],
    "scan s1.nii.gz has no mask, and others have": ["masks.csv"],
    "scan s1.nii.gz has 1 channels, and the first one 2": ["channels.csv"],
    "line 3: id a is that of line 2": ["ids.csv"],
    "lies in the output folder": ["s0.nii.gz", "s1.nii.gz", "-o", "."],
}


@pytest.mark.parametrize("told", FAULTS)
def test_what_is_wrong_is_told_in_one_line(
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        write(Path(f"s{k}.nii.gz"), k)
    sitk.WriteImage(sitk.Image([9, 9], sitk.sitkUInt8) + 1, "flat.nii.gz")
    Path("two.csv").write_text("scan\ns0.nii.gz\ns1.nii.gz\n")
    Path("wrong.csv").write_text("scan,scam\ns0.nii.gz,1\n")
    Path("none.csv").write_text("s0.nii.gz,s1.nii.gz\n")
    Path("masks.csv").write_text("scan,mask\ns0.nii.gz,s0.nii.gz\ns1.nii.gz,\n")
    Path("channels.csv").write_text("scan,scan_2\ns0.nii.gz,flat.nii.gz\ns1.nii.gz,\n")
    Path("ids.csv").write_text("scan,id\ns0.nii.gz,a\ns1.nii.gz,a\n")
    words = FAULTS[told]
    out = [] if "-o" in words else ["-o", "tpl"]
    assert run(["template", *words, *out]) in (2, 3)
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert not Path("tpl").exists()


def test_a_folder_with_a_template_of_another_program_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(write(tmp_path / f"s{k}.nii.gz", k)) for k in range(2)]
    own = write(tmp_path / "tpl" / "template.nii.gz")
    before = own.read_bytes()
    assert run(["template", *files, "-o", str(tmp_path / "tpl")]) == 5
    assert "is not of hsyn template" in capsys.readouterr().err
    assert own.read_bytes() == before
    assert list(own.parent.iterdir()) == [own]


# Scans


def test_twice_as_bright_is_the_same_on_the_scale(tmp_path: Path) -> None:
    read = []
    for factor in (1.0, 2.0):
        path = write(tmp_path / f"{factor}.nii.gz", 3, factor)
        own = scans.load(subjects.Subject("x", (path,)))
        read.append(averages.warped(own.channels[0], sitk.Transform(3, sitk.sitkIdentity), GRID))
        assert own.content.sum() == 10 * 8 * 6
    np.testing.assert_allclose(read[0], read[1], atol=1e-4)
    assert read[0].min() == 0
    assert np.percentile(read[0][read[0] > 0], 99.5) == pytest.approx(100, abs=3)


def test_a_ct_among_others_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    own = scans.load(subjects.Subject("x", (path,)))
    grey = scans.Intensities(-1000.0, 200.0, hounsfield=True)
    ct = scans.Scans((scans.Channel(own.channels[0].image, grey),), own.mask)
    with pytest.raises(InputError, match="scan of y is a CT in Hounsfield units, and that of x"):
        scans.check_scale(ct, own, subjects.Subject("y", (path,)), subjects.Subject("x", (path,)))


# Frame


def random_maps(count: int, stretch: float = 0.1) -> dict[str, frame.Map]:
    rng = np.random.default_rng(0)
    maps = {}
    for k in range(count):
        rotation = np.reshape(turned(*rng.uniform(-0.4, 0.4, 3)), (3, 3))
        root = rng.normal(size=(3, 3)) * stretch
        maps[f"s{k}"] = rotation @ (np.eye(3) + root + root.T), rng.uniform(-30, 30, 3)
    return maps


def test_the_mean_of_centred_maps_is_the_identity() -> None:
    maps = random_maps(5)
    about = np.array([3.0, -4.0, 5.0])
    found = frame.centred(maps, about)
    parts = [polar(a) for a, _ in found.values()]
    assert np.abs(np.mean([logm(s) for _, s in parts], axis=0)).max() < 1e-8
    rotation, _ = polar(np.mean([r for r, _ in parts], axis=0))
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-8)
    place = np.mean([a @ about + t for a, t in maps.values()], axis=0)
    assert np.mean([a @ place + t for a, t in found.values()], axis=0) == pytest.approx(place)
    # What leads from one scan to another is as before.
    for one, other in (("s0", "s1"), ("s3", "s2")):
        ways = []
        for of in (maps, found):
            (a, t), (b, s) = of[one], of[other]
            ways.append((a @ np.linalg.inv(b), t - a @ np.linalg.inv(b) @ s))
        np.testing.assert_allclose(ways[0][0], ways[1][0], atol=1e-10)
        np.testing.assert_allclose(ways[0][1], ways[1][1], atol=1e-8)


def test_scans_twice_and_half_as_large_meet_in_the_middle() -> None:
    maps = {"a": (2 * np.eye(3), np.zeros(3)), "b": (np.eye(3) / 2, np.zeros(3))}
    shifted = {name: (a @ np.diag([3.0, 1.0, 1.0]), t) for name, (a, t) in maps.items()}
    for of in (maps, shifted):
        found = frame.centred(of, np.zeros(3))
        np.testing.assert_allclose(found["a"][0], 2 * np.eye(3), atol=1e-8)
        np.testing.assert_allclose(found["b"][0], np.eye(3) / 2, atol=1e-8)


def test_the_grid_holds_the_mean_content_with_a_margin() -> None:
    cube = np.array(np.meshgrid([-20.0, 20.0], [-30.0, 30.0], [-10.0, 10.0])).reshape(3, 8).T
    maps = {name: (np.eye(3), np.full(3, at)) for name, at in (("a", 5.0), ("b", 5.0))}
    grid = frame.grid_of({"a": cube + 5, "b": cube + 5}, maps, 2.0, 3)
    corners = grid.corners()
    np.testing.assert_allclose(corners.mean(0), 0, atol=1e-9)
    assert grid.spacing == (2.0, 2.0, 2.0)
    for half, side in zip((20, 30, 10), corners.max(0), strict=True):
        assert half + 8 <= side <= half + 14


# Averages


def test_a_mean_counts_only_scans_that_reach_a_voxel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    own = scans.load(subjects.Subject("x", (path,)))
    same, far = (affine_from(np.eye(3), np.array([x, 0.0, 0.0])) for x in (0.0, 16.0))
    sums = Average(GRID)
    here = [sums.add(own, way)[0] for way in (same, same, far)]
    assert np.isnan(here[2][..., 8:]).all()
    means = sums.means()
    np.testing.assert_allclose(means.images[0][..., 8:], here[0][..., 8:], rtol=1e-6)
    everywhere = np.mean(here, axis=0)[..., :8]
    np.testing.assert_allclose(means.images[0][..., :8], everywhere, rtol=1e-6)
    np.testing.assert_array_equal(means.mask, own.content)


def test_sharpening_can_be_switched_off_and_stays_in_range() -> None:
    values = np.random.default_rng(0).uniform(0, 9, (8, 9, 10)).astype(np.float32)
    assert averages.sharpened(values, 0.0) is values
    more = averages.sharpened(values, 1.0)
    assert (more.min(), more.max()) == (values.min(), values.max())
    mask = np.ones(values.shape, bool)
    assert averages.sharpness(more, mask, GRID) > averages.sharpness(values, mask, GRID)


def test_sharpness_and_change_in_closed_form() -> None:
    ramp = np.broadcast_to(3.0 * np.arange(9), (7, 8, 9)).astype(np.float32)
    mask = np.ones(ramp.shape, bool)
    grid = Grid((9, 8, 7), (1.5, 1.5, 1.5), (0, 0, 0), GRID.direction)
    assert averages.sharpness(ramp, mask, grid) == pytest.approx(2.0)
    assert averages.change(ramp, 0.9 * ramp, mask) == pytest.approx(0.1, rel=1e-4)
    assert averages.correlation(ramp, 1 - ramp, mask) == pytest.approx(-1)


# Shape


def test_a_rigid_motion_is_no_displacement_and_an_affine_map_is_found() -> None:
    turn = np.reshape(turned(0.3, -0.2, 0.5), (3, 3))
    t, mask = np.array([20.0, -5.0, 1.0]), np.ones(GRID.size[::-1], bool)
    u = affine_displacement(GRID, turn, t, torch.device("cpu"))
    assert float(shape.beyond_rigid(u, GRID, mask).abs().max()) < 1e-4
    a = turn @ np.diag([1.1, 0.9, 1.05])
    found = shape.affine_of(affine_displacement(GRID, a, t, torch.device("cpu")), GRID, mask)
    np.testing.assert_allclose(found[0], a, atol=1e-5)
    np.testing.assert_allclose(found[1], t, atol=1e-4)


def test_after_the_shift_the_mean_displacement_is_zero_and_both_ways_fit() -> None:
    """Fields with a common part: the moved template has none left."""
    common = 2 * smooth_field(GRID.size[::-1], 0.2, 1)
    own = 2 * smooth_field(GRID.size[::-1], 0.1, 2)
    group = [common + own, common - own]
    mask = np.zeros(GRID.size[::-1], bool)
    mask[2:-2, 2:-2, 2:-2] = True
    sums = shape.MeanShape(GRID, mask)
    lengths = [sums.add(u) for u in group]
    assert all(float(of.mean()) > 0.2 for of in lengths)
    image = shape.shift_image(sums.mean(), GRID)
    shift, after = shape.Shift.of(image), shape.MeanShape(GRID, mask)
    for u in group:
        after.add(shift.forward(u))
    before, left = (float(shape.within(of.mean(), mask).mean()) for of in (sums, after))
    assert before > 0.2
    assert left < 0.02
    back = shift.inverse(-group[0], GRID)  # any field to the old template
    points = voxel_points(GRID).reshape(-1, 3)[::50]
    there = as_transform(to_image(-group[0], GRID))
    moved = as_transform(image)
    for p, end in zip(points.tolist(), voxel_values(back)[::50], strict=True):
        q = there.TransformPoint(p)
        expected = np.array(moved.TransformPoint(q)) - p
        if GRID.contains(np.array(q)) and np.abs(GRID.indices(np.array(q)) - 7).max() < 5:
            np.testing.assert_allclose(end, expected, atol=1e-3)


def voxel_values(u: torch.Tensor) -> np.ndarray:
    return u[0].movedim(0, -1).reshape(-1, 3).numpy()


def test_a_mean_that_folds_is_smoothed_there_alone() -> None:
    steep = torch.zeros(1, 3, *GRID.size[::-1])
    steep[:, 0, 5:7, 5:8, 8:] = -3.0
    image = shape.shift_image(steep, GRID)
    det = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    assert det.min() > 0.25
    np.testing.assert_array_equal(from_image(image)[..., :3, :, :], steep[..., :3, :, :])


# Record


def test_files_of_a_scan_that_was_taken_out_go(tmp_path: Path) -> None:
    def entry(name: str) -> dict[str, object]:
        return {"id": name, "outputs": {"warped": f"subjects/{name}/warped.nii.gz"}}

    head = {"schema_version": 1, "rounds": [], "outputs": {"template": "template.nii.gz"}}
    old = {**head, "subjects": [entry("a"), entry("b")]}
    (tmp_path / "template.json").write_text(json.dumps(old))
    for name in "ab":
        place = tmp_path / "subjects" / name
        place.mkdir(parents=True)
        for file in ("warped.nii.gz", "subject.json"):
            (place / file).touch()
    record._forget(tmp_path, record._stale(tmp_path, {**head, "subjects": [entry("a")]}))
    assert [path.name for path in (tmp_path / "subjects").iterdir()] == ["a"]
    assert len(list((tmp_path / "subjects" / "a").iterdir())) == 2


def test_too_few_are_refused() -> None:
    with pytest.raises(UsageError, match="no scans are given"):
        subjects.read([])
    assert issubclass(UsageError, HsynError)
