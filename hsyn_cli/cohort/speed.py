"""How fast this machine is, by a self-test: some steps of the refinement on a small grid."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hsyn_cli.config import presets
from hsyn_cli.devices import available_cores

TEST_SIZE = (48, 56, 48)  # voxels of the self-test, z, y, x
TEST_SECONDS = 0.17  # where the factors were measured
TEST_RUNS, TEST_MOST_SECONDS = 3, 0.7
BUSY = 1.4  # times as slow as alone; threads that wait for one another cost less


@dataclass(frozen=True)
class Speed:
    """How slow this machine is beside the one where the factors of `costs` were measured.

    Attributes:
        now: seconds here for each second there, with all that runs here now.
        alone: the same if nothing else ran here: by the CPU time of the self-test.
    """

    now: float
    alone: float

    @property
    def busy(self) -> bool:
        """Whether other programs take a good part of the cores."""
        return self.now > BUSY * self.alone


def measure(workers: int, threads: int) -> Speed:
    """The speed of this machine, by a self-test of less than a second on a usual CPU.

    As many runs of one thread go on at once as `workers` and `threads` will take cores. How much
    longer they take than their CPU time tells what other programs take; runs of several threads
    would wait for one another, too.
    """
    import torch

    from hsyn_cli.fields.smoothing import gaussian, separable
    from hsyn_cli.method.refine import refine

    stages = presets.find("default").refinement
    noise = torch.rand(2, 1, *TEST_SIZE, generator=torch.Generator().manual_seed(0))
    pair = separable(noise, gaussian(noise, TEST_SIZE, 3.0))
    pair = (pair - pair.min()) / (pair.max() - pair.min())
    start = torch.zeros(2, 3, *(n // 2 for n in TEST_SIZE))

    def run(_: int) -> float:
        begun = time.perf_counter()
        with torch.no_grad():
            refine(start.clone(), pair, 1.0, stages)
        return time.perf_counter() - begun

    count = max(1, min(workers, available_cores()))
    own_cores = min(count * threads, available_cores())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rounds: list[float] = []
    at_work: list[float] = []
    ended = time.perf_counter() + TEST_MOST_SECONDS
    try:
        with ThreadPoolExecutor(own_cores) as pool:
            while len(rounds) < TEST_RUNS and (not rounds or time.perf_counter() < ended):
                begun = time.process_time()
                rounds.append(sum(pool.map(run, range(own_cores))) / own_cores)
                at_work.append((time.process_time() - begun) / own_cores)
    finally:
        torch.set_num_threads(before)
    alone = min(at_work) * count / own_cores
    waits = max(1.0, statistics.median(w / cpu for w, cpu in zip(rounds, at_work, strict=True)))
    return Speed(alone * waits / TEST_SECONDS, alone / TEST_SECONDS)
