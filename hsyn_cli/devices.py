"""Where a run computes: the device and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hsyn_cli.errors import DeviceError, UsageError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one, else the CPU. Raises DeviceError, UsageError."""
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}", "choose one of auto, cpu, cuda, mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "CUDA was asked for, but torch finds no CUDA device",
            "use --device cpu, or install torch for CUDA",
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("MPS was asked for, but torch finds none", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_threads(threads: int | None) -> None:
    """Bound the CPU threads of torch and of SimpleITK; None leaves both at all cores."""
    if threads is not None:
        import SimpleITK as sitk

        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def convolution_type(device: torch.device) -> torch.dtype:
    """In which numbers convolutions are fast there: bfloat16 on GPUs and CPUs with instructions for it, else float32."""
    if device.type == "cpu":
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.6
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    able_gpu = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if able_gpu else torch.float32


def device_name(device: torch.device) -> str:
    """As the report tells it."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
