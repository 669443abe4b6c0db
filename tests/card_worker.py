"""A worker whose device is a card made of the CPU's memory, with room for one pair at a time.

It appends "begun" and "ended" to the study's device.txt around the work on the card. Whoever finds
no file `full` there makes it, and runs out of the card's memory once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from hsyn_cli import devices
from hsyn_cli.cohort import worker
from hsyn_cli.method import inference, placing, prepare, turns

ROOM_MB = 500.0  # two pairs of 270 MB do not fit
CARD = torch.device("cpu", 0)
place = Path(sys.argv[1])


def note(word: str) -> None:
    with (place / "device.txt").open("a", encoding="ascii") as stream:
        stream.write(f"{word}\n")


def on_device(*given: Any) -> Any:
    note("begun")
    try:
        return original(*given)
    finally:
        note("ended")


def repair(*given: Any) -> Any:
    try:
        (place / "full").touch(exist_ok=False)
    except FileExistsError:
        return mend(*given)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


original, mend = placing._on_device, inference.repair
placing._on_device, inference.repair = on_device, repair
prepare.choose_device = lambda name: CARD
devices.device_memory_mb = lambda device: (ROOM_MB, ROOM_MB)
devices.device_name = lambda device: "card"
turns.folder_of = lambda device: place / "turns"
worker.main()
