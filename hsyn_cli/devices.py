"""The means of a run: the device, the CPU threads, the memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hsyn_cli.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
# Files of a cgroup, version 1 and 2. Of its CPU time and the period for it, in microseconds:
CPU_FILES = (("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",))
# Of its most memory and the memory used, in bytes:
MEMORY_FILES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
)  # fmt: skip
# How a GPU, and its libraries of convolutions and of products, say that it is full.
FULL_DEVICE = ("out of memory", "ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
MUCH = 1_400_000_000  # bytes


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA if it is available, else the CPU.

    Raises DeviceError, UsageError.
    """
    import torch

    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}", f"choose one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' is not available: torch finds no CUDA device",
            "use --device cpu, or install torch for CUDA",
        )
    if name == "mps" and not torch.backends.mps.is_available():
        text = "device 'mps' is not available: torch finds no MPS device"
        raise DeviceError(text, "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_threads(threads: int | None) -> None:
    """Limit the CPU threads of torch and SimpleITK to `threads`, and to the cores that there are.

    None: both take as many as they would by themselves, if there are cores for all.
    """
    import SimpleITK as sitk

    use_torch_threads(threads)
    itk = sitk.ProcessObject
    own = itk.GetGlobalDefaultNumberOfThreads()
    wanted = min(available_cores(), own if threads is None else threads)
    if wanted != own:
        itk.SetGlobalDefaultNumberOfThreads(wanted)


def use_torch_threads(threads: int | None) -> None:
    """The same for torch alone, without SimpleITK."""
    import torch

    own = torch.get_num_threads()
    wanted = min(available_cores(), own if threads is None else threads)
    if wanted != own:
        torch.set_num_threads(wanted)


def available_cores(root: Path = Path("/")) -> int:
    """The CPU cores that this process may use: by its affinity and by the quotas of its cgroups.

    `root`: where /proc and /sys lie.
    """
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        counts.append(len(os.sched_getaffinity(0)))
    quotas = [time / period for time, period in _limits(root, "cpu", CPU_FILES)]
    return min([*counts, *(max(1, math.ceil(quota)) for quota in quotas)])


def free_memory_mb(root: Path = Path("/")) -> float | None:
    """The memory that this process can still get, by the system and by the limits of its cgroups.

    None: not known. `root`: where /proc and /sys lie.
    """
    amounts = [most - used for most, used in _limits(root, "memory", MEMORY_FILES)]
    for line in _read(root / "proc" / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            amounts.append(int(line.split()[1]) * 1024)
    return max(0, min(amounts)) / 1e6 if amounts else None


def total_memory_mb(root: Path = Path("/")) -> float | None:
    """The memory of this machine, or less if a cgroup limits it; `root` as of `free_memory_mb`."""
    amounts = [most for most, _ in _limits(root, "memory", MEMORY_FILES)]
    for line in _read(root / "proc" / "meminfo").splitlines():
        if line.startswith("MemTotal:"):
            amounts.append(int(line.split()[1]) * 1024)
    return min(amounts) / 1e6 if amounts else None


def _limits(
    root: Path, controller: str, files: tuple[tuple[str, ...], tuple[str, ...]]
) -> Iterator[tuple[int, int]]:
    """The two numbers in those files of each cgroup above this process that sets a limit."""
    mounts = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top, names = (mounts / controller, files[0]) if controllers else (mounts, files[1])
        steps = PurePosixPath(path).parts[1:]
        for depth in range(len(steps) + 1):
            group = top.joinpath(*steps[:depth])
            numbers = " ".join(_read(group / name) for name in names).split()
            if len(numbers) == 2 and all(word.isdigit() for word in numbers):  # not "max" nor -1
                yield int(numbers[0]), int(numbers[1])


def _read(path: Path) -> str:
    """The text of a file of the kernel, or ""."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def convolution_type(device: torch.device) -> torch.dtype:
    """The number type in which convolutions are fast on `device`.

    bfloat16 on GPUs and CPUs that have instructions for it, else float32. oneDNN may be told to do
    without them (ONEDNN_MAX_CPU_ISA); its bfloat16 is then a hundred times slower.
    """
    import torch

    if device.type == "cpu":
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in 2.6
        fast = able.get("avx512_bf16") or able.get("amx_bf16")
        return torch.bfloat16 if fast and _onednn_has_bfloat16() else torch.float32
    able_gpu = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if able_gpu else torch.float32


def _onednn_has_bfloat16() -> bool:
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A few numbers of the CPU on a device. On CUDA, the host does not wait for its other work.

    There the driver keeps a copy of what it has yet to send. Other devices might not.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given. A CPU has, when a call returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """The name of the device in the report."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def device_memory_mb(device: torch.device) -> tuple[float, float] | None:
    """The memory that this process can still get on a device, and all that the device has.

    Limits of this process count (`torch.cuda.set_per_process_memory_fraction`), and so does memory
    that torch keeps for it. None: not known, as on a CPU, which `free_memory_mb` tells of. A GPU
    without room for a process has none.
    """
    import torch

    if device.type == "cuda":
        try:
            with torch.cuda.device(device):  # some of torch refuses a device without an index
                free, total = torch.cuda.mem_get_info()
                share = getattr(torch.cuda.memory, "get_per_process_memory_fraction", lambda: 1.0)()
        except RuntimeError as error:
            if not out_of_device_memory(error):
                raise
            return 0.0, 0.0
        used, kept = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return max(0.0, min(free + kept, share * total) - used) / 1e6, share * total / 1e6
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return max(0.0, total - torch.mps.driver_allocated_memory()) / 1e6, total / 1e6
    return None


def device_peak_mb(device: torch.device) -> float | None:
    """The most memory that this process took on a device since `release_device`; None: unknown."""
    import torch

    return torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else None


def release_device(device: torch.device) -> None:
    """Return what torch keeps on a device to others, and let its peak count from now on.

    A device that is full may refuse, which is no reason to lose a pair.
    """
    import torch

    if device.type == "cuda":
        gc.collect()
        with contextlib.suppress(RuntimeError), torch.cuda.device(device):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    elif device.type == "mps":
        torch.mps.empty_cache()


def out_of_device_memory(error: BaseException) -> bool:
    """Whether a device, not the computer, was short of memory: as its allocator or a library tells.

    The allocator of a CPU raises no OutOfMemoryError of torch.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    of_device = any(name in text for name in ("CUDA", "CUDNN", "cuDNN", "CUBLAS", "MPS"))
    return isinstance(error, RuntimeError) and of_device and any(v in text for v in FULL_DEVICE)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system page by page.

    A registration allocates and frees hundreds of volumes of tens of MB. Without this, fresh pages
    took a seventh of its time. All threads share what was freed: one that keeps its own raises the
    peak by up to 0.4 GB. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_ARENA_MAX, 1)


def return_memory(least: int = MUCH) -> None:
    """Return freed memory to the system, where the C library is glibc and it holds much.

    It keeps what was freed in pieces. Later, larger blocks do not fit into these. Fresh pages take
    time, so a process of less than `least` bytes keeps them.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > least:
            ctypes.CDLL(None).malloc_trim(0)


def peak_memory_mb() -> float | None:
    """The peak memory of this process so far, in MB; None if the system does not report it.

    Linux's rusage also counts the process that started this one, until it became this program.
    """
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def forget_peak_memory() -> None:
    """Let the peak memory count from now on, where the system is Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
