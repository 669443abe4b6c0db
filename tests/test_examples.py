"""The example pair is what its README says, and the benchmark's judge agrees with closed forms."""

import csv
import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

EXAMPLES = Path(__file__).parents[1] / "examples"
BRAIN, LUNG = EXAMPLES / "brain", EXAMPLES / "lung"
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)  # rotated about z, z flipped


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_with_others(name: str) -> Iterator[ModuleType]:
    """A script of examples/ that imports others beside it; for a fixture."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield load(EXAMPLES / name)
    finally:
        sys.path.remove(str(EXAMPLES))


benchmark = load(EXAMPLES / "benchmark.py")
make = load(BRAIN / "make.py")


def field_of(array: np.ndarray, direction: tuple[float, ...] = OBLIQUE) -> sitk.Image:
    image = sitk.GetImageFromArray(array, isVector=True)
    image.SetSpacing((0.7, 1.0, 1.3))
    image.SetOrigin((-20.0, 7.0, 3.0))
    image.SetDirection(direction)
    return image


def points_of(image: sitk.Image) -> np.ndarray:
    index = np.stack(
        np.meshgrid(*(np.arange(n) for n in image.GetSize()[::-1]), indexing="ij"), -1
    )[..., ::-1]
    to_mm = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return index @ to_mm.T + image.GetOrigin()


def linear_field(matrix: np.ndarray, offset: np.ndarray, size=(9, 10, 20)) -> sitk.Image:
    blank = field_of(np.zeros((*size, 3)))
    points = points_of(blank)
    return field_of(points @ matrix.T + offset - points)


def test_example_images_are_small_brains_on_their_own_grids():
    images = {name: sitk.ReadImage(str(BRAIN / f"{name}.nii.gz")) for name in ("moving", "fixed")}
    for name, image in images.items():
        assert image.GetPixelID() == sitk.sitkUInt8
        assert image.GetSpacing() == (1.0, 1.0, 1.0)
        labels = sitk.ReadImage(str(BRAIN / f"{name}_labels.nii.gz"))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetOrigin() == image.GetOrigin()
        assert labels.GetDirection() == image.GetDirection()
        inside = sitk.GetArrayFromImage(image) > 0
        assert 1.5e6 < inside.sum() < 2.0e6  # cubic mm: a skull-stripped adult brain
        assert np.array_equal(sitk.GetArrayFromImage(labels) > 0, inside)
    assert images["moving"].GetSize() != images["fixed"].GetSize()
    assert sum((BRAIN / f"{name}.nii.gz").stat().st_size for name in images) < 4_000_000


def test_benchmark_measures_the_example_pair():
    (pair,) = benchmark.read_pairs(None)
    dices = benchmark.dices(sitk.Transform(), pair)
    assert list(dices) == [1, 2, 3, 4]  # before registration, as its README says
    assert list(dices.values()) == pytest.approx([0.27, 0.62, 0.69, 0.75], abs=0.005)


def test_example_labels_have_names():
    for name, table in (
        ("moving_labels", "labels"),
        ("fixed_labels", "labels"),
        ("moving_regions", "moving_regions"),
    ):
        with (BRAIN / f"{table}.csv").open(newline="") as stream:
            named = {int(row["index"]) for row in csv.DictReader(stream)}
        image = sitk.ReadImage(str(BRAIN / f"{name}.nii.gz"))
        assert set(np.unique(sitk.GetArrayViewFromImage(image)).tolist()) == {0} | named


def test_left_is_left():
    regions = sitk.ReadImage(str(BRAIN / "moving_regions.nii.gz"))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(regions)
    assert (
        shape.GetCentroid(71)[0] > 0 > shape.GetCentroid(72)[0]
    )  # left and right caudate; x grows to the left


@pytest.mark.parametrize("name", ["moving", "fixed"])
def test_tissue_labels_are_what_make_derives(name):
    labels = make.tissue_labels(sitk.ReadImage(str(BRAIN / f"{name}.nii.gz")))
    stored = sitk.ReadImage(str(BRAIN / f"{name}_labels.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(stored))


def test_determinant_of_a_linear_field():
    matrix = np.array([[1.1, 0.3, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.2, 1.2]])
    found = benchmark.folding(linear_field(matrix, np.array([1.0, 2.0, 3.0])))
    assert found["min_det"] == pytest.approx(np.linalg.det(matrix))
    assert (found["folded"], found["folded_corner"]) == (0, 0)
    mirrored = benchmark.folding(linear_field(np.diag([-1.0, 1.0, 1.0]), np.zeros(3)))
    assert (mirrored["folded"], mirrored["folded_corner"]) == (7 * 8 * 18,) * 2


def test_folding_against_the_definition_voxel_by_voxel():
    field = field_of(np.random.default_rng(3).normal(scale=0.35, size=(19, 6, 7, 3)))
    d, direction = sitk.GetArrayFromImage(field), np.array(OBLIQUE).reshape(3, 3)
    central, corner, smallest = 0, 0, np.inf
    for z, y, x in itertools.product(range(1, 18), range(1, 5), range(1, 6)):
        steps = []  # per axis x, y, z: derivative backward and forward
        for axis, spacing in ((2, 0.7), (1, 1.0), (0, 1.3)):
            ahead = np.eye(3, dtype=int)[axis]
            here, before, after = (d[tuple(np.array([z, y, x]) + k * ahead)] for k in (0, -1, 1))
            steps.append(((here - before) / spacing, (after - here) / spacing))
        dets = [
            np.linalg.det(np.eye(3) + np.stack(choice, -1) @ direction.T)
            for choice in (*itertools.product(*steps), [(a + b) / 2 for a, b in steps])
        ]
        corner += min(dets[:8]) <= 0
        central += dets[8] <= 0
        smallest = min(smallest, dets[8])
    found = benchmark.folding(field)
    assert (found["folded"], found["folded_corner"]) == (central, corner)
    assert 0 < central < corner
    assert found["min_det"] == pytest.approx(smallest)


def test_inverse_error_of_a_known_inverse_and_of_a_shifted_one():
    matrix, offset = np.diag([1.02, 0.98, 1.01]), np.array([0.4, -0.1, -0.05])
    forward = linear_field(matrix, offset)
    inverse = linear_field(np.linalg.inv(matrix), -np.linalg.inv(matrix) @ offset)
    fixed = sitk.GetImageFromArray(np.ones((9, 10, 20), np.float32))
    fixed.CopyInformation(forward)
    fixed[0, 0, 0] = 0
    exact = benchmark.inverse_error(forward, inverse, fixed)
    assert exact["inverse_max_mm"] < 1e-9
    off = field_of(sitk.GetArrayFromImage(inverse) + np.array([0.0, 0.3, 0.4]))
    found = benchmark.inverse_error(forward, off, fixed)
    for key in ("inverse_mean_mm", "inverse_p99_mm", "inverse_max_mm"):
        assert found[key] == pytest.approx(0.5)


FAKE = """#!{python}
import subprocess
import sys
import numpy as np
import SimpleITK as sitk
arguments = sys.argv[1:]
assert arguments[0] == "register" and arguments[arguments.index("--preset") + 1] == "fast"
out = arguments[arguments.index("-o") + 1]
for option, name in (("-f", "forward"), ("-m", "inverse")):
    image = sitk.ReadImage(arguments[arguments.index(option) + 1])
    zeros = np.zeros(image.GetSize()[::-1] + (3,), np.float32)
    field = sitk.GetImageFromArray(zeros, isVector=True)
    field.CopyInformation(image)
    sitk.WriteImage(field, out + "/" + name + "_field.nii.gz")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.wait4")
def test_benchmark_from_pairs_to_json(tmp_path):
    """In a process of its own: a child's peak counts what its parent holds as it starts."""
    program = tmp_path / "hsyn"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[3:7, 3:9, 3:9], labels[7:9, 3:9, 3:9], labels[9, 3, 3] = 1, 2, 3
    for side in ("moving", "fixed"):
        for name in (side, f"{side}_labels"):
            sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"{name}.nii.gz"))
        labels = np.roll(labels, 1, axis=0)
    (tmp_path / "labels.csv").write_text("index,name,ignore\n3,rest,True\n")
    names = ["moving", "fixed", "moving_labels", "fixed_labels"]
    (tmp_path / "pairs.csv").write_text(
        ",".join(names) + "\n" + ",".join(f"{n}.nii.gz" for n in names) + "\n"
    )
    arguments = [
        "--hsyn",
        str(program),
        "--json",
        str(tmp_path / "out.json"),
        "--methods",
        "fast,default",
    ]
    command = [sys.executable, EXAMPLES / "benchmark.py", tmp_path / "pairs.csv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads((tmp_path / "out.json").read_text())
    scores = report["mean"]["fast"]
    assert scores["dice"] == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)
    assert (scores["folded"], scores["folded_corner"], scores["inverse_max_mm"]) == (0, 0, 0)
    assert scores["min_det"] == 1
    assert scores["seconds"] > 0
    assert 0.01 < scores["peak_gb"] < 2
    assert report["mean"]["default"] == {}
    assert "default: exit code 1: AssertionError" in done.stdout


def test_the_lungs_landmarks_lie_where_their_table_says():
    fixed, moving = (sitk.ReadImage(str(LUNG / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    with (LUNG / "landmarks.csv").open(newline="") as stream:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    assert len(rows) == 10
    for row in rows:
        for image, point, index in ((fixed, "f", "ijk"), (moving, "m", "ijk")):
            there = image.TransformContinuousIndexToPhysicalPoint([row[point + k] for k in index])
            np.testing.assert_allclose(there, [row[point + k] for k in "xyz"], atol=1.3)
    apart = [np.linalg.norm([row["f" + k] - row["m" + k] for k in "xyz"]) for row in rows]
    assert np.mean(apart) == pytest.approx(34.9, abs=0.05)  # as its README says
    for name, image in (("fixed", fixed), ("moving", moving)):
        mask = sitk.ReadImage(str(LUNG / f"{name}_lungmask.nii.gz"))
        assert (mask.GetSize(), mask.GetOrigin()) == (image.GetSize(), image.GetOrigin())


def test_a_known_field_does_not_fold_and_has_no_error_against_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    known = load(EXAMPLES / "known_field.py")
    values = np.random.default_rng(0).choice((3, 2, 10, 16, 8), (30, 40, 36)).astype(np.int16)
    labels = sitk.GetImageFromArray(values)
    true = known.bend(labels, 3.0, np.random.default_rng(1))
    array = sitk.GetArrayFromImage(true)
    assert 1 < np.linalg.norm(array, axis=-1).max() <= 3
    sitk.WriteImage(true, str(tmp_path / "forward_field.nii.gz"))
    pair = {"true": array, "labels": values}
    assert known.errors(tmp_path, pair)["cortex"] == (0, 0)
    found = known.errors(tmp_path, {**pair, "true": array + np.array([3.0, 0.0, 4.0])})
    assert found["brain stem"] == pytest.approx((5, 5))
    with pytest.raises(SystemExit, match="folds"):
        known.bend(labels, 60.0, np.random.default_rng(1))


def test_the_page_of_a_made_up_cohort_is_made() -> None:
    text = load(EXAMPLES / "cohort_page.py").made_up(12)
    assert text.count("data:image/png;base64,") == 12
    assert "made up" in text
