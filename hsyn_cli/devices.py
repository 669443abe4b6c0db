"""The means of a run: the device, the CPU threads, the memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hsyn_cli.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


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
    """Limit the CPU threads of torch and SimpleITK; None leaves both at all cores."""
    if threads is not None:
        import SimpleITK as sitk
        import torch

        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def convolution_type(device: torch.device) -> torch.dtype:
    """The number type in which convolutions are fast on `device`.

    bfloat16 on GPUs and CPUs that have instructions for it, else float32.
    """
    import torch

    if device.type == "cpu":
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in 2.6
        fast = able.get("avx512_bf16") or able.get("amx_bf16")
        return torch.bfloat16 if fast else torch.float32
    able_gpu = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if able_gpu else torch.float32


def device_name(device: torch.device) -> str:
    """The name of the device in the report."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def peak_memory_mb() -> float | None:
    """The peak memory of this process so far, in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
