"""What `hsyn check` tells of a pair: how it lies, what `register` will use, what it will need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsyn_cli.cohort.forecast import busy, size_of
from hsyn_cli.cohort.speed import Speed

if TYPE_CHECKING:
    from hsyn_cli.method.result import DeviceMemory


@dataclass(frozen=True)
class Placed:
    """How two images lie to one another. Shares are of the smaller of both.

    Attributes:
        overlap_views, overlap: of the fields of view, and of what the images show, as the headers
            place them.
        overlap_aligned: of what they show, after the alignment.
        size: volume of what the moving image shows, as a multiple of the fixed one's.
        scales, rotation_degrees, shift_mm: of the alignment, fixed to moving points.
        contrast: correlation of the grey values after the alignment.
        information: mutual information after the alignment.
    """

    overlap_views: float
    overlap: float
    overlap_aligned: float
    size: float
    scales: tuple[float, ...]
    rotation_degrees: float
    shift_mm: tuple[float, ...]
    contrast: float
    information: float


@dataclass(frozen=True)
class Used:
    """What `register` will use.

    Attributes:
        checkpoint: its name, or "none". why: why none is used, or "".
        similarity: "ncc", "mind" or another one.
        organ: whose rules hold.
        voxel_mm, size: of the working grid. unit: mm per mm of the method, see `anatomy.size`.
        matched: whether hsyn will try to give both images one contrast.
    """

    checkpoint: str
    why: str
    similarity: str
    organ: str
    voxel_mm: float
    size: tuple[int, ...]
    unit: float
    preset: str
    transform: str
    device: str
    threads: int
    numbers: str
    matched: bool


@dataclass(frozen=True)
class Cost:
    """What `register` will need on this machine. Megabytes are millions of bytes.

    Attributes:
        seconds: with all that runs here now. seconds_alone: if nothing else ran here.
        memory_mb: the peak. memory_free_mb: None if the system does not tell.
        disk_mb: of all outputs.
        device: what the device lacks or has, see `DeviceMemory`; None on the CPU.
    """

    seconds: float
    seconds_alone: float
    memory_mb: float
    memory_free_mb: float | None
    disk_mb: float
    device: DeviceMemory | None = None

    @property
    def fits(self) -> bool:
        """Whether the memory will do, as far as that is known."""
        return self.memory_free_mb is None or self.memory_mb <= self.memory_free_mb

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not do here."""
        from hsyn_cli.method.placing import left_lines

        lines = []
        if self.memory_free_mb is not None and not self.fits:
            lines.append(
                f"it needs {size_of(self.memory_mb)} of memory, and {size_of(self.memory_free_mb)} "
                "are free: close other programs, or resample both images to larger voxels"
            )
        if self.device is not None:
            lines += left_lines(self.device)
        if Speed(self.seconds, self.seconds_alone).busy:
            lines.append(busy(self.seconds_alone))
        return tuple(lines)
