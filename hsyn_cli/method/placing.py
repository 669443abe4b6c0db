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
from hsyn_cli.method.states import Aligned, Pair, Settings
from hsyn_cli.method.working import Method

CPU = torch.device("cpu")
SHORT, FULL = "has too little free memory", "ran out of memory"  # see `DeviceMemory.left`
NOT_KNOWN = "how much is free is not known"

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
    result: Registration | None = None
    with contextlib.ExitStack() as stack:
        with clock.step("device memory"):
            steps = memory.needed(pair, aligned.subjects, aligned.affine, method, settings)
            needed = memory.peak_mb(steps)
            free = free_mb(device)
            if not never_fits(device, needed):
                turn = turns.turn(turns.folder_of(device), needed, lambda: free_mb(device))
                free = stack.enter_context(turn)
            found = foreseen(device, needed, free)
        tell(need_line(found))
        if not found.left:
            clock.device = device
            result, peak = _on_device(run, method, settings)
            clock.device = None
            found = replace(found, peak_mb=peak, left="" if result else FULL)
    notes = left_lines(found)
    for line in notes:
        tell(line)
    if result is None:
        result = run(method, replace(settings, device=CPU))
    facts = replace(
        result.facts, seconds=clock.seconds, device=device_words(found), device_memory=found,
        warnings=(*result.facts.warnings, *notes),
    )  # fmt: skip
    return replace(result, facts=facts)


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


def foreseen(device: torch.device, needed: float, free: float | None) -> DeviceMemory:
    """What is known of a device before a pair that needs so many MB runs there."""
    short = free is not None and free < needed
    return DeviceMemory(devices.device_name(device), needed, free, None, SHORT if short else "")


def free_mb(device: torch.device) -> float | None:
    """The memory that is free on a device; None: not known, or the CPU."""
    found = devices.device_memory_mb(device)
    return None if found is None else found[0]


def never_fits(device: torch.device, needed: float) -> bool:
    """Whether a pair would find too little memory on a device that nobody else uses."""
    found = devices.device_memory_mb(device)
    return found is not None and found[1] < needed


def device_words(found: DeviceMemory) -> str:
    """The device in the report of a run."""
    return f"cpu, since {found.device} {found.left}" if found.left else found.device


def need_line(found: DeviceMemory) -> str:
    """What a pair needs on a device, before it starts."""
    there = f"{gigabytes(found.free_mb)} are free" if found.free_mb is not None else NOT_KNOWN
    return f"{found.device}: the pair needs about {gigabytes(found.needed_mb)}, and {there}"


def left_lines(found: DeviceMemory) -> tuple[str, ...]:
    """Why a pair runs on the CPU; nothing if it does not."""
    if found.left == FULL:
        return (f"{found.device} {FULL}: the pair goes on with the CPU, after the alignment",)
    return (f"{found.device} {SHORT}: the pair runs on the CPU",) if found.left else ()


def gigabytes(mb: float) -> str:
    return f"{mb / 1000:.1f} GB"
