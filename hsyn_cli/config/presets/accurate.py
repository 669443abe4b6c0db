"""Like `default`, with more steps at full resolution."""

from dataclasses import replace

from hsyn_cli.config.presets import Preset, RefineStage, default

ABOUT = "refines longer"
PRESET = Preset(
    ABOUT,
    coarser_than=1,
    refinement=(RefineStage(1, replace(default.STEPS, steps=10)),),
)
FINE = RefineStage(1, replace(default.FINE.steps, steps=40))
FOR_ORGAN = {
    "lung": Preset(ABOUT, coarser_than=1, refinement=(default.COARSE, FINE), finer=0.75),
}
