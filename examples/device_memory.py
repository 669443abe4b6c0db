#!/usr/bin/env python3
"""Compare the forecast of a device's memory with the tensors that a registration then holds.

    python examples/device_memory.py --preset default

It takes the example pair of brains at several voxel sizes, and the example pair of chests, and
registers them on the CPU as a GPU would do it: slab after slab, and in parts of the size for a GPU.
It prints, for each step, the bytes of all tensors at the peak, as told and as counted. What the
libraries of a GPU keep beside them cannot be counted here.
"""

from __future__ import annotations

import argparse
import math
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import click
import SimpleITK as sitk
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hsyn_cli.config import presets
from hsyn_cli.fields import folding, regularity, slabs, smoothing, ways
from hsyn_cli.method import memory, steps
from hsyn_cli.method import register as method

HERE = Path(__file__).parent
SIZES_MM = (3, 2, 1)
MEGABYTE = 1e6


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that live. `peaks`: {step: the most}."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.bytes = "", 0
        self.peaks: dict[str, int] = {}
        self._known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        self.peaks[self.step] = max(self.bytes, self.peaks.get(self.step, 0))
        return out

    def _see(self, storage: Any) -> None:
        if self._known.get(storage._cdata) is not storage:
            self._known[storage._cdata] = storage
            self.bytes += storage.nbytes()
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, count: int) -> None:
        self.bytes -= count


def compare(moving: Any, fixed: Any, **options: Any) -> tuple[dict[str, float], dict[str, int]]:
    """{step: bytes}, as told and as counted, of a registration in this process by one thread."""
    told: dict[str, float] = {}
    threads, kept = torch.get_num_threads(), method.placed

    def placed(run: Any, pair: Any, chosen: Any, aligned: Any, settings: Any, *more: Any) -> Any:
        told.update(memory.needed(pair, aligned.subjects, aligned.affine, chosen, settings))
        return kept(run, pair, chosen, aligned, settings, *more)

    live = Live()
    as_on_a_gpu = (
        (method, "placed", placed), (ways, "PART", ways.PART_ELSEWHERE), (slabs, "KEPT", 0),
        (steps, "SLAB", slabs.ON_GPU), (steps, "_content", steps._whole),
        (folding, "DETERMINANT_SLAB", slabs.ON_GPU), (smoothing, "BLOCK", 1 << 20),
        (smoothing, "LARGE", math.inf), (regularity, "LARGE", math.inf),
    )  # fmt: skip
    forget_matrices()
    try:
        with ExitStack() as stack, live:
            for owner, name, value in as_on_a_gpu:
                stack.enter_context(mock.patch.object(owner, name, value))
            method.register(
                moving, fixed, threads=1, device="cpu", **options,
                progress=lambda step, fraction: setattr(live, "step", step),
            )  # fmt: skip
    finally:
        forget_matrices()
        torch.set_num_threads(threads)
    return told, {step: live.peaks.get(step, 0) for step in told}


def forget_matrices() -> None:
    """A GPU has them in one piece, see `smoothing.banded`."""
    for cached in (smoothing._gaussian_matrix, smoothing._box_matrix):
        cached.cache_clear()


def pairs(sizes: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    """The name of each pair, and the moving and the fixed image."""
    for mm in sizes:
        both = [
            sitk.BinShrink(sitk.ReadImage(str(HERE / "brain" / f"{name}.nii.gz"), sitk.sitkFloat32),
                           [mm] * 3)
            for name in ("moving", "fixed")
        ]  # fmt: skip
        yield f"brains, {mm} mm", *both
    yield "chests", *(HERE / "lung" / f"{name}.nii.gz" for name in ("moving", "fixed"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=["default"], choices=presets.names())
    parser.add_argument("--mm", type=int, nargs="+", default=SIZES_MM)
    parser.add_argument("--steps", action="store_true", help="also print each step")
    options = parser.parse_args()
    click.echo("pair            preset      MB of tensors: told, counted")
    for preset in options.preset:
        for name, moving, fixed in pairs(options.mm):
            told, counted = compare(moving, fixed, preset=preset)
            rows = [(name, max(told.values()), max(counted.values()))]
            if options.steps:
                rows += [(f"  {step}", told[step], counted[step]) for step in told]
            for what, most, real in rows:
                ratio = most / max(real, 1)
                megabytes = f"{most / MEGABYTE:>6.0f} {real / MEGABYTE:>6.0f}"
                click.echo(f"{what:<16}{preset:<12}{megabytes}   {ratio:.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
