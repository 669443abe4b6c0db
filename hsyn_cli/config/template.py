"""How a template is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Frame = Literal["affine", "rigid"]


@dataclass(frozen=True)
class Settings:
    """How a template is made.

    Attributes:
        frame: what the passes before the first round align by.
        rounds: at most. tolerance: a change of the template below which no further round follows.
        sharpen: how much detail is added to each mean, see `averages.sharpened`; 0: none.
        spacing: voxel of the template, mm; None: the median of the scans.
        preset: of all rounds but the first. first_preset: of that.
        leave_out: go on without subjects that fail. keep_rounds: keep the fields of all rounds.
        The others are as in `register_files`.
    """

    frame: Frame = "affine"
    rounds: int = 4
    tolerance: float = 0.02
    sharpen: float = 0.25
    spacing: float | None = None
    preset: str = "default"
    first_preset: str = "fast"
    model: str = "auto"
    similarity: str = "auto"
    search: str = "near"
    smoothness: float = 1.0
    seed: int = 0
    device: str = "auto"
    leave_out: bool = False
    keep_rounds: bool = False

    def preset_of(self, number: int) -> str:
        """The preset of a round, from 1."""
        return self.first_preset if number == 1 and self.rounds > 1 else self.preset

    @property
    def within(self) -> Settings:
        """The same for the template of one subject's visits: as many rounds for each subject.

        A quick first round would not help, since the mean is sharp from the start, and what it gets
        wrong stays in the mean to which the next round registers.
        """
        first = self.preset
        return replace(
            self, frame="rigid", first_preset=first, tolerance=0.0, sharpen=0.0, spacing=None
        )

    @property
    def method(self) -> dict[str, Any]:
        """Options of every registration. A template of heads is sharp beside the brain, too."""
        names = ("model", "similarity", "search", "smoothness", "seed", "device")
        return {**{name: getattr(self, name) for name in names}, "head": "all"}

    def plain(self) -> dict[str, Any]:
        """For template.json."""
        return asdict(self)
