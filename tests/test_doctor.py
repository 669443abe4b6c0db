"""`hsyn doctor` finds what was planted, and says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from hsyn_cli.checks import doctor as doctors
from hsyn_cli.checks import machine, trial
from hsyn_cli.checks.doctor import Diagnosis, Finding, doctor
from hsyn_cli.cli import run
from hsyn_cli.devices import total_memory_mb
from hsyn_cli.io import checkpoints, writing

ROOT = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the self-test."""
    monkeypatch.setattr(trial, "trial", lambda: iter(()))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped checkpoints, in use."""
    folder = tmp_path / "weights"
    shutil.copytree(ROOT / "weights", folder)
    monkeypatch.setattr(checkpoints, "folders", lambda: [folder])
    return folder


def wrong(found: Diagnosis) -> dict[str, str]:
    """What is wrong, and the line."""
    assert all(finding.advice for finding in found.wrong)
    return {finding.what: finding.text for finding in found.wrong}


def test_all_is_well_within_five_seconds_on_two_cores() -> None:
    code = "import resource, sys\nfrom hsyn_cli.cli import run\ncode = run(['doctor', '--json'])\n"
    code += "use = resource.getrusage(resource.RUSAGE_SELF)\n"
    code += "print(use.ru_utime + use.ru_stime, file=sys.stderr)\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    plain = json.loads(done.stdout)
    if done.returncode:  # this machine is short of something else
        assert {one["what"] for one in plain["findings"] if not one["ok"]} <= {"memory"}
    assert float(done.stderr.splitlines()[-1]) < 5  # CPU seconds
    names = {one["what"] for one in plain["findings"]}
    assert {"weights brain-t1", "weights lung-ct", "self-test", "libraries", "memory"} <= names
    assert plain["versions"]["torch"] != "missing"
    assert plain["machine"]["cores_usable"] >= 1


def plant_wrong_hash(folder: Path) -> str:
    path = folder / "lung-ct.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "the file has a wrong SHA-256"


def plant_missing(folder: Path) -> str:
    (folder / "lung-ct.safetensors").unlink()
    return "the file is missing"


def plant_unlisted(folder: Path) -> str:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["lung-ct"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return "no manifest lists the checkpoint"


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("plant", [plant_wrong_hash, plant_missing, plant_unlisted])
def test_weights(plant: Any, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = plant(weights)
    found = wrong(doctor())
    assert found.keys() == {"weights lung-ct"}
    assert found["weights lung-ct"].startswith(text)
    assert run(["doctor", "--quiet"]) == 12
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first == "error: one check of hsyn doctor failed"
    assert second.startswith(f"  weights lung-ct: {text}")
    assert "install hsyn again" in second


@pytest.mark.usefixtures("no_trial", "weights")
def test_a_damaged_manifest(weights: Path) -> None:
    (weights / "manifest.json").write_text("{")
    assert "is damaged" in wrong(doctor())["weights"]


@pytest.mark.usefixtures("no_trial")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setenv("TMPDIR", str(full))

    def usage(place: Path) -> Usage:
        return Usage(10**11, 0, 5 * 10**6 if Path(place) == full else 10**11)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert wrong(doctor()) == {"temporary folder": "its disk is full: 5 MB are free"}


def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_image", refuse)
    assert "No space left on device" in wrong(doctor())["self-test"]


@pytest.mark.usefixtures("no_trial")
def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_mb", lambda: 900.0)
    found = wrong(doctor())
    assert found == {"memory": "900 MB are free; a pair of 1 mm brains needs 1.8 GB"}


def test_a_broken_library(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch is gone')\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "hsyn_cli", "doctor"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12
    assert "WRONG libraries: ImportError: libtorch is gone" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_self_test_is_right_and_finds_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    from hsyn_cli.method import register as module

    assert list(trial.trial()) == []
    result = module.register(
        trial.phantom(trial.SHIFT)[0], trial.phantom(0.0)[0], weights="none", affine="rigid",
        threads=1,
    )  # fmt: skip

    def lines(**faults: Any) -> str:
        from dataclasses import replace

        monkeypatch.setattr(module, "register", lambda *_, **__: replace(result, **faults))
        return " ".join(trial.trial())

    assert lines() == ""
    nothing = sitk.Image(result.forward_field.GetSize(), sitk.sitkVectorFloat32, 3)
    nothing.CopyInformation(result.forward_field)
    assert "have a Dice of" in lines(forward_field=nothing)
    assert "do not lead back" in lines(inverse_field=nothing)
    assert "is not the inverse field" in lines(inverse_field=nothing)
    original = writing.write_image

    def shifted(image: sitk.Image, path: Path) -> None:
        scalar = image.GetNumberOfComponentsPerPixel() == 1
        original(image + 1 if scalar else image, path)

    monkeypatch.setattr(writing, "write_image", shifted)
    assert lines() == "image.nrrd is not read as it was written"


def test_networks_that_give_no_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from hsyn_cli.method import networks

    original = networks.load_networks

    def spoilt(*arguments: Any) -> Any:
        found = original(*arguments)
        for value in found.sn.parameters():
            value.fill_(float("nan"))
        return found

    monkeypatch.setattr(networks, "load_networks", spoilt)
    assert trial.networks("brain-t1") == "its networks give no numbers"


def test_names_of_users_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/data/people/anna")
    for text, kept in (
        ("/data/people/anna/x.nii", "~/x.nii"),
        ("file /home/bert/venv/lib is gone", "file ~/venv/lib is gone"),
        ("/root/venv: no", "~/venv: no"),
        (r"C:\Users\cora\x", r"~\x"),
        ("/usr/lib/x, /rooted/y", "/usr/lib/x, /rooted/y"),
    ):
        assert machine.private(text) == kept


def test_the_text_pastes_well() -> None:
    findings = (
        Finding("weights", "word " * 40, "do this " * 20),
        Finding("disk", "80 GB free"),
    )
    found = Diagnosis(machine.versions(), machine.machine(), findings, 1.0)
    text = found.text()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert "  ok    disk: 80 GB free" in text.splitlines()
    assert json.loads(found.to_json())["ok"] is False


def test_versions_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LIBRARIES", ("numpy", "nothing-like-this"))
    versions = machine.versions()
    assert versions["nothing-like-this"] == "missing"
    (found,) = doctors._missing(versions)
    assert found.advice == "pip install nothing-like-this"


def test_total_memory_by_system_and_cgroup(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    assert total_memory_mb(tmp_path) == pytest.approx(2.048)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/a\n")
    group = tmp_path / "sys" / "fs" / "cgroup" / "a"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("400000\n")
    assert total_memory_mb(tmp_path) == 1
    assert total_memory_mb(tmp_path / "nowhere") is None
