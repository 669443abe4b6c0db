"""The processes of one training: what torchrun starts, joins and averages."""

from __future__ import annotations

import importlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)  # NCCL's ten minutes are too short for one to prepare all the data


def rank_and_world() -> tuple[int, int]:
    """The number of this process and the number of processes; (0, 1) outside torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join(device: torch.device) -> tuple[int, int]:
    """Join the other processes of torchrun, if any; `rank_and_world` then."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # Imported later, it would keep the group in its defaults: the group's threads would then
        # outlive `leave`, and now and then abort the process at its end.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return rank_and_world()


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process: on CUDA, each has its own."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def agreed(values: list[float], device: torch.device) -> list[float]:
    """The largest of each value over all processes."""
    if not dist.is_initialized():
        return values
    shared = torch.tensor(values, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [float(v) for v in shared]
