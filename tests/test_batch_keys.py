"""Keys, status files and shards."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fake_cohorts import job

from hsyn_cli.cohort import keys, status
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.keys import Hashes, key
from hsyn_cli.cohort.shards import Shard, parse
from hsyn_cli.cohort.status import Status
from hsyn_cli.cohort.tasks import Task
from hsyn_cli.errors import InputError, UsageError, WeightsError
from hsyn_cli.results.register_files import Inputs


def changed(one: Job, tmp_path: Path) -> dict[str, Job]:
    """The same pair with one thing changed each."""
    (tmp_path / "mask.nii").write_text("mask")
    return {
        "option": replace(one, options={**one.options, "seed": 1}),
        "model": replace(one, options={**one.options, "model": "auto"}),
        "folder": replace(one, folder="elsewhere"),
        "name": replace(one, names={"warped": "w.nii.gz"}),
        "swapped": replace(one, inputs=Inputs(one.inputs.fixed, one.inputs.moving)),
        "mask": replace(one, inputs=replace(one.inputs, fixed_mask=tmp_path / "mask.nii")),
    }


def test_a_key_goes_by_all_that_decides_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path, "a")
    found = {name: key(other, 1, Hashes()) for name, other in changed(one, tmp_path).items()}
    found |= {"itself": key(one, 1, Hashes()), "threads": key(one, 2, Hashes())}
    monkeypatch.setattr(keys, "__version__", "9")
    found["version"] = key(one, 1, Hashes())
    assert len(set(found.values())) == len(found)
    monkeypatch.undo()
    moved = job(tmp_path / "copy", "a")
    assert key(moved, 1, Hashes()) == found["itself"]


def test_a_file_is_read_again_only_if_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashes = tmp_path / "a", Hashes()
    path.write_text("one")
    first = hashes.of(path)
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *more, **rest: opened.append(self) or real(self, *more, **rest)
    )
    assert hashes.of(path) == first
    assert opened == []
    os.utime(path, ns=(1, 1))
    assert hashes.of(path) == first
    assert opened == [path]


def test_the_voxels_in_a_second_file_count(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 6, 6)))
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    before = Hashes().of_image(tmp_path / "a.mhd", "image")
    voxels = tmp_path / "a.raw"
    voxels.write_bytes(bytes(reversed(voxels.read_bytes())))
    after = Hashes().of_image(tmp_path / "a.mhd", "image")
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_checkpoints_count_where_they_may_run(tmp_path: Path) -> None:
    hashes, own = Hashes(), tmp_path / "own.safetensors"
    own.write_text("x")
    assert {"brain-t1", "lung-ct"} <= hashes.of_checkpoints("auto").keys()
    assert hashes.of_checkpoints("none", "all") == {}
    assert list(hashes.of_checkpoints("brain-t1", "all")) == ["brain-t1"]
    assert hashes.of_checkpoints(str(own), "all") == {"own": hashes.of(own)}
    for head in ("auto", "brain"):
        assert set(hashes.of_checkpoints("none", head)) == {"brain-finder"}
        assert set(hashes.of_checkpoints("brain-t1", head)) == {"brain-t1", "brain-finder"}
        assert set(hashes.of_checkpoints(str(own), head)) == {"own", "brain-finder"}
    with pytest.raises(WeightsError):
        hashes.of_checkpoints("unknown")


def test_a_task_names_no_path_by_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").write_text("x")
    Path("brain-t1").mkdir()
    models = ["own.safetensors", "brain-t1", "auto", "gone.safetensors"]
    tasks = [Task.of(job(Path("in"), "a", model=model), Path("study")) for model in models]
    assert [task.options["model"] for task in tasks] == [
        str(tmp_path / "own.safetensors"), *models[1:]
    ]  # fmt: skip
    one = tasks[0]
    paths = (one.study, one.folder, one.log, *one.inputs.values())
    assert all(Path(path).is_absolute() for path in paths)


def test_a_missing_file_has_no_key(tmp_path: Path) -> None:
    one = job(tmp_path, "a")
    other = replace(one, inputs=replace(one.inputs, fixed_lesion=tmp_path / "x"))
    with pytest.raises(InputError, match=r"fixed lesion .*no such file"):
        key(other, 1, Hashes())


DONE = Status(
    "a", "k", "done", "pairs/a", 2, "full", 10, "é", ("p",), 1.5, None, "h", 3, 1.0, 2.0, ("f",)
)


def test_a_status_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "status" / "a.json"
    for one in (DONE, replace(DONE, state="running", peak_memory_mb=12.5, files=())):
        status.write(path, one)
        assert status.read(path) == one
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_status_without_a_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    status.write(path, replace(DONE, limit=60.0))
    known = status.read(path)
    assert known is not None
    assert known.limit == 60.0
    older = json.loads(path.read_text())
    del older["limit"]
    path.write_text(json.dumps(older))
    assert status.read(path) == DONE


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"state": "lost"},
        {"key": None},
        {"files": 3},
        {"pid": "x"},
        {"seconds": None},
    ],
)
def test_a_damaged_status_is_none(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    status.write(path, DONE)
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), **change}))
    assert status.read(path) is None
    path.write_text(text[: len(text) // 2])
    assert status.read(path) is None
    path.write_text("[1]")
    assert status.read(path) is None
    assert status.read(tmp_path / "missing.json") is None


def test_shards_share_the_pairs_out_evenly(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"p{k}") for k in range(10)]
    parts = [{one.id for one in Shard(k, 3).of(jobs)} for k in (1, 2, 3)]
    assert [len(part) for part in parts] == [4, 3, 3]
    assert set.union(*parts) == {one.id for one in jobs}
    assert [{one.id for one in Shard(k, 3).of(jobs[::-1])} for k in (1, 2, 3)] == parts
    assert len(Shard().of(jobs)) == 10


def test_shards_are_read(tmp_path: Path) -> None:
    assert parse("2/8") == Shard(2, 8)
    assert parse("slurm/8", {"SLURM_ARRAY_TASK_ID": "8"}) == Shard(8, 8)
    assert (Shard().name, Shard(2, 8).name) == ("all", "2-of-8")


@pytest.mark.parametrize(
    ("text", "number", "says"),
    [
        ("2", "", "'2' is no shard"),
        ("0/3", "", "there is no shard 0 of 3"),
        ("4/3", "", "there is no shard 4 of 3"),
        ("slurm/3", "", "needs SLURM_ARRAY_TASK_ID, which is not set"),
        ("slurm/3", "x", "which is 'x'"),
        ("slurm/3", "0", "there is no shard 0 of 3"),
        ("slurm", "1", "'slurm' is no shard"),
    ],
)
def test_what_is_no_shard_is_one_line(text: str, number: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(text, {"SLURM_ARRAY_TASK_ID": number} if number else {})
