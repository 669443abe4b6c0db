"""The GPU-day kit: packed here, and run to its end where only torch and numpy are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import save_checkpoint, tiny_networks

from hsyn_cli import cli, config
from hsyn_cli.fields.smoothing import BLOCK, banded
from hsyn_cli.method import steps
from hsyn_cli.method.carried import dices, load_pair, register_carried
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.working import Method

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ABSENT = ("SimpleITK", "nibabel", "scipy", "click", "rich", "platformdirs", "h5py", "isal")
ABSENT += ("matplotlib",)
VOXEL = 4.0
TRAINED = config.Training(
    sn_net=tiny_networks(VOXEL)[0].config, di_net=tiny_networks(VOXEL)[1].config,
    stages=(config.Stage(0, 1, 30, 1e-3), config.Stage(1, 2, 20, 1e-3)), di_steps=10,
    size=(40, 40, 40), log_every=2, validate_every=10,
)  # fmt: skip


def phantom(seed: int) -> tuple[sitk.Image, sitk.Image]:
    """An ellipsoid with structure in the contrast of T1, and its label map."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    a = 5 + 0.2 * seed
    radius = np.sqrt((x / 0.7) ** 2 + (y / (0.75 + 0.02 * seed)) ** 2 + (z / 0.7) ** 2)
    values = 130 - 50 * radius + 20 * np.sin(a * x) * np.cos(a * y) + 10 * np.sin(a * z)
    inside = radius < 1
    image = sitk.GetImageFromArray(np.where(inside, values, 0).astype(np.float32))
    labels = sitk.GetImageFromArray((np.digitize(-radius, [-1, -0.6, -0.3])).astype(np.uint8))
    for part in (image, labels):
        part.SetSpacing((VOXEL,) * 3)
    return image, labels


@dataclass(frozen=True)
class Kit:
    """Where everything lies. `parts`: what was packed."""

    folder: Path
    parts: Path

    def arguments(self, carried: Path, *more: str) -> list[str]:
        return [
            sys.executable, str(EXAMPLES / "gpu_day.py"), str(carried), str(self.folder / "day"),
            "--device", "cpu", "--threads", "1", "--repeats", "1", "--config",
            str(self.folder / "tiny.json"), "--out", str(self.folder / "out"), *more,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """One without the packages that are absent."""
        bare = self.folder / "bare"
        bare.mkdir(exist_ok=True)
        for name in ABSENT:
            (bare / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (bare, ROOT)))}

    def run(self, *more: str, carried: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = self.arguments(carried or self.parts, *more)
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def kill_after(self, word: str, *more: str) -> None:
        """Run, and kill it once a line begins with `word`."""
        command = self.arguments(self.parts, *more)
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(word):
                    break
            process.kill()

    @property
    def units(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads(
            (self.folder / "day" / "results.json").read_text()
        )["units"]
        return found


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A pair and a training cache, packed."""
    folder = tmp_path_factory.mktemp("kit")
    scans = folder / "scans"
    scans.mkdir()
    for k in range(4):
        image, labels = phantom(k)
        sitk.WriteImage(image, str(scans / f"{k}.nii.gz"))
        sitk.WriteImage(labels, str(folder / f"{k}_labels.nii.gz"))
    paths = [folder / f"scans/{k}.nii.gz" for k in (0, 1)]
    paths += [folder / f"{k}_labels.nii.gz" for k in (0, 1)]
    names = "moving,fixed,moving_labels,fixed_labels"
    (folder / "pairs.csv").write_text(f"{names}\n{','.join(map(str, paths))}\n")
    (folder / "tiny.json").write_text(json.dumps(config.to_dict(TRAINED)))
    save_checkpoint(folder / "shipped.safetensors", *tiny_networks(VOXEL, flow=1.0))
    program = "import sys, gpu_pack; gpu_pack.PART = 60_000; gpu_pack.main()"
    command = [
        sys.executable, "-c", program, str(folder / "pack"), "--pairs", str(folder / "pairs.csv"),
        "--model", str(folder / "shipped.safetensors"), "--data", str(scans), "--config",
        str(folder / "tiny.json"), "--threads", "1",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (EXAMPLES, ROOT)))}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Kit(folder, folder / "pack" / "parts")


@pytest.mark.slow
def test_the_day_from_parts_to_a_checkpoint(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    """In several calls, of which two are killed."""
    parts = sorted(kit.parts.glob("part-*"))
    assert len(parts) > 1
    first = kit.folder / "first"
    first.mkdir()
    for path in (parts[0], kit.parts / "parts.json"):
        shutil.copy(path, first / path.name)
    begun = kit.run(carried=first)
    assert (begun.returncode, parts[1].name in begun.stdout) == (3, True), begun.stderr

    kit.kill_after("parity/default")
    assert list(kit.units) == ["parity/default/pair-01"]
    before = kit.units["parity/default/pair-01"]
    kit.kill_after("pace/tiny", "--steps", "parity,training")
    assert kit.units["parity/default/pair-01"] == before
    assert "training/tiny" not in kit.units
    handed = json.loads((kit.folder / "out" / "results.json").read_text())["units"]
    assert handed["parity/default/pair-01"] == before  # though the call was killed
    assert (kit.folder / "out" / "table.md").is_file()

    rest = kit.run()
    assert rest.returncode == 0, rest.stderr
    assert "parity/default/pair-01:" not in rest.stdout  # not once more
    units = kit.units
    assert units["training/tiny"]["finished"]
    assert {key.split("/")[1] for key in units if key.startswith("evaluation/")} >= {"tiny"}
    again = kit.run()
    assert (again.returncode, kit.units) == (0, units)
    table = (kit.folder / "out" / "table.md").read_text()
    assert "not measured: no CUDA device" in table
    assert "FAIL" not in "".join(line for line in table.splitlines() if "CPU in float32" in line)

    image = str(kit.folder / "scans" / "0.nii.gz")
    files = ["-m", image, "-f", str(kit.folder / "scans" / "1.nii.gz")]
    files += ["-o", str(kit.folder / "registered")]
    model = str(kit.folder / "out" / "tiny.safetensors")
    assert cli.run(["register", *files, "--model", model, "--preset", "fast", "--quiet"]) == 0


@pytest.mark.slow
def test_a_carried_pair_comes_to_what_register_finds(kit: Kit) -> None:
    """Same fields but for grey values in 4095 steps; same Dice as with SimpleITK's warp."""
    model = str(kit.folder / "shipped.safetensors")
    out = kit.folder / "plain"
    scans = [str(kit.folder / "scans" / f"{k}.nii.gz") for k in (0, 1)]
    words = ["register", "-m", scans[0], "-f", scans[1], "-o", str(out), "--model", model]
    assert cli.run([*words, "--preset", "fast", "--quiet"]) == 0
    pair = load_pair(kit.folder / "pack" / "content" / "pair-01.xz", torch.device("cpu"))
    method = Method.of(load_networks(model, torch.device("cpu")), "fast")
    totals, settled = register_carried(pair, method)
    field = sitk.ReadImage(str(out / "forward_field.nii.gz"), sitk.sitkVectorFloat64)
    written = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)
    apart = np.linalg.norm(totals.forward[0].numpy() - written, axis=0)
    assert apart[pair.contents[0]].mean() < 0.05
    assert settled.errors[0].mean_mm < 0.1
    moving, fixed = (
        sitk.ReadImage(str(kit.folder / f"{k}_labels.nii.gz"), sitk.sitkUInt8) for k in (0, 1)
    )
    way = sitk.DisplacementFieldTransform(field)
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, way, sitk.sitkNearestNeighbor, 0))
    truth = sitk.GetArrayFromImage(fixed)
    for label, value in dices(pair, totals).items():
        a, b = warped == label, truth == label
        assert value == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=0.01)


def test_a_whole_slab_pulls_as_its_content_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes whole slabs, so that the host need not wait for where the content lies."""
    pair = torch.zeros(2, 1, 24, 26, 28)
    pair[..., 8:17, 9:18, 10:20] = torch.rand(
        2, 1, 9, 9, 10, generator=torch.Generator().manual_seed(0)
    )
    plain = steps._pulls(pair, 1.0, config.Steps(1), steps.PLAIN, (1.0,), None)
    monkeypatch.setattr(steps, "_content", steps._whole)
    other = steps._pulls(pair, 1.0, config.Steps(1), steps.PLAIN, (1.0,), None)
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert plain[0].abs().max() > 0.01


def test_a_gpu_needs_no_look_at_a_matrix_or_at_an_image() -> None:
    """Tensors without values: a look would raise."""
    elsewhere = torch.device("meta")
    rows = 3 * BLOCK
    ((low, high, matrix),) = banded(torch.eye(rows, device=elsewhere))
    assert (low, high, matrix.shape) == (0, rows, (rows, rows))
    image = torch.empty(1, 1, 160, 192, 160, device=elsewhere)
    assert steps._content(image, image, 0, 160, 3) == (slice(0, 160), slice(0, 192), slice(0, 160))
    assert steps._deep(image) == 32
    assert steps._deep(torch.empty(1, 1, 400, 400, 400, device=elsewhere)) == 7
