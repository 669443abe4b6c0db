"""What gpu_day.py measures: parity, seconds and memory by part, host waits, kernels, scores."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hsyn_cli.devices import convolution_type, forget_peak_memory, peak_memory_mb, wait_for
from hsyn_cli.errors import UsageError
from hsyn_cli.fields.totals import Totals
from hsyn_cli.method.carried import Carried, dices, load_pair, register_carried
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.unet import UNet, use_precision
from hsyn_cli.method.working import Method
from hsyn_cli.training import loop
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.session import Session

NO_CUDA = "not measured: no CUDA device"
TOP = 10  # kernels that are told
CPU = torch.device("cpu")
# Of the convolutions; whether products of matrices, and convolutions, may use TF32.
PRECISIONS = {
    "float32": (torch.float32, False, False),
    "float32 with TF32": (torch.float32, True, True),
    "as hsyn runs": (None, False, True),
}
IN_FIELDS = ("half-way fields", "refinement")  # parts in which what is no network is forces


class Timer:
    """Seconds by part; those of the U-Nets in it are counted apart."""

    def __init__(self, device: torch.device, *nets: nn.Module) -> None:
        self.device, self.within = device, ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.of_nets: dict[str, float] = defaultdict(float)
        unets = [m for net in nets for m in net.modules() if isinstance(m, UNet)]
        self.hooks = [net.register_forward_pre_hook(self._begin) for net in unets]
        self.hooks += [net.register_forward_hook(self._end) for net in unets]

    def _begin(self, *details: Any) -> None:
        wait_for(self.device)
        self.begun = time.perf_counter()

    def _end(self, *details: Any) -> None:
        wait_for(self.device)
        self.of_nets[self.within] += time.perf_counter() - self.begun

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part."""
        wait_for(self.device)
        self.within, begun = name, time.perf_counter()
        yield
        wait_for(self.device)
        self.seconds[name] += time.perf_counter() - begun

    def told(self) -> dict[str, float]:
        """{part: seconds}; networks and forces are told apart from the others."""
        for hook in self.hooks:
            hook.remove()
        own = {name: s - self.of_nets[name] for name, s in self.seconds.items()}
        forces = sum(own.pop(name, 0.0) for name in IN_FIELDS)
        return {"networks": sum(self.of_nets.values()), "forces": forces, **own}


class Meter:
    """Peak memory by part in MB: of the device's tensors, or of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure one part."""
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_peak_memory()
        yield
        peak = torch.cuda.max_memory_allocated(self.device) / 1e6 if on_cuda else peak_memory_mb()
        self.peaks[name] = peak or 0.0


def host_waits(device: torch.device, work: Callable[[], object]) -> dict[str, Any] | str:
    """How often the host waits for the device in `work`, and in which lines most often."""
    if device.type != "cuda":
        return NO_CUDA
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchronizing" in str(w.message)]
    places = Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in found)
    return {"count": len(found), "places": dict(places.most_common(TOP))}


def kernels(device: torch.device, work: Callable[[], object]) -> dict[str, Any]:
    """The share of time per kernel (per operator on a CPU), the longest first.

    `launches`: how many there were. `busy`: the share of the seconds in which the device worked,
    without the profiler, which slows the host.
    """
    on_cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    begun = time.perf_counter()
    work()
    wait_for(device)
    seconds = time.perf_counter() - begun
    with profile(activities=kinds, acc_events=True) as found:
        work()
        wait_for(device)
    spent: dict[str, float] = defaultdict(float)
    launches = 0
    for event in found.key_averages():
        if on_cuda and event.device_type != DeviceType.CUDA:
            continue  # the operators that launched the kernels
        spent[event.key] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
        launches += event.count
    if not launches:
        raise RuntimeError("the profiler saw no kernel")
    whole = sum(spent.values()) or 1.0
    longest = sorted(spent, key=spent.__getitem__, reverse=True)[:TOP]
    shares = {name: spent[name] / whole for name in longest}
    return {"shares": shares, "launches": launches, "busy": whole / 1e6 / seconds}


def looked_at(device: torch.device, work: Callable[[], object]) -> dict[str, Any]:
    """Host waits and kernels of `work`; a profiler that fails costs no other figure."""
    waits = {"host_waits": host_waits(device, work)}
    try:
        return waits | kernels(device, work)
    except (RuntimeError, ValueError) as error:
        return waits | {"no_kernels": f"not measured: {error}"}


def method_for(pair: Carried, model: str, preset: str, device: torch.device) -> Method:
    """The networks of a checkpoint for the grid of a pair, whatever grid they learned on."""
    networks = load_networks(model, device)
    sn = networks.sn
    multiple = math.lcm(sn.config.multiple, 2 * networks.di.config.stride)
    if any(n % multiple for n in pair.scene.grid.size):
        hint = "pack with a checkpoint of that kind"
        raise UsageError(f"{model} needs sizes that divide by {multiple}", hint)
    sn.config = replace(sn.config, spacing=pair.scene.spacing)
    return Method.of(networks, preset)


@contextmanager
def tf32(products: bool, convolutions: bool) -> Iterator[None]:
    """Allow TF32, or not, meanwhile."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    for kind, allowed in zip(kinds, (products, convolutions), strict=True):
        kind.allow_tf32 = allowed
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def mean_dice(pair: Carried, totals: Totals) -> float:
    """The mean over the ids that count; NaN without any."""
    values = dices(pair, totals).values()
    return statistics.fmean(values) if values else math.nan


def parity(path: Path, preset: str, model: str, device: torch.device) -> dict[str, Any]:
    """The device against the CPU in float32: Dice, and the distance of the forward fields."""
    pair = load_pair(path, CPU)
    method = method_for(pair, model, preset, CPU)
    for net in (method.networks.sn, method.networks.di):
        use_precision(net, torch.float32)
    reference, _ = register_carried(pair, method)
    dice, inside = mean_dice(pair, reference), torch.from_numpy(pair.contents[0])
    out: dict[str, Any] = {"dice": dice}
    pair = load_pair(path, device)
    for name, (kind, *allowed) in PRECISIONS.items():
        if any(allowed) and kind is not None and device.type != "cuda":
            out[name] = NO_CUDA
            continue
        method = method_for(pair, model, preset, device)
        for net in (method.networks.sn, method.networks.di):
            use_precision(net, kind or convolution_type(device))
        with tf32(*allowed):
            totals, _ = register_carried(pair, method)
        apart = (totals.forward.cpu() - reference.forward)[0].norm(dim=0)[inside]
        far = {"mean_mm": float(apart.mean()), "max_mm": float(apart.max())}
        out[name] = {"dice_change": mean_dice(pair, totals) - dice, **far}
    out["as hsyn runs"]["precision"] = str(convolution_type(device)).removeprefix("torch.")
    return out


def timings(
    path: Path, preset: str, model: str, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Seconds from working-grid tensors to total fields, whole and by part; medians."""
    pair = load_pair(path, device)
    method = method_for(pair, model, preset, device)
    register_carried(pair, method)
    whole = seconds_of(pair, method, device, repeats)
    parts = []
    for _ in range(repeats):
        timer = Timer(device, method.networks.sn, method.networks.di)
        register_carried(pair, method, timer.part)
        parts.append(timer.told())
    median = {name: statistics.median(p[name] for p in parts) for name in parts[0]}
    found = {"whole": statistics.median(whole), "spread": [min(whole), max(whole)], "parts": median}
    found |= {"size": pair.scene.grid.size, "cudnn_benchmark": NO_CUDA}
    if device.type == "cuda":
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            register_carried(pair, method)
            tuned = statistics.median(seconds_of(pair, method, device, repeats))
        found["cudnn_benchmark"] = f"{tuned:.3f} s"
    return found | looked_at(device, lambda: register_carried(pair, method))


def seconds_of(pair: Carried, method: Method, device: torch.device, repeats: int) -> list[float]:
    """Of each of several whole runs."""
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        begun = time.perf_counter()
        register_carried(pair, method)
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


def memory(path: Path, preset: str, model: str, device: torch.device) -> dict[str, float]:
    """Peak MB by part, of all that lies on the device then."""
    pair, meter = load_pair(path, device), Meter(device)
    with meter.part("networks and images"):
        method = method_for(pair, model, preset, device)
    register_carried(pair, method, meter.part)
    return meter.peaks


def pace(session: Session) -> dict[str, Any]:
    """Of each phase of a training: steps per second, host waits a step, time per kernel."""
    out = {}
    device, batch = session.device, session.training.batch
    for phase in training_phases.phases(session.training, session.networks, session.source):
        seconds = loop.seconds_per_step(phase, session.networks, batch, device)

        def step(phase: training_phases.Phase = phase) -> None:
            loop.step(phase, None, 1, batch)

        out[phase.name] = {"steps_per_second": 1 / seconds, **looked_at(device, step)}
    return {"precision": session.training.precision, "phases": out}


def evaluate(path: Path, preset: str, model: str, device: torch.device) -> dict[str, float]:
    """Dice, folded voxels and round trips of a pair."""
    pair = load_pair(path, device)
    totals, settled = register_carried(pair, method_for(pair, model, preset, device))
    worst = {"round_trip_max_mm": max(error.max_mm for error in settled.errors)}
    mean = statistics.fmean(error.mean_mm for error in settled.errors)
    folded = sum(found.voxels for found in settled.folding)
    corner = sum(found.corner_voxels for found in settled.folding)
    return {
        "dice": mean_dice(pair, totals), "folded": folded, "folded_corner": corner,
        "round_trip_mean_mm": mean, **worst,
    }  # fmt: skip
