"""Presets decide how much of the method runs. Each file of this folder is one preset of its name.

A file defines `PRESET`, and `FOR_ORGAN` ({name of an organ: Preset}) if an organ needs another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hsyn_cli import plugins
from hsyn_cli.config.architecture import Level, Steps
from hsyn_cli.errors import UsageError

LEAST_SMOOTHNESS, MOST_SMOOTHNESS = 0.25, 4.0


@dataclass(frozen=True)
class RefineStage:
    """Steps on the half-way fields of a pair, with images and fields averaged down by `scale`."""

    scale: float
    steps: Steps


@dataclass(frozen=True)
class Preset:
    """The parts of the method that run. `about`: one clause for --help.

    Attributes:
        coarser_than: only the levels of SN-Net with a larger scale run; the refinement at full
            resolution replaces the finest level.
        refinement: the stages that follow SN-Net.
        finer: voxel size of the refinement relative to the working voxel, if both images are about
            as fine.
        margin: working voxels around the content of both images, in which the fields fall to zero.
        halfway_floor: least one-sided determinant of a half-way field after fold repair.
        fit: steps that fit both total fields to each other, see `fields.mutual`.
    """

    about: str = ""
    coarser_than: float = 0.0
    refinement: tuple[RefineStage, ...] = ()
    finer: float = 1.0
    margin: float = 8.0
    halfway_floor: float = 0.25
    fit: int = 5

    def depth(self, levels: Sequence[Level]) -> int:
        """Number of SN-Net's levels that run, at least one."""
        return max(1, sum(level.scale > self.coarser_than for level in levels))

    def smoother(self, factor: float) -> Preset:
        """The same preset with smoother fields, see `Steps.smoother`."""
        stages = tuple(replace(v, steps=v.steps.smoother(factor)) for v in self.refinement)
        return replace(self, refinement=stages)

    @property
    def work(self) -> float:
        """Number of refinement steps, converted to full resolution."""
        return sum(stage.steps.steps / stage.scale**3 for stage in self.refinement)


def check_smoothness(factor: float) -> None:
    """Raise UsageError for a factor that gives no useful field."""
    if not LEAST_SMOOTHNESS <= factor <= MOST_SMOOTHNESS:
        text = f"smoothness {factor:g} lies beyond {LEAST_SMOOTHNESS:g} to {MOST_SMOOTHNESS:g}"
        raise UsageError(text, "1 is the default; 2 gives a smoother field, 0.5 a rougher one")


def names() -> list[str]:
    """Names of all presets, the quickest first."""
    return sorted(plugins.names(__name__), key=lambda name: find(name).work)


def find(name: str, organ: str | None = None) -> Preset:
    """Return the preset `name` for an organ. Raises UsageError for an unknown name."""
    try:
        module = plugins.load(__name__, name)
    except KeyError:
        known = ", ".join(names())
        raise UsageError(f"unknown preset {name!r}", f"choose one of {known}") from None
    preset: Preset = getattr(module, "FOR_ORGAN", {}).get(organ, module.PRESET)
    return preset
