"""The parts of the GPU-day kit alone; the whole day is in test_gpu_day."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tarfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pretend import pretending
from test_examples import EXAMPLES, load
from torch.autograd import DeviceType

from hsyn_cli.errors import UsageError

CUDA = torch.device("cuda")
STEPS = ("affine", "warping", "reading and writing")
PACKED = {
    "model": "shipped", "mm": None, "threads": 1, "seconds": {},
    "register": dict.fromkeys(STEPS, 0.0),
}  # fmt: skip


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """gpu_day."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return load(EXAMPLES / "gpu_day.py")


@pytest.fixture
def measures(kit: ModuleType) -> ModuleType:
    """gpu_measure."""
    return load(EXAMPLES / "gpu_measure.py")


@pytest.mark.parametrize("seen", [DeviceType.CUDA, DeviceType.CPU])
def test_the_profiler_makes_no_device_look_idle(
    measures: ModuleType, seen: DeviceType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profiler slows the host down, and saw one kernel of 50 ms."""
    slow = []

    @contextlib.contextmanager
    def profile(**_: Any) -> Iterator[Any]:
        slow.append(1)
        event = SimpleNamespace(key="k", device_type=seen, self_device_time_total=50_000, count=1)
        yield SimpleNamespace(key_averages=lambda: [event])

    monkeypatch.setattr(measures, "profile", profile)
    with pretending():
        found = measures.looked_at(CUDA, lambda: time.sleep(0.5 if slow else 0.1))
    if seen == DeviceType.CUDA:
        assert found["launches"] == 1
        assert 0.2 < found["busy"] < 0.55
    else:  # a profiler without access to the device
        assert found["no_kernels"] == "not measured: the profiler saw no kernel"


def test_the_gain_of_a_checkpoint_is_over_the_same_pairs(kit: ModuleType) -> None:
    """Whatever the order in which they came, and no gain over other pairs."""
    rest = {"folded": 0, "folded_corner": 0, "round_trip_mean_mm": 0.0, "round_trip_max_mm": 0.0}
    places = [("shipped/shipped", k) for k in (1, 2, 3)] + [("new/abc", k) for k in (3, 1, 2)]
    units = {
        f"evaluation/{who}/fast/pair-0{k}": {"dice": k / 10 + 0.01 * (who != "shipped/shipped"),
                                             **rest}
        for who, k in places
    }  # fmt: skip
    about = {"device": "cuda", "torch": "2", "threads": 1, "units": units, "packed": PACKED}
    told = kit.table(about)
    assert "0.2100 (+0.0100, standard error 0.0000)" in told
    units["evaluation/new/abc/fast/pair-02"] = {"failed": "RuntimeError: full"}
    units["evaluation/shipped/shipped/fast/pair-03"] = {"failed": "RuntimeError: full"}
    assert "standard error" not in kit.table(about)


def part(folder: Path, text: str) -> Path:
    """A pack of one part."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("about.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    data = stream.getvalue()
    folder.mkdir()
    (folder / "part-01").write_bytes(data)
    listed = [{"name": "part-01", "sha256": hashlib.sha256(data).hexdigest()}]
    (folder / "parts.json").write_text(json.dumps(listed))
    return folder


def test_other_parts_need_another_folder(kit: ModuleType, tmp_path: Path) -> None:
    one, other = part(tmp_path / "one", "{}"), part(tmp_path / "other", "[]")
    work = tmp_path / "work"
    assert kit.carried_in(one, work)
    assert kit.carried_in(one, work)
    assert kit.carried_in(tmp_path, work)  # nothing was carried this time
    with pytest.raises(UsageError, match="other parts"):
        kit.carried_in(other, work)


def test_a_config_that_changed_is_not_trained_as_before(kit: ModuleType, tmp_path: Path) -> None:
    run, config = tmp_path / "train" / "a", tmp_path / "a.json"
    for folder in (run, tmp_path / "content"):
        folder.mkdir(parents=True)
    config.write_text("{}")
    for path in (run / "given.json", run / "config.json", tmp_path / "content" / "about.json"):
        path.write_text("{}")
    args = Namespace(work=tmp_path, until=math.inf, device="cpu", pairs=None, config=[config])
    assert kit.Day(args).pairs == []
    config.write_text('{"batch": 2}')
    with pytest.raises(UsageError, match="has changed"):
        kit.Day(args)
    (run / "config.json").unlink()  # it did not begin
    args.config = [config, tmp_path / "other" / "a.json"]
    with pytest.raises(UsageError, match="one name"):
        kit.Day(args)


def test_a_call_that_is_killed_has_handed_out_what_was_done(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / "work" / "train" / "a" / "checkpoint.safetensors"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(b"weights")

    def killed(day: Any) -> None:
        raise KeyboardInterrupt

    memory = {"memory": lambda day: day.once("memory/fast/pair-01", lambda: {"fit": 1.0})}
    monkeypatch.setattr(kit, "STEPS", memory | {"training": killed})
    carried = part(tmp_path / "carried", json.dumps(PACKED))
    words = [str(carried), str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    words += ["--steps", "memory,training", "--device", "cpu", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["gpu_day.py", *words])
    with pytest.raises(KeyboardInterrupt):
        kit.main()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["units"]
    assert (tmp_path / "out" / "a.safetensors").read_bytes() == b"weights"
    assert "1 MB" in (tmp_path / "out" / "table.md").read_text()


def test_a_machine_without_a_gpu_is_told_at_once(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It would else spend the whole day as a rehearsal on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    carried = part(tmp_path / "carried", json.dumps(PACKED))
    monkeypatch.setattr("sys.argv", ["gpu_day.py", str(carried), str(tmp_path / "work")])
    with pytest.raises(SystemExit) as ended:
        kit.main()
    assert ended.value.code == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
