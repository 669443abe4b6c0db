"""Where a pair runs: on its device if the memory there will do, else on the CPU. Ours.

A device that turns out to be full in the midst of a pair is left once, for the CPU. The settings
stay the same, and so does the alignment, so the result is that of a run on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch

from hsyn_cli import devices
from hsyn_cli.method import memory, turns
from hsyn_cli.method.clock import Clock
from hsyn_cli.method.result import DeviceMemory, Registration
from hsyn_cli.method.states import Aligned, Method, Pair, Settings

CPU = torch.device("cpu")
SHORT, FULL = "has too little free memory", "ran out of memory"

Run = Callable[[Method, Settings], Registration]
Tell = Callable[[str], None]


def placed(
    run: Run, pair: Pair, method: Method, aligned: Aligned, settings: Settings, clock: Clock,
    tell: Tell,
) -> Registration:  # fmt: skip
    """Run what follows the alignment on the device of the settings, or else on the CPU.

    `tell` gets a line before the device is used, and one when it is left. Raises what `run` raises.
    """
    device = settings.device
    if device == CPU:
        plain = run(method, settings)
        return replace(plain, facts=replace(plain.facts, seconds=clock.seconds))
    name = devices.device_name(device)
    result: Registration | None = None
    peak, left = None, SHORT
    with contextlib.ExitStack() as stack:
        with clock.step("device memory"):
            steps = memory.needed(pair, aligned.subjects, aligned.affine, method, settings)
            needed = memory.peak_mb(steps)
            turn = turns.turn(turns.folder_of(device), needed, lambda: free_mb(device))
            free = stack.enter_context(turn)
        tell(need_line(name, needed, free))
        if fits(needed, free):
            result, peak = _on_device(run, method, settings)
            left = "" if result else FULL
    notes: tuple[str, ...] = ()
    if result is None:
        notes = (left_line(name, left, needed, free),)
        tell(notes[0])
        result = run(method, replace(settings, device=CPU))
    found = DeviceMemory(name, needed, free, peak, left)
    facts = result.facts
    where = facts.device if not left else device_words(name, left)
    warnings = (*facts.warnings, *notes)
    return replace(result, facts=replace(
        facts, seconds=clock.seconds, device=where, device_memory=found, warnings=warnings
    ))  # fmt: skip


def _on_device(
    run: Run, method: Method, settings: Settings
) -> tuple[Registration | None, float | None]:
    """The result, None if the device ran out of memory; and the peak of the memory there, MB."""
    device, result = settings.device, None
    devices.release_device(device)
    try:
        result = run(method.on(device), settings)
    except RuntimeError as error:
        if not devices.out_of_device_memory(error):
            raise
    peak = devices.device_peak_mb(device)
    devices.release_device(device)  # now that the error holds no tensors any more
    return result, peak


def free_mb(device: torch.device) -> float | None:
    """The memory that is free on a device; None: not known, or the CPU."""
    found = devices.device_memory_mb(device)
    return None if found is None else found[0]


def fits(needed: float, free: float | None) -> bool:
    """Whether a pair may go to a device, as far as that is known."""
    return free is None or needed <= free


def device_words(name: str, left: str) -> str:
    """The device in the report of a run that left it."""
    return f"cpu, since {name} {left}"


def need_line(name: str, needed: float, free: float | None) -> str:
    """What a pair needs on a device, before it starts."""
    there = "how much is free is not known" if free is None else f"{gigabytes(free)} are free"
    return f"{name}: the pair needs about {gigabytes(needed)} of its memory, and {there}"


def left_line(name: str, left: str, needed: float, free: float | None) -> str:
    """Why a pair runs on the CPU."""
    if left == FULL:
        return f"{name} {left}: the pair runs on the CPU from the alignment on, which is kept"
    there = "" if free is None else f", and {gigabytes(free)} are free"
    return f"{name} {left} (the pair needs about {gigabytes(needed)}{there}): it runs on the CPU"


def gigabytes(mb: float) -> str:
    return f"{mb / 1000:.1f} GB"
