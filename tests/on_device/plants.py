"""Device mistakes, planted in functions of hsyn by an exchange of their text."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import pytest


@dataclass(frozen=True)
class Plant:
    """`name` of a function in a module of hsyn; its text `right`, and what a mistake makes of it.

    `check`: the name of the check that must find it.
    """

    kind: str
    module: str
    name: str
    right: str
    wrong: str
    check: str

    def set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exchange the code of the function, for all who have imported it."""
        function: Any = importlib.import_module(f"hsyn_cli.{self.module}")
        for part in self.name.split("."):
            function = getattr(function, part)
        function = plain(function)
        text = text_of(function)
        assert text.count(self.right) == 1, f"the plant in {self.name} does not fit any more"
        code = compiled(function, text.replace(self.right, self.wrong))
        monkeypatch.setattr(function, "__code__", code)


def plain(function: Any) -> Any:
    """What a decorator or a class method wraps."""
    return inspect.unwrap(getattr(function, "__func__", function))


def text_of(function: FunctionType) -> str:
    return textwrap.dedent(inspect.getsource(function))


def compiled(function: FunctionType, text: str) -> CodeType:
    """The code of another text of a function."""
    flag, made = __future__.annotations.compiler_flag, dict[str, Any]()
    code = compile(text, inspect.getfile(function), "exec", flag)
    exec(code, dict(function.__globals__), made)  # noqa: S102
    found: CodeType = plain(made[function.__name__]).__code__
    return found


PLANTS = (
    Plant(
        ".cpu()", "method.where", "Where.weight",
        "return of_moving * of_fixed", "return (of_moving * of_fixed).cpu()", "refinement",
    ),
    Plant(
        "a missing .to", "tools.invert_start", "coarse_answer",
        "torch.from_numpy(spacing).float().to(u.device)", "torch.from_numpy(spacing).float()",
        "inverse",
    ),
    Plant(
        "a fresh tensor without device", "method.forces", "_slope",
        ", device=image.device)", ")", "forces",
    ),
    Plant(
        "a detour through numpy", "fields.repair", "faded",
        "u = u.clone()", "u = torch.from_numpy(u.numpy().copy()).to(u.device)", "repair",
    ),
    Plant(
        "an index of the host in arithmetic", "fields.repair", "_distinct",
        ", device=voxels.device)", ")", "repair",
    ),
    Plant(
        "a generator of the other device", "training.pairs", "Draws.noise",
        "self.large", "self.small", "training",
    ),
    Plant(
        "a module left on the CPU", "method.networks", "load_networks",
        ".requires_grad_(False).to(device)", ".requires_grad_(False)", "networks",
    ),
    Plant(
        "a cached buffer of another device", "fields.smoothing", "box_operator",
        "like.device", 'torch.device("cpu")', "forces",
    ),
    Plant(
        "a tensor of one number that has an axis", "fields.inverse", "fixed_point_inverse",
        "> tolerance)", "> torch.tensor([tolerance]))", "inverse",
    ),
    Plant(
        "a mixed where", "training.loop", "step",
        "parameter.grad, 0.0)", "parameter.grad, torch.zeros(parameter.shape))", "training",
    ),
    Plant(
        "a mixed cat", "method.di_net", "DINet.forward",
        "(warped, v + warped)", "(warped.cpu(), v + warped)", "networks",
    ),
    Plant(
        "a mixed stack", "fields.sampling", "sampling_grid",
        "torch.stack((x, y, z), dim=-1)", "torch.stack((x, y, z.cpu()), dim=-1)", "resampling",
    ),
    Plant(
        "a range of the host, compared", "training.objective", "pair_loss",
        ", device=sparse.device)", ")", "training",
    ),
    Plant(
        "a result written to the host", "fields.folding", "determinants",
        "torch.empty_like(u[:, 0])", "torch.empty(u[:, 0].shape)", "fast",
    ),
)  # fmt: skip
