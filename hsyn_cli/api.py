"""The verbs of hsyn, each under its name.

`register`, `invert`, `apply_field`, `compose`, `jacobian` and `evaluate` take SimpleITK images or
paths and return typed results. Points are in mm, LPS. A field is a vector image in mm, LPS, that
sends a point p of its grid to p + d(p). The verbs on files, `..._files`, serve the command line:
they check and read the inputs, work, and write all outputs or none.

This module imports a verb on first use only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsyn_cli.checks.doctor import doctor
    from hsyn_cli.checks.files import check_files
    from hsyn_cli.io.checkpoints import available as checkpoints
    from hsyn_cli.io.formats import forms
    from hsyn_cli.method.register import register
    from hsyn_cli.results.pairs import evaluate_files
    from hsyn_cli.results.register_files import register_files
    from hsyn_cli.template.build import template_files
    from hsyn_cli.template.longitudinal import longitudinal_files
    from hsyn_cli.template.plan import plan_files as plan_template
    from hsyn_cli.template.plan import plan_longitudinal
    from hsyn_cli.template.report import report_files
    from hsyn_cli.tools.apply import Settings as ApplySettings
    from hsyn_cli.tools.apply import apply_field
    from hsyn_cli.tools.apply_files import apply_files
    from hsyn_cli.tools.compose import compose, compose_files
    from hsyn_cli.tools.convert import convert_files
    from hsyn_cli.tools.evaluate import evaluate
    from hsyn_cli.tools.invert import invert
    from hsyn_cli.tools.invert_files import invert_files
    from hsyn_cli.tools.jacobian import jacobian, jacobian_files
    from hsyn_cli.training.session import Session as TrainingSession

__all__ = [
    "ApplySettings",
    "TrainingSession",
    "apply_field",
    "apply_files",
    "check_files",
    "checkpoints",
    "compose",
    "compose_files",
    "convert_files",
    "doctor",
    "evaluate",
    "evaluate_files",
    "forms",
    "invert",
    "invert_files",
    "jacobian",
    "jacobian_files",
    "longitudinal_files",
    "plan_longitudinal",
    "plan_template",
    "register",
    "register_files",
    "report_files",
    "template_files",
]

# Verb -> its module, and after a colon its name there if that differs.
PLACES = {
    "ApplySettings": "tools.apply:Settings",
    "TrainingSession": "training.session:Session",
    "apply_field": "tools.apply",
    "apply_files": "tools.apply_files",
    "check_files": "checks.files",
    "checkpoints": "io.checkpoints:available",
    "compose": "tools.compose",
    "compose_files": "tools.compose",
    "convert_files": "tools.convert",
    "doctor": "checks.doctor",
    "evaluate": "tools.evaluate",
    "forms": "io.formats",
    "evaluate_files": "results.pairs",
    "invert": "tools.invert",
    "invert_files": "tools.invert_files",
    "jacobian": "tools.jacobian",
    "jacobian_files": "tools.jacobian",
    "register": "method.register",
    "register_files": "results.register_files",
    "report_files": "template.report",
    "longitudinal_files": "template.longitudinal",
    "plan_longitudinal": "template.plan",
    "plan_template": "template.plan:plan_files",
    "template_files": "template.build",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = PLACES[name].partition(":")
    return getattr(importlib.import_module(f"hsyn_cli.{module}"), attribute or name)
