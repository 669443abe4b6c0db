"""From files to a cache: which subjects are found, aligned, left out, warned of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hsyn_cli.config.training import Training
from hsyn_cli.errors import InputError
from hsyn_cli.training.cache import Cache, load_cache, settings
from hsyn_cli.training.data import Subject, build_cache, collect

SMALL = Training(size=(128, 160, 136))
TURNS = [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)]


def silent(step: str, fraction: float) -> None:
    assert 0 <= fraction <= 1


def write(path: Path, values: np.ndarray, number: int, spacing: float = 4.0) -> Path:
    """In one of two poses, a little apart."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((spacing,) * 3)
    direction = TURNS[number % 2]
    image.SetDirection(direction)
    image.SetOrigin((-62.0 * direction[0] + 5 * number, -78.0 * direction[0], -70.0))
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def ball(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its label map with the ids 2 and 3."""
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (36, 40, 32)), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + (1.05 * x) ** 2) + 0.1 * x + 0.02 * number
    ids = np.where(radius < 0.5, 2, np.where(radius < 0.9, 3, 0)).astype(np.int16)
    return ((ids * 50.0 + 20 * np.cos(5 * y)) * (ids > 0)).astype(np.float32), ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, the first with labels, and a label map alone."""
    for k in range(3):
        write(tmp_path / "data" / f"{k}.nii.gz", ball(k)[0], k)
    write(tmp_path / "data" / "labels" / "0.nii.gz", ball(0)[1], 0)
    write(tmp_path / "data" / "labels" / "alone.nii.gz", ball(1)[1], 1)
    return tmp_path / "data"


def test_a_folder_pairs_images_with_labels_by_name(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    found = collect(folder)
    assert [s.image and s.image.name for s in found] == ["0.nii.gz", "1.nii.gz", "2.nii.gz", None]
    assert [s.labels and s.labels.name for s in found] == ["0.nii.gz", None, None, "alone.nii.gz"]


def test_a_table_may_leave_either_column_empty(folder: Path) -> None:
    table = folder / "table.csv"
    table.write_text("image,labels\n0.nii.gz,labels/0.nii.gz\n1.nii.gz,\n,labels/alone.nii.gz\n")
    assert collect(table) == [
        Subject(folder / "0.nii.gz", folder / "labels/0.nii.gz"),
        Subject(folder / "1.nii.gz", None),
        Subject(None, folder / "labels/alone.nii.gz"),
    ]


def test_a_split_is_kept_and_those_of_the_test_are_never_read(folder: Path, tmp_path: Path) -> None:
    table = folder / "table.csv"
    table.write_text(
        "image,labels,split\n0.nii.gz,,train\n1.nii.gz,,train\n2.nii.gz,,validation\n"
        ",labels/alone.nii.gz,train\nmissing.nii.gz,,test\n"
    )
    cache = build_cache(collect(table), SMALL, tmp_path / "cache", silent)
    assert cache.left_out == (f"{folder / 'missing.nii.gz'} is for the test",)
    cache = load_cache(tmp_path / "cache")
    assert cache.splits == ("train", "train", "validation", "train")
    assert cache.parts(of_maps=False, held_out=2) == ([0, 1], [2])
    assert cache.parts(of_maps=True, held_out=2) == ([], [])  # one map makes no pair


def test_without_a_split_the_last_of_each_kind_are_held_out() -> None:
    def parts(count: int, held_out: int) -> tuple[list[int], list[int]]:
        nothing = np.zeros((count, 1, 1, 1), np.uint8)
        have = (True,) * count
        return Cache(nothing, nothing, have, have, (), ("",) * count).parts(False, held_out)

    assert parts(6, 2) == ([0, 1, 2, 3], [4, 5])
    assert parts(5, 4) == ([0, 1], [2, 3, 4])
    assert parts(3, 2) == ([0, 1, 2], [1, 2])
    assert parts(1, 2) == ([], [])


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (["0.nii.gz,,train", "1.nii.gz,,choose"], "1.nii.gz has the split 'choose'"),
        (["0.nii.gz,,train", "1.nii.gz,,"], "1.nii.gz has the split ''"),
        (["0.nii.gz,,train", "../data/0.nii.gz,,test"], "in the split test and in another"),
    ],
)
def test_a_wrong_split_is_told(folder: Path, rows: list[str], word: str) -> None:
    table = folder / "table.csv"
    table.write_text("\n".join(["image,labels,split", *rows]))
    with pytest.raises(InputError, match=word):
        collect(table)


@pytest.mark.parametrize(("files", "word"), [((), "no image"), (("0.nii.gz",), "one image")])
def test_too_few_images_are_told(tmp_path: Path, files: tuple[str, ...], word: str) -> None:
    for name in files:
        write(tmp_path / name, ball(0)[0], 0)
    with pytest.raises(InputError, match=word):
        collect(tmp_path)


def test_a_table_without_its_columns_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("scan\na.nii.gz\n")
    with pytest.raises(InputError, match="neither"):
        collect(path)
    with pytest.raises(InputError, match="no such file"):
        collect(tmp_path / "nowhere.csv")


def test_a_cache_is_built_on_one_grid_and_read_back(folder: Path, tmp_path: Path) -> None:
    built = build_cache(collect(folder), SMALL, tmp_path / "cache", silent)
    cache = load_cache(tmp_path / "cache")
    assert np.array_equal(cache.images, built.images)
    assert np.array_equal(cache.labels, built.labels)
    assert cache.images.shape == (4, *SMALL.size[::-1])
    assert cache.ids == (2, 3)
    assert (cache.has_image, cache.has_labels) == (
        (True, True, True, False),
        (True, False, False, True),
    )
    assert (cache.rows(False), cache.rows(True)) == ([0, 1, 2], [3])
    assert (cache.left_out, cache.warnings) == ((), ())
    assert cache.made_with == settings(SMALL) != settings(replace(SMALL, labels=(2,)))
    brains = [cache.images[k] > 10 for k in range(3)] + [cache.labels[3] > 0]
    for brain in brains[1:]:
        assert 2 * (brains[0] & brain).sum() / (brains[0].sum() + brain.sum()) > 0.9
    assert (cache.images[0][cache.labels[0] == 1] > 60).mean() > 0.5


def test_what_cannot_be_used_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "1.nii.gz").read_bytes()
    (folder / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    write(folder / "blank.nii.gz", np.zeros((36, 40, 32), np.float32), 0)
    write(folder / "labels" / "2.nii.gz", ball(2)[1][:-2], 2)
    cache = build_cache(collect(folder), SMALL, tmp_path / "cache", silent)
    assert [Path(name).name for name in cache.names] == ["0.nii.gz", "1.nii.gz", "alone.nii.gz"]
    assert len(cache.left_out) == 3
    for name in ("torn.nii.gz", "blank.nii.gz", "2.nii.gz"):
        assert any(name in line for line in cache.left_out)


def test_an_image_of_another_modality_is_warned_of(folder: Path, tmp_path: Path) -> None:
    values = ball(1)[0]
    write(folder / "inverted.nii.gz", np.where(values > 0, 200 - values, 0).astype(np.float32), 1)
    cache = build_cache(collect(folder), SMALL, tmp_path / "cache", silent)
    assert len(cache.warnings) == 1
    assert "inverted.nii.gz" in cache.warnings[0]


def test_listed_labels_alone_count(folder: Path, tmp_path: Path) -> None:
    training = Training(size=SMALL.size, labels=(3, 99), intensities={"3": 0.6})
    assert build_cache(collect(folder), training, tmp_path / "cache", silent).ids == (3,)


def test_a_damaged_cache_is_told(folder: Path, tmp_path: Path) -> None:
    build_cache(collect(folder), SMALL, tmp_path / "cache", silent)
    path = tmp_path / "cache" / "images.npy.xz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        load_cache(tmp_path / "cache")


@pytest.mark.slow
def test_ids_that_do_not_count_are_kept_as_surroundings_where_they_are_wanted(
    folder: Path, tmp_path: Path
) -> None:
    only = replace(SMALL, labels=(3,))
    plain = build_cache(collect(folder), only, tmp_path / "plain", silent)
    assert (plain.ids, plain.counted) == ((3,), 1)
    wanted = replace(only, surroundings=0.5)
    build_cache(collect(folder), wanted, tmp_path / "wanted", silent)
    cache = load_cache(tmp_path / "wanted")
    assert (cache.ids, cache.counted) == ((3, 2), 1)
    assert set(np.unique(cache.labels)) == {0, 1, 2}
    assert settings(wanted) != settings(only)
