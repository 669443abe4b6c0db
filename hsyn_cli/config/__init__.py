"""Frozen dataclasses that describe the networks, the presets and training."""

from hsyn_cli.config.architecture import DINetConfig as DINetConfig
from hsyn_cli.config.architecture import FeatureConfig as FeatureConfig
from hsyn_cli.config.architecture import InputConfig as InputConfig
from hsyn_cli.config.architecture import Level as Level
from hsyn_cli.config.architecture import SNNetConfig as SNNetConfig
from hsyn_cli.config.architecture import Steps as Steps
from hsyn_cli.config.architecture import TissueConfig as TissueConfig
from hsyn_cli.config.architecture import di_net_from_dict as di_net_from_dict
from hsyn_cli.config.architecture import sn_net_from_dict as sn_net_from_dict
from hsyn_cli.config.architecture import to_dict as to_dict
from hsyn_cli.config.training import Stage as Stage
from hsyn_cli.config.training import Training as Training
from hsyn_cli.config.training import training_from_dict as training_from_dict
