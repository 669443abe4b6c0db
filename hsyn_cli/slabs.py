"""Work on a volume slab after slab, so that temporaries stay small, as many slabs at once as torch has threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Bytes. Once a block of that size was freed, glibc keeps up to twice as much for the next slab instead of giving it back to
# the system: the determinants of a brain's field take 0.2 s of CPU time instead of 0.5 s. It takes no larger hint.
# The command line tells glibc so for good.
KEPT = 31 << 20
Done = Callable[[float], None]


def each_slab(
    work: Callable[[int, int], None], depth: int, deep: int, device: torch.device, done: Done | None = None
) -> None:
    """work(first, last) on the slabs of `deep` that make up `depth`; on a CPU torch's threads take one slab each.

    Threads that share every single operation wait for one another after each: on small tensors for most of the time, and far
    longer where other programs compute, too. `done` is told which share is.
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
    torch.set_num_threads(1)  # the pool's threads go by it
    try:
        with ThreadPoolExecutor(min(threads, len(slabs))) as pool:
            for (_, last), _ in zip(slabs, pool.map(work, *zip(*slabs, strict=True)), strict=True):
                if done is not None:
                    done(last / depth)
    finally:
        torch.set_num_threads(threads)
