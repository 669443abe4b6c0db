"""SN-Net's coarse levels, then a few refinement steps at full resolution."""

from hsyn_cli.config.architecture import Steps
from hsyn_cli.config.presets import Preset, RefineStage

ABOUT = "also refines the pair's own fields"
STEPS = Steps(
    5, rate=2.4, momentum=0.5, step_sigma=1.5, field_sigma=0.7, calm=0.2, diffusion=0.3, tissue=16.0
)
PRESET = Preset(ABOUT, coarser_than=1, refinement=(RefineStage(1, STEPS),))

COARSE = RefineStage(4 / 3, Steps(12, step_sigma=2.0, tissue=4.0))
FINE = RefineStage(1, Steps(8, step_sigma=2.0, tissue=4.0))
FOR_ORGAN = {"lung": Preset(ABOUT, coarser_than=1, refinement=(COARSE, FINE), finer=0.75)}
