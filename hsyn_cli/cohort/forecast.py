"""What a cohort will cost here: memory, time and disk, before it starts (`--dry-run`)."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.cohort import costs, speed
from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.costs import Content
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.kinds import Kind, content_of, kinds_of, look_into
from hsyn_cli.cohort.resume import decide
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.speed import Speed
from hsyn_cli.cohort.tasks import wanted_of
from hsyn_cli.devices import available_cores, free_memory_mb
from hsyn_cli.io.plain import finite
from hsyn_cli.io.staging import nearest

if TYPE_CHECKING:
    from rich.console import RenderableType


MOST_TOLD = 10  # pairs that cannot be read
PAIR_FILES = 50_000  # bytes: report, status, thumbnail


@dataclass(frozen=True)
class Forecast:
    """The costs of a cohort on this machine. Megabytes are millions of bytes.

    Attributes:
        pairs: those left to run.
        kinds: how many kinds of pairs there are, by sizes, voxels and options.
        looked: how many pairs were read to find out what they hold; the others follow these.
        slowness: seconds here per second where the costs were measured, with all that runs here.
        slowness_alone: the same if nothing else ran here.
        seconds_pair: of the usual pair (mean). seconds_all: until the last one is done.
        memory_pair_mb: peak of the largest pair. memory_all_mb: with all workers.
        memory_free_mb, disk_free_mb: what there is now; None: the system does not tell.
        problems: pairs that cannot be read, one line each.
        done: pairs that an earlier run has done; none of the costs are theirs.
        device: where pairs run if that is not the CPU. device_pair_mb: what the largest one needs
            of its memory. device_free_mb: None: not known.
    """

    pairs: int
    kinds: int
    looked: int
    workers: int
    threads: int
    slowness: float
    seconds_pair: float
    seconds_all: float
    memory_pair_mb: float
    memory_all_mb: float
    memory_free_mb: float | None
    disk_pair_mb: float
    disk_all_mb: float
    disk_free_mb: float | None
    study: str
    problems: tuple[str, ...] = ()
    done: int = 0
    slowness_alone: float = 1.0
    device: str = ""
    device_pair_mb: float = 0.0
    device_free_mb: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not do here."""
        lines = []
        free = self.memory_free_mb
        if free is not None and self.memory_all_mb > free:
            fit = int(free // self.memory_pair_mb)
            hint = f"give --jobs {fit}" if fit else "a pair alone is too large for it"
            lines.append(
                f"{self.workers} workers need {size_of(self.memory_all_mb)} of memory, and "
                f"{size_of(free)} are free: {hint}"
            )
        if self.disk_free_mb is not None and self.disk_all_mb > self.disk_free_mb:
            lines.append(
                f"the outputs need {size_of(self.disk_all_mb)}, and {size_of(self.disk_free_mb)} "
                f"are free in {self.study}: see --keep and --field-spacing"
            )
        if self.device_free_mb is not None and self.device_pair_mb > self.device_free_mb:
            lines.append(
                f"{self.device} has {size_of(self.device_free_mb)} of free memory: pairs that need "
                "more will run on the CPU"
            )
        cores = available_cores()
        if self.workers * self.threads > cores:
            lines.append(
                f"{self.workers} workers of {self.threads} threads want more than the {cores} "
                "cores that there are"
            )
        if Speed(self.slowness, self.slowness_alone).busy:
            lines.append(busy(self.seconds_all * self.slowness_alone / self.slowness))
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data."""
        plain: dict[str, Any] = finite(dataclasses.asdict(self))
        return {**plain, "warnings": list(self.warnings)}

    def table(self) -> RenderableType:
        """A few lines for a terminal of 80 columns."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        if self.done:
            what = f"{self.done} of {self.pairs + self.done} pairs already; they are left out here"
            table.add_row("done", Text(what))
        if self.done and not self.pairs:
            return table
        kinds = "all alike" if self.kinds == 1 else f"of {self.kinds} kinds"
        table.add_row("pairs", Text(f"{self.pairs}, {kinds}; {self.looked} read for this forecast"))
        pair = (
            f"{time_of(self.seconds_pair)}, {size_of(self.memory_pair_mb)} of memory at most, "
            f"{size_of(self.disk_pair_mb)} on disk"
        )
        table.add_row("one pair", Text(pair))
        many = "" if self.workers == 1 else "s"
        of = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        table.add_row(
            "all pairs",
            Text(
                f"{time_of(self.seconds_all)} with {self.workers} worker{many} of {of}, on the CPU"
            ),
        )
        for name, need, free in (
            ("memory", self.memory_all_mb, self.memory_free_mb),
            ("disk", self.disk_all_mb, self.disk_free_mb),
        ):
            there = "" if free is None else f"; {size_of(free)} are free"
            table.add_row(name, Text(f"{size_of(need)}{there}"))
        if self.device:
            free = self.device_free_mb
            there = "" if free is None else f"; {size_of(free)} are free"
            most = f"{size_of(self.device_pair_mb)} of {self.device} for the largest pair"
            table.add_row("device", Text(f"{most}{there}"))
        for line in (*self.warnings, *self.problems):
            table.add_row(Text("warning", "yellow"), Text(line, "yellow"))
        return table


def forecast(jobs: Sequence[Job], study: Path, *, workers: int, threads: int) -> Forecast:
    """Forecast the costs of jobs on the CPU of this machine, those left out that are done.

    It does not check whether inputs or options of these have changed since. It reads all headers,
    the images of pairs of a few kinds, and runs a self-test of a second. `threads`: of
    each pair.
    """
    left = [job for job in jobs if not _done(job, study)]
    kinds, problems = kinds_of(left)
    known = look_into(kinds, problems)
    rows = [(content_of(key, kind, known), kind) for key, kind in kinds.items()] if known else []
    fast = speed.measure(workers, threads) if rows else Speed(1.0, 1.0)
    slow = fast.now
    count = sum(len(kind.jobs) for _, kind in rows)
    seconds = slow * sum(content.seconds * len(kind.jobs) for content, kind in rows)
    peak = max((content.memory for content, _ in rows), default=0.0)
    peak += costs.SEVERAL_THREADS * (threads > 1)
    disk = sum(_disk(content, kind) * len(kind.jobs) for content, kind in rows)
    used = max(1, min(workers, count))
    longest = slow * max((content.seconds for content, _ in rows), default=0.0)
    return Forecast(
        pairs=len(left),
        kinds=len(kinds),
        looked=len(known),
        workers=workers,
        threads=threads,
        slowness=slow,
        slowness_alone=fast.alone,
        seconds_pair=seconds / max(count, 1),
        seconds_all=max(seconds / used, longest) + slow * costs.START,
        memory_pair_mb=peak / 1e6,
        memory_all_mb=used * peak / 1e6,
        memory_free_mb=free_memory_mb(),
        disk_pair_mb=disk / max(count, 1) / 1e6,
        disk_all_mb=disk / 1e6,
        disk_free_mb=_free_disk_mb(study),
        study=str(study),
        problems=tuple(_few(problems)),
        done=len(jobs) - len(left),
        **_of_device(rows),
    )


def _of_device(rows: Sequence[tuple[Content, Kind]]) -> dict[str, Any]:
    """What is told of the device that most pairs run on, if that is not the CPU."""
    from hsyn_cli import devices
    from hsyn_cli.method import memory, placing

    device = costs.device_of(rows[0][1].jobs[0].options) if rows else None
    if device is None:
        return {}
    most = max(content.on_device for content, _ in rows)
    return {
        "device": devices.device_name(device),
        "device_pair_mb": memory.peak_mb({"": most}),
        "device_free_mb": placing.free_mb(device),
    }


def _done(job: Job, study: Path) -> bool:
    """Whether a pair is done, with all its files there. Its key would take long to compute."""
    status = statuses.read(job.status(study))
    return status is not None and decide(job, status.key, status, study, Limits()).what == "done"


def _disk(content: Content, kind: Kind) -> float:
    """Bytes of the outputs of one pair."""
    job = kind.jobs[0]
    wanted, _ = wanted_of(Path(), job.inputs, job.options, job.names)
    return content.disk(wanted, kind.voxels) + PAIR_FILES


def _free_disk_mb(folder: Path) -> float | None:
    try:
        return shutil.disk_usage(nearest(folder.absolute())).free / 1e6
    except OSError:
        return None


def _few(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - MOST_TOLD
    return [*lines[:MOST_TOLD], *([f"and {rest} more pairs"] if rest > 0 else [])]


def busy(seconds: float) -> str:
    """A warning that the self-test had to share the cores. `seconds`: if it had them alone."""
    return f"other programs use the cores now; with all cores free it takes {time_of(seconds)}"


def size_of(mb: float) -> str:
    """Two digits or more, in MB, GB or TB."""
    for unit, scale in (("TB", 1e6), ("GB", 1e3)):
        if mb >= 0.95 * scale:
            return f"{mb / scale:.{1 if mb < 9.95 * scale else 0}f} {unit}"
    return f"{mb:.2g} MB" if mb < 10 else f"{mb:.0f} MB"


def time_of(seconds: float) -> str:
    """Rounded as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
