"""The command line as a whole: help, version, what is imported, exit codes, the error line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import SimpleITK as sitk

from hsyn_cli import __version__, cli, errors
from hsyn_cli.cli import run
from hsyn_cli.io import checkpoints as weights

HEAVY = ("torch", "SimpleITK", "numpy", "rich", "safetensors")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["register", "--help"],
        ["report", "--help"],
        ["weights", "--help"],
        ["guide"],
        ["register"],
    ],
)
def test_nothing_heavy_is_imported_for_help(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom hsyn_cli.cli import run\nrun(sys.argv[1:])\n"
        f"print('\\nHEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"hsyn {__version__}\n"


def test_register_help_lists_every_option_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["register", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\w[\w ]+):$", text, flags=re.MULTILINE) == [
        "Input",
        "Output",
        "Method",
        "Machine and messages",
        "Other",
    ]
    for name in (
        *(
            "--moving",
            "--fixed",
            "--out",
            "--moving-labels",
            "--fixed-mask",
            "--moving-mask",
            "--initial-transform",
        ),
        *(
            "--no-affine",
            "--rigid",
            "--preset",
            "--model",
            "--ants-prefix",
            "--save-midspace",
            "--max-folding",
        ),
        *("--device", "--threads", "--seed", "--force", "--quiet", "--json"),
    ):
        assert re.search(rf"^  (-\w, )?{name}\b", text, flags=re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 80


def test_every_option_has_help() -> None:
    def walk(command: click.Command) -> None:
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Argument):  # told in the command's own text
                assert str(parameter.human_readable_name).strip("[]") in command.help, (
                    command.name,
                    parameter.name,
                )
                continue
            assert isinstance(parameter, click.Option)
            assert parameter.help, (command.name, parameter.name)
        if isinstance(command, click.Group):
            for child in command.commands.values():
                walk(child)

    walk(cli.cli)


@pytest.mark.parametrize(
    "arguments",
    [
        ["regster"],
        ["register", "-m", "a.nii"],
        ["register", "-m", "a", "-f", "b", "-o", "c", "--preset", "slow"],
        ["register", "-m", "a", "-f", "b", "-o", "c", "--device", "tpu"],
        ["register", "-m", "a", "-f", "b", "-o", "c", "--threads", "0"],
        ["register", "-m", "a", "-f", "b", "-o", "c", "--max-folding", "101"],
        ["register", "-m", "a", "-f", "b", "-o", "c", "--no-affine", "--rigid"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"^error: ", captured.err, flags=re.MULTILINE | re.IGNORECASE)


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def available() -> None:
        raise error

    monkeypatch.setattr(weights, "available", available)


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (errors.InputError("a\n\tb", "do\x1bc"), 3, [r"error: a\n\tb", r"hint: do\x1bc"]),
        (errors.FoldingError("too much"), 9, ["error: too much"]),
        (errors.Terminated("stopped"), 143, ["error: stopped"]),
        (KeyboardInterrupt(), 130, ["error: interrupted; nothing was written"]),
        (MemoryError(), 8, ["error: out of memory", None]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            8,
            ["error: out of memory", None],
        ),
        (
            RuntimeError("ITK: Failed to allocate memory for image."),
            8,
            ["error: out of memory", None],
        ),
        (
            RuntimeError("CUDA out of memory. Tried"),
            8,
            ["error: the GPU is out of memory", "--device cpu"],
        ),
    ],
)
def test_errors_become_a_line_a_hint_and_a_code(
    error: BaseException,
    code: int,
    lines: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error, monkeypatch)
    assert run(["weights", "list"]) == code
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if line]
    assert captured.out == ""
    assert len(told) == len(lines)
    for line, expected in zip(told, lines, strict=True):
        assert (expected or "hint: try --preset fast") in line


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(RuntimeError("index out of range"), monkeypatch)
    with pytest.raises(RuntimeError, match="out of range"):
        run(["weights", "list"])


def test_weights_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path = tmp_path / "tiny.safetensors"
    weights.save(path, {"a": torch.zeros(1200)}, {})
    weights.publish(path, training_data="48 brains", licence="CC0", scores={"Dice, fast": 0.61})
    monkeypatch.setattr(weights, "folders", lambda: [tmp_path])
    assert run(["weights", "list"]) == 0
    table = capsys.readouterr().out
    for part in ("tiny", "1,200", "48 brains", "CC0", "Dice, fast: 0.61"):
        assert part in table
    assert run(["weights", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["parameters"], row["present"]) == ("tiny", 1200, True)
    assert row["sha256"] == weights.load("tiny").sha256
    path.unlink()
    assert run(["weights", "list"]) == 0
    assert "file missing" in capsys.readouterr().out


def test_weights_list_without_any(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "folders", list)
    assert run(["weights", "list"]) == 0
    assert capsys.readouterr().out == "no checkpoint is installed\n"


def test_field_commands_print_one_kind_of_json_and_warn_of_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import nibabel as nib

    monkeypatch.chdir(tmp_path)
    field = sitk.GetImageFromArray(np.full((6, 6, 6, 3), 0.5, np.float32), isVector=True)
    sitk.WriteImage(field, "plain.nii.gz")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.arange(216, dtype=np.float32).reshape(6, 6, 6)), "fixed.nii.gz"
    )
    file = nib.load("plain.nii.gz")
    file.set_sform(file.affine, code=1, update_affine=False)
    file.set_qform(file.affine + 7 * np.eye(4)[:, :1] * np.eye(4)[3], code=1, update_affine=False)
    nib.save(file, "odd.nii.gz")
    for name in ("plain", "odd"):
        for words in (
            ["invert", f"{name}.nii.gz", "-o", f"{name}-i.nii.gz"],
            ["jacobian", f"{name}.nii.gz", "-o", f"{name}-j.nii.gz"],
            ["convert", f"{name}.nii.gz", f"{name}.nrrd"],
            ["compose", "-t", f"{name}.nii.gz", "-o", f"{name}-c.nii.gz"],
            ["evaluate", "--forward", f"{name}.nii.gz", "--fixed", f"{name}-j.nii.gz"],
        ):
            if words[0] == "evaluate":
                sitk.WriteImage(sitk.ReadImage("fixed.nii.gz"), f"{name}-j.nii.gz")
            assert cli.run([*words, "--json"]) == 0, words
            told = json.loads(capfd.readouterr().out)
            assert told["schema_version"] == 1
            assert "torch" in told["versions"]
            assert any("disagree" in line for line in told["warnings"]) == (name == "odd"), words
    assert cli.run(["convert", "plain.nii.gz", "plain.npz"]) == 0
    assert "give --moving" in capfd.readouterr().err
