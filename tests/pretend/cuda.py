"""What torch.cuda, torch.autocast and torch.Generator are on the pretend device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from pretend.record import RECORD

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GIB = 1 << 30
_LOCAL = threading.local()


def is_cuda(value: Any) -> bool:
    """Whether an argument names a CUDA device."""
    if isinstance(value, str):
        return value.startswith("cuda")
    return isinstance(value, torch.device) and value.type == "cuda"


def answers(capability: tuple[int, int]) -> dict[str, Callable[..., Any]]:
    """The functions of torch.cuda."""
    properties = SimpleNamespace(
        name="pretend", major=capability[0], minor=capability[1], total_memory=80 * GIB,
        multi_processor_count=100, uuid="pretend",
    )  # fmt: skip
    fixed: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "set_sync_debug_mode": None,
        "get_device_name": "pretend",
        "get_device_properties": properties,
        "get_device_capability": capability,
        "is_bf16_supported": capability >= (8, 0),
        "empty_cache": None,
        "mem_get_info": (70 * GIB, 80 * GIB),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "current_stream": Stream(),
    }

    def get_per_process_memory_fraction(device: Any = None) -> float:
        if device is not None and torch.device(device).index is None:  # torch refuses it as well
            raise ValueError(f"Expected a torch.device with a specified index, but got:{device}")
        return 1.0

    def synchronize(device: Any = None) -> None:
        RECORD.wait("synchronize")

    guards = dict.fromkeys(("device", "stream"), nullcontext)
    classes = {
        "synchronize": synchronize, "Stream": Stream, "Event": Stream, **guards,
        "get_per_process_memory_fraction": get_per_process_memory_fraction,
    }  # fmt: skip
    return classes | {name: _always(v) for name, v in fixed.items()}


class Stream:
    """A stream, or an event in one; there is nothing to wait for but by `synchronize`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cuda_stream = 0

    def record(self, stream: Any = None) -> None:
        pass

    wait = wait_stream = wait_event = record_stream = record

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        return 0.0

    def synchronize(self) -> None:
        RECORD.wait("synchronize")


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def autocast_type() -> torch.dtype | None:
    """The number type of convolutions and products in this thread; None: that of their input."""
    types = getattr(_LOCAL, "types", [])
    return types[-1] if types else None


class Autocast(torch.autocast):
    """For "cuda", what `autocast_type` tells; else torch's own."""

    def __init__(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **more: Any
    ) -> None:
        self.pretends = device_type == "cuda"
        self.type = (dtype or torch.float16) if enabled else None
        if not self.pretends:
            super().__init__(device_type, dtype, enabled, **more)

    def __enter__(self) -> Any:
        if not self.pretends:
            return super().__enter__()
        _LOCAL.types = [*getattr(_LOCAL, "types", []), self.type]
        return self

    def __exit__(self, *details: Any) -> Any:
        if not self.pretends:
            return super().__exit__(*details)
        _LOCAL.types = _LOCAL.types[:-1]
        return False


class Generator(torch.Generator):
    """A generator of either device. Equal seeds give equal numbers on both."""

    def __new__(cls, device: Any = CPU) -> Generator:
        out: Generator = super().__new__(cls)
        out.there = is_cuda(device)
        return out

    device = property(lambda self: CUDA if self.there else CPU)


def check_generator(generator: torch.Generator, there: bool) -> None:
    """Raise MixUp for numbers of one device from a generator of the other."""
    wanted, got = "cuda" if there else "cpu", generator.device.type
    if wanted != got:
        raise RECORD.refuse(f"Expected a '{wanted}' device type for generator but found '{got}'")
