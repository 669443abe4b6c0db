"""The cores and memory that there are, and threads that leave cores to others while they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

import hsyn_cli
from hsyn_cli import devices


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """A machine of 16 cores with these files below its root."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


V1, V2 = "sys/fs/cgroup/cpu", "sys/fs/cgroup"
HALF = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("", {}, 12),
        ("0::/\n", {f"{V2}/cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, 12),
        ("0::/a/b\n", {f"{V2}/a/cpu.max": "400000 100000", f"{V2}/a/b/cpu.max": "max 100000"}, 4),
        ("0::/../x\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {f"{V2}/cpu.max": "9900000 100000\n"}, 12),
        ("0::/\n", {f"{V2}/cpu.max": "damaged"}, 12),
        ("4:memory:/a\n3:cpu,cpuacct:/host/id\n", {f"{V1}/{k}": v for k, v in HALF.items()}, 1),
        ("3:cpu:/j\n", {f"{V1}/j/cpu.cfs_quota_us": "-1", f"{V1}/j/cpu.cfs_period_us": "9"}, 12),
        ("3:cpuset:/j\n", {f"{V1}/{k}": v for k, v in HALF.items()}, 12),
    ],
)
def test_cores_are_what_affinity_and_cgroups_leave(
    groups: str, files: dict[str, str], cores: int, kernel: Callable[[dict[str, str]], Path]
) -> None:
    assert devices.available_cores(kernel({"proc/self/cgroup": groups, **files})) == cores


def test_cores_without_the_files_of_linux(kernel: Callable[[dict[str, str]], Path]) -> None:
    assert devices.available_cores(kernel({})) == 12


AVAILABLE = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:  4000000 kB\n"}


def group_1(most: int | str, used: int) -> dict[str, str]:
    return {"memory.limit_in_bytes": f"{most}\n", "memory.usage_in_bytes": f"{used}\n"}


def group_2(most: int | str, used: int) -> dict[str, str]:
    return {"memory.max": f"{most}\n", "memory.current": f"{used}\n"}


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("", {}, None),
        ("", {"": AVAILABLE}, 4096.0),
        ("0::/\n", {"": AVAILABLE, f"{V2}/": group_2("max", 9)}, 4096.0),
        ("0::/\n", {"": AVAILABLE, f"{V2}/": group_2(3 * 10**9, 10**9)}, 2000.0),
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_0\n",
            {
                "": AVAILABLE,
                f"{V2}/system.slice/slurmstepd.scope/job_7/": group_2(2 * 10**9, 5 * 10**8),
                f"{V2}/system.slice/slurmstepd.scope/job_7/step_0/": group_2("max", 5 * 10**8),
                f"{V2}/system.slice/other/": group_2(10, 0),
            },
            1500.0,
        ),
        (
            "9:memory:/slurm/uid_1/job_7\n3:cpu,cpuacct:/\n",
            {
                "": AVAILABLE,
                f"{V2}/memory/": group_1(9223372036854771712, 10**9),
                f"{V2}/memory/slurm/uid_1/job_7/": group_1(10**9, 2 * 10**8),
            },
            800.0,
        ),
        ("0::/\n", {"": AVAILABLE, f"{V2}/": group_2(10**9, 2 * 10**9)}, 0.0),
    ],
)
def test_free_memory_is_what_the_system_and_cgroups_leave(
    groups: str,
    files: dict[str, dict[str, str]],
    free: float | None,
    kernel: Callable[[dict[str, str]], Path],
) -> None:
    plain = {f"{folder}{name}": text for folder, own in files.items() for name, text in own.items()}
    assert devices.free_memory_mb(kernel({"proc/self/cgroup": groups, **plain})) == free


@pytest.mark.parametrize(
    ("own", "cores", "given", "used"),
    [((8, 8), 2, None, (2, 2)), ((1, 3), 4, None, (1, 3)), ((1, 3), 4, 100, (4, 4)),
     ((1, 3), 4, 2, (2, 2))],
)  # fmt: skip
def test_threads_never_exceed_the_cores(
    own: tuple[int, int],
    cores: int,
    given: int | None,
    used: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = dict(zip(("torch", "itk"), own, strict=True))
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts["torch"])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: counts.update(torch=n))
    itk = sitk.ProcessObject
    monkeypatch.setattr(itk, "GetGlobalDefaultNumberOfThreads", lambda: counts["itk"])
    monkeypatch.setattr(itk, "SetGlobalDefaultNumberOfThreads", lambda n: counts.update(itk=n))
    devices.use_threads(given)
    assert (counts["torch"], counts["itk"]) == used


@pytest.mark.parametrize(
    ("before", "set_by_user", "policy"),
    [
        ("", {}, "PASSIVE"),
        ("import sys; sys.modules['torch'] = sys; ", {}, None),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("", {"GOMP_SPINCOUNT": "7"}, None),
        ("", {"KMP_BLOCKTIME": "7"}, None),
    ],
)
def test_threads_wait_passively_unless_the_user_decides(
    before: str, set_by_user: dict[str, str], policy: str | None
) -> None:
    program = f"{before}import hsyn_cli, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1]), **set_by_user},
    )
    assert done.stdout == f"{policy}\n"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux keeps the peak there")
def test_the_peak_of_the_memory_can_be_forgotten() -> None:
    large = bytearray(b"x") * 300_000_000
    before = devices.peak_memory_mb()
    del large
    devices.forget_peak_memory()
    after = devices.peak_memory_mb()
    assert before is not None
    assert after is not None
    assert after < before - 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_the_peak_of_a_process_is_not_that_of_its_parent() -> None:
    large = bytearray(b"x") * 300_000_000
    script = "from hsyn_cli import devices; print(devices.peak_memory_mb())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert float(told.stdout) < 200
    assert len(large) == 300_000_000
