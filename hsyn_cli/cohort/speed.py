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

    So many runs with so many threads go on at once, as they will.
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

    before, count = torch.get_num_threads(), max(1, min(workers, available_cores()))
    torch.set_num_threads(threads)
    rounds: list[float] = []
    at_work: list[float] = []
    ended = time.perf_counter() + TEST_MOST_SECONDS
    try:
        with ThreadPoolExecutor(count) as pool:
            while len(rounds) < TEST_RUNS and (not rounds or time.perf_counter() < ended):
                begun = time.process_time()
                rounds.append(sum(pool.map(run, range(count))) / count)
                at_work.append(time.process_time() - begun)
    finally:
        torch.set_num_threads(before)
    own_cores = min(count * threads, available_cores())
    now = statistics.median(rounds)
    alone = min(now, min(at_work) / own_cores)
    return Speed(now / TEST_SECONDS, alone / TEST_SECONDS)
