"""The versions and the means of this machine, for `hsyn doctor`."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.devices import available_cores, convolution_type, free_memory_mb, total_memory_mb

LIBRARIES = (
    "torch", "SimpleITK", "numpy", "scipy", "nibabel", "safetensors", "isal", "click", "rich",
    "platformdirs", "h5py",
)  # fmt: skip
VARIABLES = (  # that change what hsyn does
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_BLOCKTIME", "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ENABLE_MPS_FALLBACK", "LC_ALL", "PYTHONUTF8", "PYTHONIOENCODING",
)  # fmt: skip
NVIDIA = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
GPU_SECONDS = 2.0
HOMES = re.compile(r"/root(?![^/])|(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s:]+")


def versions() -> dict[str, str]:
    """Versions of hsyn, Python and its libraries; "missing" for those that are not installed."""
    found = {"hsyn": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def machine() -> dict[str, Any]:
    """The system, the CPU and the memory, in megabytes, without any use of torch."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": available_cores(),
        "memory_mb": total_memory_mb(),
        "memory_free_mb": free_memory_mb(),
        "encodings": f"files {sys.getfilesystemencoding()}, text {locale.getpreferredencoding()}",
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def of_torch() -> dict[str, Any]:
    """What torch makes of the CPU and the GPU. Raises ImportError, OSError."""
    import torch

    cpu, cuda = torch.device("cpu"), torch.cuda.is_available()
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "numbers": str(convolution_type(cpu)).removeprefix("torch."),
        "gpu": gpus() or "none that nvidia-smi tells of",
        "gpu_torch": f"CUDA {torch.version.cuda}" if cuda else "torch sees no CUDA device",
    }
    if cuda:
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        found["gpu_torch"] += f": {', '.join(names)}"
    if torch.backends.mps.is_available():
        found["gpu_torch"] += "; MPS is there"
    return found


def gpus() -> str:
    """Name, memory and driver of each GPU of NVIDIA; "" if none is found."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  (the program that the system has)
            [program, *NVIDIA], capture_output=True, text=True, timeout=GPU_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.strip().splitlines())


def private(text: str) -> str:
    """`text` without the names of users in paths: ~ for home folders."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?![^/\\\s:])", "~", text)
    return HOMES.sub("~", text)


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
