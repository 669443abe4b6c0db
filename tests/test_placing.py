"""Pairs leave a device whose memory will not do. The CPU stands for the device: `cpu:0`, a card."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pretend import pretending
from rich.console import Console
from stand_ins import FACTS, assembled

from hsyn_cli import devices
from hsyn_cli.checks import doctor
from hsyn_cli.checks.files import Check
from hsyn_cli.checks.pairs import check_pair
from hsyn_cli.checks.render import render
from hsyn_cli.checks.trial import phantom
from hsyn_cli.cli import run
from hsyn_cli.cli.cohort_progress import told as told_of
from hsyn_cli.cohort import forecast, speed, worker
from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.page import words
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.rows import Row
from hsyn_cli.cohort.speed import Speed
from hsyn_cli.cohort.supervisor import News
from hsyn_cli.cohort.tasks import Task
from hsyn_cli.method import clock, inference, placing, prepare, turns
from hsyn_cli.method import register as method
from hsyn_cli.method.result import DeviceMemory
from hsyn_cli.results.faults import known
from hsyn_cli.results.register_files import Inputs

CARD = torch.device("cpu", 0)  # it is not torch.device("cpu"), and its tensors are the CPU's
Given = Callable[..., Any]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Given:
    """Puts a card in the place of every device, with so many MB free."""

    def put(free: float | None, total: float = 8000.0) -> None:
        found = None if free is None else (free, total)
        monkeypatch.setattr(prepare, "choose_device", lambda name: CARD)
        monkeypatch.setattr(devices, "choose_device", lambda name: CARD)
        monkeypatch.setattr(devices, "device_memory_mb", lambda device: found)
        monkeypatch.setattr(devices, "device_name", lambda device: "card")
        monkeypatch.setattr(turns, "folder_of", lambda device: tmp_path / "turns")

    return put


def registered(**options: Any) -> tuple[Any, list[str]]:
    """The result of a pair of phantoms, and the lines that it told."""
    lines: list[str] = []
    (fixed, _), (moving, _) = phantom(0.0), phantom(0.25)
    found = method.register(
        moving, fixed, weights="none", affine="rigid", threads=1, told=lines.append, **options
    )
    return found, lines


@pytest.fixture(scope="module")
def plain() -> Any:
    """The same on the CPU."""
    found, lines = registered(device="cpu")
    assert not lines
    assert found.facts.device == "cpu"
    assert found.facts.device_memory is None
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two results hold the same bytes."""
    names = ("forward_field", "inverse_field", "warped", "inverse_warped")
    pairs = [[sitk.GetArrayViewFromImage(getattr(v, name)) for v in (one, other)] for name in names]
    return all(np.array_equal(*both) for both in pairs)


@pytest.mark.parametrize("free", [5000.0, None])
def test_a_pair_that_fits_runs_on_its_device(card: Given, free: float | None, plain: Any) -> None:
    card(free)
    found, lines = registered()
    (line,) = lines
    there = "5.0 GB are free" if free else "how much is free is not known"
    assert line == f"card: the pair needs about 0.3 GB, and {there}"
    facts = found.facts
    assert (facts.device, facts.device_memory.left) == ("card", "")
    assert 250 < facts.device_memory.needed_mb < 350
    assert facts.warnings == plain.facts.warnings
    assert "device memory" in facts.seconds
    assert same(found, plain)


def test_a_pair_that_does_not_fit_runs_on_the_cpu(card: Given, plain: Any) -> None:
    card(200.0)
    found, lines = registered(device="cuda")
    left = "card has too little free memory"
    assert lines == [
        "card: the pair needs about 0.3 GB, and 0.2 GB are free",
        f"{left}: the pair runs on the CPU",
    ]
    facts = found.facts
    assert facts.device == f"cpu, since {left}"
    assert facts.warnings[-1] == lines[-1]
    assert facts.device_memory == DeviceMemory(
        "card", facts.device_memory.needed_mb, 200.0, None, placing.SHORT
    )
    assert same(found, plain)


def test_a_step_lasts_until_the_device_has_done_it(
    card: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host goes on before that; the CPU, in the steps before, is never waited for."""
    begun: list[torch.device] = []

    def work(device: torch.device) -> None:
        begun.append(device)
        time.sleep(0.2)

    monkeypatch.setattr(clock, "wait_for", work)
    card(5000.0)
    found, _ = registered(preset="fast")
    assert begun == [CARD] * 8
    seconds = found.facts.seconds
    of_device = set(seconds) - {"checks", "load networks", "affine", "device memory"}
    assert len(of_device) == 8
    assert min(seconds[step] for step in of_device) >= 0.2


def test_the_host_waits_for_a_gpu_and_not_for_a_cpu() -> None:
    for name in ("cuda", "cpu"):
        with pretending() as record:
            devices.wait_for(torch.device(name))
        assert [kind for kind, _ in record.waits] == ["synchronize"] * (name == "cuda")


def test_who_never_fits_waits_for_nobody(card: Given, tmp_path: Path) -> None:
    card(100.0, total=200.0)
    with turns.turn(tmp_path / "turns", 60, lambda: 100.0):
        found, lines = registered(preset="fast")
    assert lines[1] == "card has too little free memory: the pair runs on the CPU"
    assert found.facts.seconds["device memory"] < 5


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("step", ["halfway_fields", "refine", "invert", "compose", "warp"])
def test_a_device_that_gets_full_is_left_once(
    step: str, card: Given, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(5000.0)
    calls = {"align": 0, step: 0}

    def count(module: Any, name: str, fails: int = 0) -> None:
        original = getattr(module, name)

        def counted(*args: Any) -> Any:
            calls[name] += 1
            if calls[name] <= fails:
                raise FULL
            return original(*args)

        monkeypatch.setattr(module, name, counted)

    count(prepare, "align")
    count(inference if hasattr(inference, step) else method, step, fails=1)
    found, lines = registered()
    assert calls == {"align": 1, step: 2}
    assert lines[1:] == [
        "card ran out of memory: the pair goes on with the CPU, after the alignment"
    ]
    assert found.facts.device == "cpu, since card ran out of memory"
    assert found.facts.device_memory.left == placing.FULL
    assert found.facts.warnings[-1] == lines[-1]
    assert same(found, plain)


def test_what_fails_on_the_cpu_too_is_told(card: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    card(5000.0)

    def full(*args: Any) -> None:
        raise FULL

    monkeypatch.setattr(method, "compose", full)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        registered(preset="fast")
    error = known(raised.value)
    assert error is not None
    assert error.exit_code == 8


def test_other_errors_are_no_lack_of_memory(card: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    card(5000.0)
    calls = []

    def wrong(*args: Any) -> None:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(inference, "repair", wrong)
    with pytest.raises(RuntimeError, match="illegal"):
        registered(preset="fast")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (FULL, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            False,
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (MemoryError(), False),
    ],
)
def test_a_full_device_is_known_by_its_error(error: Exception, full: bool) -> None:
    assert devices.out_of_device_memory(error) is full


@pytest.mark.parametrize(
    ("free", "kept", "used", "share", "told"),
    [(6e9, 0, 0, 1.0, (6e3, 8e3)), (4e9, 2e9, 1.5e9, 1.0, (4.5e3, 8e3)),
     (6e9, 1e9, 1e9, 0.25, (1e3, 2e3)), (6e9, 2e9, 2e9, 0.25, (0.0, 2e3))],
)  # fmt: skip
def test_the_free_memory_of_a_gpu(
    free: float, kept: float, used: float, share: float, told: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Here:
        def __init__(self, device: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "device", Here)
    monkeypatch.setattr(cuda, "mem_get_info", lambda: (free, 8e9))
    monkeypatch.setattr(cuda, "memory_reserved", lambda device: kept)
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: used)
    name = "get_per_process_memory_fraction"
    monkeypatch.setattr(cuda.memory, name, lambda: share, raising=False)
    assert devices.device_memory_mb(torch.device("cuda")) == pytest.approx(told)
    assert devices.device_memory_mb(torch.device("cpu")) is None

    def refuse() -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(cuda, "mem_get_info", refuse)
    assert devices.device_memory_mb(torch.device("cuda")) == (0, 0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """The phantoms as files."""
    monkeypatch.chdir(tmp_path)
    for name, bend in (("f", 0.0), ("m", 0.25)):
        sitk.WriteImage(phantom(bend)[0], f"{name}.nii.gz")
    return Inputs(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")


def test_the_command_tells_it_and_the_report_keeps_it(
    card: Given, files: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    card(200.0)
    line = "card has too little free memory: the pair runs on the CPU"
    words = ["register", "-m", "m.nii.gz", "-f", "f.nii.gz", "--preset", "fast", "--device", "cuda"]
    assert run([*words, "-o", "out", "--threads", "1", "--on-failure", "warn"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "card: the pair needs about 0.3 GB, and 0.2 GB are free", line
    ]  # fmt: skip
    assert "cpu, since card has too little" in printed.out
    report = json.loads(Path("out/report.json").read_text())
    assert report["device"] == "cpu, since card has too little free memory"
    assert report["device_memory"]["free_mb"] == 200
    assert line in report["warnings"]
    assert run([*words, "-o", "quiet", "--quiet", "--on-failure", "warn"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("free", [200.0, 5000.0])
def test_check_foresees_it(card: Given, files: Inputs, free: float) -> None:
    card(free)
    found = check_pair(files, {"preset": "fast"}, lambda: Speed(1.0, 1.0))
    assert found.refused is None
    assert found.cost is not None
    assert found.cost.device is not None
    assert found.used is not None
    line = "card has too little free memory: the pair runs on the CPU"
    short = free < 300
    assert (line in found.warnings) is short
    assert found.used.device == ("cpu, since card has too little free memory" if short else "card")
    assert found.to_dict()["cost"]["device"]["free_mb"] == free
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as shown:
        console.print(render(Check(pairs=(found,))))
    fits = "200 MB are free: it does not fit" if short else "5.0 GB are free: it fits"
    assert f" MB of card; {fits}" in shown.get()


@pytest.mark.parametrize(("free", "ends"), [(200.0, ", and will run on the CPU"), (5000.0, "GB")])
def test_doctor_tells_the_free_memory(card: Given, free: float, ends: str) -> None:
    card(free)
    (found,) = doctor._device()
    assert found.ok
    assert "of 8.0 GB are free on card" in found.text
    assert found.text.endswith(ends)


@pytest.mark.parametrize("free", [200.0, 5000.0])
def test_the_forecast_of_a_cohort_foresees_it(
    card: Given, files: Inputs, free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(free)
    monkeypatch.setattr(speed, "measure", lambda workers, threads: Speed(1.0, 1.0))
    jobs = [Job("1", files, "pairs/1", {"preset": "fast", "device": "cuda"})]
    found = forecast.forecast(jobs, Path("study"), workers=1, threads=1)
    assert (found.device, found.device_free_mb) == ("card", free)
    assert 250 < found.device_pair_mb < 350
    short = free < 300
    warned = any("card has 200 MB of free memory" in line for line in found.warnings)
    assert warned is short
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as shown:
        console.print(found.table())
    assert "MB of card for the largest pair" in shown.get()


LEFT = DeviceMemory("card", 900.0, 800.0, 950.0, placing.FULL)


def test_a_cohort_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = assembled(replace(FACTS, device_memory=LEFT), tmp_path)
    monkeypatch.setattr(worker, "register_files", lambda *args, **options: report)
    task = Task(
        "1", str(tmp_path), str(tmp_path / "1"), "", {"moving": "m", "fixed": "f"}, [], {}, {}
    )
    outcome = worker.carry_out(task, lambda line: None)
    assert (outcome.exit_code, outcome.left) == (0, "card ran out of memory")
    status = statuses.Status("1", "k", "done", "pairs/1", seconds=4.0, left=outcome.left)
    statuses.write(tmp_path / "1.json", status)
    assert statuses.read(tmp_path / "1.json") == status
    older = {k: v for k, v in asdict(status).items() if k != "left"}
    (tmp_path / "2.json").write_text(json.dumps({"schema_version": 1, **older}))
    read = statuses.read(tmp_path / "2.json")
    assert read is not None
    assert read.left == ""
    assert told_of(News("ended", status)) == "1 done in 4 s, on the CPU: card ran out of memory"
    row = Row("1", "m", "f", "pairs/1", state="done")
    text = words.headline([row], [], {"1": About(left=True)})
    assert text == "1 of 1 pair done, 1 on the CPU for lack of memory on the device."
