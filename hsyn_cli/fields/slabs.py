"""Work on a volume slab by slab, one slab per thread of torch, so that temporaries stay small."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Bytes. After a block of this size was freed, glibc keeps up to twice as much for the next slab
# instead of returning it to the system. The determinants of a brain's field then take 0.2 s of CPU
# time instead of 0.5 s. glibc accepts no larger hint. The command line sets glibc up for good.
KEPT = 31 << 20
ON_GPU = 1_000_000  # voxels of one slab on a GPU; of smaller ones, their number takes the time
Done = Callable[[float], None]


def each_slab(
    work: Callable[[int, int], None],
    depth: int,
    deep: int,
    device: torch.device,
    done: Done | None = None,
) -> None:
    """Call work(first, last) on the slabs of `deep` voxels that make up `depth`.

    On a CPU, each of torch's threads takes one slab. Threads that share every single operation wait
    for one another after each: on small tensors for most of the time, and far longer if other
    programs compute as well. `done` gets the share of the work that is done.
    """
    torch.empty(KEPT, dtype=torch.uint8)
    slabs = [(z, min(z + deep, depth)) for z in range(0, depth, deep)]
    threads = torch.get_num_threads()
    if device.type != "cpu" or min(threads, len(slabs)) == 1:
        for first, last in slabs:
            work(first, last)
            if done is not None:
                done(last / depth)
        return
    torch.set_num_threads(1)  # holds for the pool's threads
    try:
        with ThreadPoolExecutor(min(threads, len(slabs))) as pool:
            for (_, last), _ in zip(slabs, pool.map(work, *zip(*slabs, strict=True)), strict=True):
                if done is not None:
                    done(last / depth)
    finally:
        torch.set_num_threads(threads)
