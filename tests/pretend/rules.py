"""Which tensors of two devices an operator of torch takes on CUDA, and where the host waits for it.

The rules are those of torch's own table of operators (native_functions.yaml, in every wheel): one
whose `device_check` is not NoCheck refuses all mixtures. The others check for themselves; what they
let pass is written here, from TensorIterator, TensorCompare and TensorAdvancedIndexing in torch's
source. Where versions differ, the stricter one holds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchgen
from torch import Tensor

from pretend.record import RECORD

TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"

COPIES = {"copy_", "copy", "_to_copy", "_foreach_copy_", "fill_"}  # between any two devices
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# Pointwise, but not every version of torch takes a number of the CPU here.
NO_NUMBERS = {"clamp", "clamp_", "addcmul", "addcmul_", "addcdiv", "addcdiv_", "lerp", "lerp_"}
# The host must know the result, or the size of it.
WAITS = {
    "_local_scalar_dense": "item",
    "equal": "equal",
    "nonzero": "nonzero",
    "masked_select": "nonzero",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
    "_linalg_check_errors": "linalg",
}
MASKS = (torch.bool, torch.uint8)

Slot = tuple[str, Tensor]  # the name of an argument, and a tensor in it


def check(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], there: Callable[[Tensor], bool]
) -> None:
    """Raise MixUp if CUDA would refuse tensors of both devices. `there`: whether one is on it."""
    slots = list(_slots(func, args, kwargs))
    name = func._schema.name.removeprefix("aten::")
    if name in COPIES:
        return
    if name.startswith("_foreach_"):
        refused = _foreach_refuses(func, args, there)
    elif name in INDEXED:
        refused = _index_refuses(slots, there)
    elif name == "where":
        refused = any(not there(v) and v.dim() for _, v in slots)
    elif name in ("masked_fill", "masked_fill_"):
        refused = any(not there(v) and (slot != "value" or v.dim()) for slot, v in slots)
    else:
        numbers = 1 if func.name() in _iterators() and name not in NO_NUMBERS else 0
        written = {a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write}
        here = [(slot, v) for slot, v in slots if not there(v)]
        refused = len(here) > numbers or any(v.dim() or slot in written for slot, v in here)
    if refused:
        found = ", ".join(
            f"{slot} {tuple(v.shape)} on {'cuda:0' if there(v) else 'cpu'}" for slot, v in slots
        )
        raise RECORD.refuse(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func}: {found})"
        )


def _slots(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Slot]:
    names = [a.name for a in func._schema.arguments]
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        for v in value if isinstance(value, list | tuple) else (value,):
            if isinstance(v, Tensor):
                yield name, v


def _index_refuses(slots: Sequence[Slot], there: Callable[[Tensor], bool]) -> bool:
    """An index may lie on the CPU, and a value without axes anywhere."""
    on_device = there(slots[0][1])
    for name, v in slots[1:]:
        free = on_device if name == "indices" else name == "values" and not v.dim()
        if there(v) != on_device and not free:
            return True
    return False


def _foreach_refuses(func: Any, args: Sequence[Any], there: Callable[[Tensor], bool]) -> bool:
    """Lists must agree item by item; a number beside them may lie anywhere."""
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
    return any(len({there(v) for v in item}) > 1 for item in zip(*lists, strict=True))


@functools.cache
def _iterators() -> frozenset[str]:
    """The operators that leave their check to TensorIterator, as aten::name.overload."""
    found, name = [], ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"- func: ([^(]+)\(", line):
            name = match[1]
        elif re.match(r"  device_check: NoCheck\s+# TensorIterator", line):
            found.append(f"aten::{name}")
    return frozenset(found)


def wait_of(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], there: Callable[[Tensor], bool]
) -> str | None:
    """How the host waits for the device in a call with tensors of it, if it does."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("copy_", "_to_copy"):
        return _of_copy(name, args, kwargs, there)
    if name in INDEXED:
        masks = [v for v in args[1] if v is not None and v.dtype in MASKS]
        number = len(args) > 2 and not args[2].dim() and len(masks) == 1  # becomes a masked_fill
        return "nonzero" if masks and not number else None
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave"
    if name in ("masked_fill", "masked_fill_", "fill_"):
        return "item" if isinstance(args[-1], Tensor) and there(args[-1]) else None
    return WAITS.get(name)


def _of_copy(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], there: Callable[[Tensor], bool]
) -> str | None:
    """torch waits for a copy between devices, in either direction, unless told not to."""
    if kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]):
        return None
    if name == "copy_":
        to, source = there(args[0]), there(args[1])
    else:
        source, device = there(args[0]), kwargs.get("device")
        to = source if device is None else device.type == "meta"
    return None if to == source else "upload" if to else "download"
