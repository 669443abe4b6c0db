"""Only the networks and the exact inverse."""

from hsyn_cli.config.presets import Preset

PRESET = Preset("networks and exact inverse only")
