"""What someone adds in one file each: a preset, an organ, a similarity, a command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import balls, picture, save_checkpoint, tiny_networks

from hsyn_cli import plugins, register
from hsyn_cli.anatomy import organs
from hsyn_cli.cli import run
from hsyn_cli.config import SNNetConfig, Training, presets
from hsyn_cli.errors import UsageError
from hsyn_cli.method import similarity
from hsyn_cli.method.forces import PLAIN, forces
from hsyn_cli.method.sn_net import SNNet
from hsyn_cli.space import Grid
from hsyn_cli.training.pairs import PairSource
from hsyn_cli.training.runs import training_of

SPACING = 2.0
GRID = Grid((40, 48, 36), (2.0, 2.0, 2.0), (-40.0, -50.0, -30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
PRESET = '''
"""A step on coarse images and nothing more."""

from hsyn_cli.config.architecture import Steps
from hsyn_cli.config.presets import Preset, RefineStage

PRESET = Preset("one coarse step", coarser_than=2, refinement=(RefineStage(2, Steps(1)),))
'''
ORGAN = '''
"""Whatever is bright."""

from hsyn_cli.anatomy.organs import Look, Organ


class Lamp(Organ):
    kinds = ("lamp",)
    outside = 7.0

    def recognise(self, image, grey):
        return Look("lamp", grey) if grey.high > 5000 else None


ORGAN = Lamp()
'''
SIMILARITY = '''
"""The negative absolute difference."""

from hsyn_cli.method.similarity import Similarity, Term


class Absolute(Similarity):
    label = "negative mean absolute difference"

    def value(self, a, b, window, weight=None):
        off = -(a - b).abs()
        return off.mean() if weight is None else (off * weight).sum() / weight.sum().clamp_min(1)

    def terms(self, a, b, window, epsilon):
        yield Term(a, None, (b - a).sign()), Term(b, None, (a - b).sign())


SIMILARITY = Absolute()
'''
COMMAND = '''
"""`hsyn toy`: says what it was given."""

import click

from hsyn_cli.cli.options import GroupedCommand, quiet_option
from hsyn_cli.errors import InputError


@click.command(cls=GroupedCommand, short_help="Say a word.")
@click.argument("word")
@quiet_option
def toy(word, quiet):
    """Say WORD."""
    if word == "no":
        raise InputError("that is no word", "say another")
    click.echo(f"toy says {word}")


COMMAND = toy
'''
Add = Callable[[ModuleType, str], Path]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Writes toy.py into a folder that belongs to a package as long as the test runs."""
    folder, packages = tmp_path / "plugins", []
    folder.mkdir()

    def write(package: ModuleType, text: str) -> Path:
        (folder / "toy.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        packages.append(package)
        return folder

    yield write
    for package in packages:
        sys.modules.pop(f"{package.__name__}.toy", None)
        vars(package).pop("toy", None)


def cloud() -> sitk.Image:
    """A smooth picture of 0 to 100 that fades to 0 at the border."""
    size = GRID.size[::-1]
    fades = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in size)
    fade = np.prod(np.meshgrid(*fades, indexing="ij"), axis=0)
    values = 100 * picture(size, 3)[0, 0].numpy() * fade
    return GRID.stamp(sitk.GetImageFromArray(values.astype(np.float32)))


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    """A moving image, which ends 8 mm short of the fixed one along x, and the fixed image."""
    fixed = cloud()
    moving = sitk.Resample(fixed, fixed, sitk.TranslationTransform(3, (2.0, -1.0, 1.0)))
    return moving[:-4, :, :], fixed


def checkpoint(folder: Path, **changes: str) -> Path:
    """A tiny checkpoint whose SN-Net's config has `changes`."""
    sn, di = tiny_networks(SPACING, flow=1.0)
    changed = SNNet(dataclasses.replace(sn.config, **changes))  # type: ignore[arg-type]
    changed.load_state_dict(sn.state_dict())
    return save_checkpoint(folder / "tiny.safetensors", changed, di)


def program(arguments: list[str], package: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`hsyn` in a process of its own, where `folder` belongs to `package`."""
    prelude = (
        "import importlib, sys\n"
        "importlib.import_module(sys.argv[1]).__path__.append(sys.argv[2])\n"
        "import hsyn_cli.cli\n"
        "importlib.reload(hsyn_cli.cli)\n"  # importing a package of its imported it, too
        "sys.exit(hsyn_cli.cli.run(sys.argv[3:]))\n"
    )
    words = [sys.executable, "-c", prelude, package, str(folder), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_preset_is_listed_and_found(add: Add) -> None:
    folder = add(presets, PRESET)
    assert presets.names() == ["fast", "toy", "default", "accurate"]  # by their work
    assert presets.find("toy").about == "one coarse step"
    assert presets.find("toy", "lung") is presets.find("toy")
    done = program(["register", "--help"], presets.__name__, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "toy: one coarse step;" in " ".join(done.stdout.split())
    done = program(
        ["register", "-m", "a", "-f", "b", "-o", "c", "--preset", "toi"], presets.__name__, folder
    )
    assert done.returncode == 2
    assert "'toy'" in done.stderr


def test_a_preset_runs(add: Add, tmp_path: Path, pair: tuple[sitk.Image, sitk.Image]) -> None:
    add(presets, PRESET)
    steps = []
    result = register(
        *pair, preset="toy", weights=str(checkpoint(tmp_path)), affine="none", threads=1,
        progress=lambda step, fraction: steps.append(step),
    )  # fmt: skip
    assert result.facts.preset == "toy"
    assert "refinement" in steps
    with pytest.raises(UsageError, match="unknown preset 'toi'"):
        register(*pair, preset="toi")


def bright() -> sitk.Image:
    """35 litres that are too bright for anything else; too many for a brain."""
    values = np.random.default_rng(0).uniform(3000, 9000, GRID.size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((8.0, 8.0, 8.0))
    return image


def test_an_organ_is_recognised(add: Add) -> None:
    assert organs.look(bright()).kind == organs.OTHER
    add(organs, ORGAN)
    assert organs.names() == ["brain", "lung", "none", "toy"]
    assert organs.look(bright()).kind == "lamp"
    assert organs.look(cloud()).kind != "lamp"
    shown = {"moving": "lamp", "fixed": "lamp"}
    assert organs.checkpoint_for("auto", shown) == "none"
    assert organs.checkpoint_for("toy", {}) == "none"
    assert "toy" not in organs.shipped()
    (warning, _) = organs.warnings("brain-t1", shown)
    assert warning == "the moving image looks like a lamp, which brain-t1 was not trained for"


def test_an_organ_that_a_checkpoint_names_is_used(
    add: Add, tmp_path: Path, pair: tuple[sitk.Image, sitk.Image]
) -> None:
    add(organs, ORGAN)
    path = checkpoint(tmp_path, organ="toy")
    result = register(*pair, preset="fast", weights=str(path), affine="none", threads=1)
    assert result.outside == 7.0
    assert (sitk.GetArrayFromImage(result.warped)[:, :, -1] == 7.0).all()  # where moving ends
    plain = register(
        *pair, preset="fast", weights=str(checkpoint(tmp_path)), affine="none", threads=1
    )
    assert (sitk.GetArrayFromImage(plain.warped)[:, :, -1] == 0.0).all()


def test_an_organ_that_does_not_breathe_is_not_made_to(add: Add) -> None:
    add(organs, ORGAN)
    with pytest.raises(ValueError, match='breathing is for "organ": "lung" in sn_net'):
        training_of({"sn_net": {"organ": "toy"}, "breathing": 0.5})
    training = training_of({"sn_net": {"organ": "toy"}})
    assert training.sn_net.organ == "toy"
    source = PairSource(balls((20, 24, 16)), training, torch.device("cpu"))
    pairs = [source.draw(1, k) for k in range(6)]
    assert all(pair.truth is None and pair.maps is None for pair in pairs)
    assert source.organ.outside == 7.0
    assert isinstance(training, Training)


def test_a_similarity_makes_the_forces(add: Add) -> None:
    add(similarity, SIMILARITY)
    assert similarity.names() == ["mind", "ncc", "ssd", "toy"]
    slope = 0.05
    a = (slope * torch.arange(12.0)).expand(1, 1, 8, 10, 12).contiguous()
    of_a, of_b = forces(a, a + 0.3, 5, SNNetConfig(similarity="toy").similarity)
    inner = (0, slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    expected = slope / (slope**2 + 1 + PLAIN.damping)
    for found, sign in ((of_a, 1), (of_b, -1)):
        x, y, z = found[inner]
        torch.testing.assert_close(x, torch.full_like(x, sign * expected))
        assert not y.any()
        assert not z.any()


def test_a_similarity_that_a_checkpoint_names_is_reported(
    add: Add,
    tmp_path: Path,
    pair: tuple[sitk.Image, sitk.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(similarity, SIMILARITY)
    path = checkpoint(tmp_path, similarity="toy")
    for name, image in zip("mf", pair, strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    images = ["-m", str(tmp_path / "m.nii.gz"), "-f", str(tmp_path / "f.nii.gz")]
    where = ["-o", str(tmp_path / "out"), "--no-html", "--threads", "1"]
    how = ["--model", str(path), "--no-affine", "--preset", "fast"]
    assert run(["register", *images, *where, *how]) == 0
    label = "negative mean absolute difference"
    assert label in " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "out" / "report.json").read_text())["similarity"]
    assert told["measure"] == label
    assert all(-1 < told[when] < 0 for when in ("before", "affine", "after"))


def test_a_command_is_listed_and_runs(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(COMMAND)
    package = "hsyn_cli.cli.commands"
    done = program(["--help"], package, tmp_path)
    assert "toy          Say a word." in done.stdout
    done = program(["toy", "hello"], package, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "toy says hello\n", "")
    done = program(["toy", "no"], package, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == ["error: that is no word", "hint: say another"]
    assert "--quiet" in program(["toy", "--help"], package, tmp_path).stdout


def test_names_are_listed_without_importing_and_private_ones_are_not(tmp_path: Path) -> None:
    package = ModuleType("toys")
    package.__path__ = [str(tmp_path)]
    for name in ("b", "a", "_private"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    sys.modules["toys"] = package
    try:
        assert plugins.names("toys") == ["a", "b"]
        with pytest.raises(KeyError, match="c"):
            plugins.load("toys", "c")
    finally:
        del sys.modules["toys"]
