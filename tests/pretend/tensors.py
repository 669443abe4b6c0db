"""Marked tensors, and the modes that make them and run operators on them.

A marked tensor is a wrapper without data. torch's C++ takes it for one on the device "meta", so
that options carry through. A function mode translates device arguments, and a dispatch mode (and
the tensor itself, where no mode is) runs each operator on the tensors inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from pretend.cuda import CPU, CUDA, autocast_type, check_generator, is_cuda
from pretend.record import RECORD
from pretend.rules import check, wait_of

META = torch.device("meta")
# These read data in C++, where "meta" loses it.
FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
AUTOCAST = {
    torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm,
    torch.nn.functional.linear, Tensor.matmul, Tensor.__matmul__, Tensor.mm,
}  # fmt: skip


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
        text = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first"
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
        return type(value)([_each(v, change) for v in value])
    return change(value)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator, on the tensors inside; what it returns is marked if its device is."""
    found: list[Marked] = []
    others = False

    def opened(value: Any) -> Any:
        nonlocal others
        if type(value) is Marked:
            found.append(value)
            return value.inner
        if isinstance(value, Tensor):
            others = True
            if value.device == META:
                raise NotImplementedError(f"{func} gets a tensor whose data torch read in C++")
        return value

    inside, named = _each(args, opened), {k: _each(v, opened) for k, v in kwargs.items()}
    if found and others:
        check(func, args, kwargs, marked)
    device = kwargs.get("device")
    there = bool(found) if device is None else device.type == "meta"
    if (found or there) and (kind := wait_of(func, args, kwargs, marked)):
        RECORD.wait(kind)
    if device is not None and there:
        named["device"] = CPU
    out = func(*inside, **named)
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # the shape of the wrapper
    if any(value.inner.shape != value.shape for value in found):
        raise NotImplementedError(f"{func} changes the shape of its argument")
    return _closed(out, _written(func), args, kwargs, there)


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


def _closed(out: Any, written: Any, args: Any, kwargs: Any, there: bool) -> Any:
    """Results as the caller sees them."""
    if isinstance(out, tuple) and len(written) == len(out):
        parts = zip(out, written, strict=True)
        return tuple(_closed(part, (key,), args, kwargs, there) for part, key in parts)
    if written and written[0] is not None:
        key = written[0]
        return args[key] if isinstance(key, int) else kwargs[key]
    return _each(out, lambda v: Marked(v) if there and isinstance(v, Tensor) else v)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Arguments(TorchFunctionMode):
    """Translates the device arguments of functions and methods; does what autocast does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(META)
        if func in (Tensor.pin_memory, Tensor.record_stream):
            return args[0]
        if func in FROM_DATA:
            return _from_data(func, args, kwargs)
        if func is Tensor.to:
            args = tuple(META if is_cuda(v) else v for v in args)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and marked(args[0]):
            args = (args[0], _index(args[1]), *args[2:])
        there = is_cuda(kwargs.get("device"))
        if there:
            kwargs["device"] = META
        if isinstance(kwargs.get("generator"), torch.Generator):
            check_generator(kwargs["generator"], there or any(map(marked, args)))
        kind = autocast_type()
        if kind is not None and func in AUTOCAST:
            args = _each(args, lambda v: v.to(kind) if marked(v) and v.is_floating_point() else v)
        return func(*args, **kwargs)


def _from_data(func: Any, args: Any, kwargs: Any) -> Tensor:
    """A tensor of numbers, arrays or a tensor, made on the CPU and moved."""
    device, wants_grad = kwargs.pop("device", None), kwargs.pop("requires_grad", False)
    if func is Tensor.new_tensor:
        kwargs.setdefault("dtype", args[0].dtype)
        device, func, args = device or args[0].device, torch.tensor, args[1:]
    data = args[0] if args else kwargs["data"]
    out: Tensor = data if marked(data) else func(*args, **kwargs)
    if device is not None:
        out = out.to(META if is_cuda(device) else device)
    return out.requires_grad_() if wants_grad else out


def _index(index: Any) -> Any:
    """An index whose lists and arrays are on the device, where torch puts them."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.as_tensor(index).to(META) if isinstance(index, list | np.ndarray) else index


@contextmanager
def modes() -> Iterator[None]:
    """Both modes, in this thread."""
    with _Arguments(), _Operators():
        yield
