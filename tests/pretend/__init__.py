"""A CUDA device that is not there: real tensors on the CPU, marked as tensors of `cuda:0`.

Inside `pretending()`, code runs as on a machine with one GPU. Its results are those of a CPU, and
what a GPU would refuse raises `MixUp`: operators on tensors of both devices (see `rules`),
generators of the wrong device, numpy on a tensor of the device. `Record` also tells where the host
waits for the device. tests/test_pretend.py shows what is allowed, tests/on_device what runs on it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.optim import optimizer
from torch.utils import _foreach_utils

from pretend import cuda
from pretend.record import RECORD, MixUp, Record
from pretend.tensors import Marked, modes

__all__ = ["MixUp", "Record", "pretending"]

HALF = (8, 0)  # the compute capability from which hsyn's convolutions are in bfloat16


@contextmanager
def pretending(capability: tuple[int, int] = (7, 5)) -> Iterator[Record]:
    """Run what asks for "cuda" on the pretend device."""
    run, generator = threading.Thread.run, torch.Generator

    def run_with_modes(thread: threading.Thread) -> None:  # modes belong to a thread
        with modes():
            run(thread)

    with ExitStack() as stack:

        def put(owner: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        RECORD.begin()
        stack.callback(_forget_caches)
        _forget_caches()
        for name, answer in cuda.answers(capability).items():
            for owner in (torch.cuda, torch.cuda.memory):
                if hasattr(owner, name):
                    put(owner, name, answer)
        put(torch, "autocast", cuda.Autocast)
        for module in (torch, *_modules()):
            if getattr(module, "Generator", None) is generator:
                put(module, "Generator", cuda.Generator)
        for module in (_foreach_utils, optimizer):  # as for a plain tensor on CUDA
            put(module, "_foreach_supported_types", [*module._foreach_supported_types, Marked])
        put(threading.Thread, "run", run_with_modes)
        stack.enter_context(modes())
        yield RECORD


def _modules() -> list[object]:
    return [module for name, module in sys.modules.items() if name.startswith("hsyn_cli")]


def _forget_caches() -> None:
    """What functions of hsyn keep for a device must not outlast a pretend one."""
    for module in _modules():
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
