"""A CUDA device that is not there: real tensors on the CPU, marked as tensors of `cuda:0`.

Inside `pretending()`, code runs as on a machine with one GPU, its results are those of a CPU, and
what a GPU would refuse raises `MixUp` (see `pretend_rules`): operators on tensors of both devices,
generators of the wrong device, numpy on a device's tensor. It also counts where the host waits.

A marked tensor is a wrapper without data; torch's C++ takes it for one on the device "meta", so
that options carry through. A function mode translates device arguments, and a dispatch mode runs
each operator on the tensors inside.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pretend_rules import MixUp, check, wait_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

import hsyn_cli

CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
PACKAGE = str(Path(hsyn_cli.__file__).parent)
# These read data in C++, which "meta" has none of.
FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
AUTOCAST = {
    torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm,
    torch.nn.functional.linear, Tensor.matmul, Tensor.__matmul__, Tensor.mm,
}  # fmt: skip


@dataclass
class Record:
    """What happened: mix-ups (also those that the code caught), and waits of the host.

    waits: {(kind, "module.py:line function"): how often}.
    """

    mixups: list[MixUp] = field(default_factory=list)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def refuse(self, text: str | MixUp) -> MixUp:
        error = text if isinstance(text, MixUp) else MixUp(text)
        self.mixups.append(error)
        return error

    def wait(self, kind: str) -> None:
        self.waits[kind, _call_site()] += 1


def _call_site() -> str:
    """The innermost line of hsyn on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            path = code.co_filename[len(PACKAGE) + 1 :]
            return f"{path}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    return "tests"


RECORD = Record()  # of the `pretending()` that runs, or ran last


class Marked(Tensor):
    """A tensor of the pretend device. `inner`: the tensor on the CPU that holds the values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Marked:
        out = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=META,
        )  # fmt: skip
        out.inner = inner
        return out

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def numpy(self, **_: Any) -> Any:
        text = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy"
        RECORD.refuse(text)
        raise TypeError(text)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.inner!r} on cuda:0"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def marked(value: Any) -> bool:
    return isinstance(value, Marked)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_each(v, change) for v in value)
    return change(value)


@functools.cache
def _written(func: Any) -> tuple[int | str | None, ...]:
    """For each result: the argument that an operator writes to and returns, or None."""
    own: dict[str, int | str] = {}
    for k, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            key = argument.name if argument.kwarg_only else k
            own |= dict.fromkeys(argument.alias_info.before_set, key)
    found = (r.alias_info.before_set if r.alias_info else () for r in func._schema.returns)
    return tuple(next((own[name] for name in names if name in own), None) for names in found)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator, on the tensors inside; what it returns is marked if its device is."""
    try:
        check(func, args, kwargs, marked)
    except MixUp as error:
        raise RECORD.refuse(error) from None
    if kind := wait_of(func, args, kwargs, marked):
        RECORD.wait(kind)
    found: list[Marked] = []

    def opened(value: Any) -> Any:
        if marked(value):
            found.append(value)
            return value.inner
        if isinstance(value, Tensor) and value.device.type == "meta":
            raise NotImplementedError(f"{func} gets a tensor that torch made of data in C++")
        return value

    inside, named = _each(args, opened), {k: _each(v, opened) for k, v in kwargs.items()}
    device = kwargs.get("device")
    there = bool(found) if device is None else device.type == "meta"
    if func._schema.name == "aten::copy_":
        there = marked(args[0])
    if device is not None and there:
        named["device"] = CPU
    out = func(*inside, **named)
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # only the shape of the wrapper
    for value in found:
        if value.inner.shape != value.shape:
            raise NotImplementedError(f"{func} changes the shape of its argument")
    return _closed(out, _written(func), args, kwargs, there)


def _closed(out: Any, written: Any, args: Any, kwargs: Any, there: bool) -> Any:
    def close(value: Any) -> Any:
        return Marked(value) if there and isinstance(value, Tensor) else value

    if isinstance(out, tuple) and len(written) == len(out):
        parts = (_closed(o, (w,), args, kwargs, there) for o, w in zip(out, written, strict=True))
        return tuple(parts)
    if written and written[0] is not None:
        key = written[0]
        return args[key] if isinstance(key, int) and key < len(args) else kwargs[key]
    return _each(out, close)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _is_cuda(value: Any) -> bool:
    if isinstance(value, str) and value.startswith("cuda"):
        return True
    return isinstance(value, torch.device) and value.type == "cuda"


class _Arguments(TorchFunctionMode):
    """Translates the device arguments of functions and methods; does what autocast does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(META)
        if func in (Tensor.pin_memory, Tensor.record_stream):
            return args[0]
        if func in FROM_DATA:
            return self._from_data(func, args, kwargs)
        if func is Tensor.to:
            args = tuple(META if _is_cuda(v) else v for v in args)
            if len(args) > 1 and marked(args[1]):  # like another tensor
                return args[0].to(META, args[1].dtype, *args[2:], **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and marked(args[0]):
            args = (args[0], _index(args[1]), *args[2:])
        there = _is_cuda(kwargs.get("device"))
        if there:
            kwargs["device"] = META
        if isinstance(kwargs.get("generator"), torch.Generator):
            _check_generator(kwargs["generator"], there or any(map(marked, args)))
        kind = _autocast_kind()
        if kind is not None and func in AUTOCAST:
            args = _each(args, lambda v: v.to(kind) if marked(v) and v.is_floating_point() else v)
        return func(*args, **kwargs)

    def _from_data(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        device, wants = kwargs.pop("device", None), kwargs.pop("requires_grad", False)
        if func is Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            device, func, args = device or args[0].device, torch.tensor, args[1:]
        data = args[0] if args else kwargs["data"]
        if device is None and marked(data):
            device = CUDA
        out: Tensor = func(*args, **kwargs) if not marked(data) else data
        out = out.to(META) if _is_cuda(device) else out if device is None else out.to(device)
        return out.requires_grad_() if wants else out


def _index(index: Any) -> Any:
    """An index whose lists and arrays are on the device, where torch puts them."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.as_tensor(index).to(META) if isinstance(index, list | np.ndarray) else index


def _check_generator(generator: torch.Generator, there: bool) -> None:
    wanted, got = "cuda" if there else "cpu", generator.device.type
    if wanted != got:
        raise RECORD.refuse(f"Expected a '{wanted}' device type for generator but found '{got}'")


_LOCAL = threading.local()


def _autocast_kind() -> torch.dtype | None:
    kinds = getattr(_LOCAL, "kinds", [])
    return kinds[-1] if kinds else None


class _Autocast(torch.autocast):
    """For "cuda", a note for `_Arguments`; else torch's own."""

    def __init__(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **more: Any
    ) -> None:
        self.pretends = device_type == "cuda"
        self.kind = (dtype or torch.float16) if enabled else None
        if not self.pretends:
            super().__init__(device_type, dtype, enabled, **more)

    def __enter__(self) -> Any:
        if not self.pretends:
            return super().__enter__()
        _LOCAL.kinds = [*getattr(_LOCAL, "kinds", []), self.kind]
        return self

    def __exit__(self, *details: Any) -> Any:
        if not self.pretends:
            return super().__exit__(*details)
        _LOCAL.kinds = _LOCAL.kinds[:-1]
        return False


class Generator(torch.Generator):
    """A generator of either device."""

    def __new__(cls, device: Any = CPU) -> Generator:
        out: Generator = super().__new__(cls)
        out.there = _is_cuda(device)
        return out

    device = property(lambda self: CUDA if self.there else CPU)


def _stand_ins(capability: tuple[int, int]) -> dict[str, Callable[..., Any]]:
    """What torch.cuda answers for the pretend device."""
    gib = 1 << 30
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "pretend",
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda *_: capability >= (8, 0),
        "synchronize": lambda device=None: RECORD.wait("synchronize"),
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (70 * gib, 80 * gib),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
    }


@contextmanager
def _modes() -> Iterator[None]:
    with _Arguments(), _Operators():
        yield


def _forget_caches() -> None:
    """Tensors that functions of hsyn keep for a device are not kept for a pretend one."""
    for name, module in list(sys.modules.items()):
        if name.startswith("hsyn_cli"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@contextmanager
def pretending(capability: tuple[int, int] = (7, 5)) -> Iterator[Record]:
    """Run on the pretend device what asks for "cuda". From compute capability 8 on, in bfloat16."""
    global RECORD
    run, types = threading.Thread.run, _foreach_utils._foreach_supported_types

    def run_with_modes(thread: threading.Thread) -> None:  # modes belong to a thread
        with _modes():
            run(thread)

    with ExitStack() as stack:
        RECORD = Record()
        stack.callback(_forget_caches)
        _forget_caches()
        for name, answer in _stand_ins(capability).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        generator = torch.Generator
        for module in list(sys.modules.values()):
            if getattr(module, "Generator", None) is generator and (
                module is torch or module.__name__.startswith("hsyn_cli")
            ):
                stack.enter_context(mock.patch.object(module, "Generator", Generator))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_modes))
        stack.enter_context(
            mock.patch.object(_foreach_utils, "_foreach_supported_types", [*types, Marked])
        )
        stack.enter_context(_modes())
        yield RECORD
